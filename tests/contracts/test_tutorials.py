"""The tutorials' code runs, and prints what their text says of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
#: What each page's code prints.
PRINTED = {
    "lda": [r"^-51\d\d\.", r"^class, self, method"],
    "networks": [r"^reconstruction -0\.\d, KL\(q‖prior\) [34]\.\d nats a picture"],
    "hmm": [r"^log p\(x \| θ\) = -1150\.3", r"'full_rank' holds 1", r"^\[1\.8, 54\.0\] 0\.0$", r"^ \[0\.9[0-9] 0\.0[0-9]\]\]$"],
    "hierarchical": [
        r"^full_rank\+mean_field:encoder +-395\d\.", r"^full_rank\+flow:encoder +-389\d\.", r"^log p\(x \| θ\) = -3893\.",
        r"^tensor\(\[0\., 0\., 0\., 0\., 0\.\]"]}


def test_all_pages_are_known() -> None:
    assert {path.stem for path in TUTORIALS.glob("*.md")} == {*PRINTED}


@pytest.mark.long
@pytest.mark.parametrize("page", PRINTED)
def test_its_code_prints_what_it_says(page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (TUTORIALS / f"{page}.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", "\n".join(blocks)], capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for pattern in PRINTED[page]:
        assert re.search(pattern, done.stdout, re.MULTILINE), f"{pattern} in {done.stdout}"
