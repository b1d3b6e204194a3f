"""The tests, in folders of the packages that they are of."""

from pathlib import Path

#: The root of the repository.
ROOT = Path(__file__).parent.parent
