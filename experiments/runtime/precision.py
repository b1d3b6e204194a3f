"""Models and data in float64."""

from __future__ import annotations

import copy

from zoo.data import Data, in_double
from zoo.model import Model


def in_float64(model: Model, x: Data) -> tuple[Model, Data]:
    """Return a copy of the model, and the data, in float64: a look where float32 can't tell a rise from rounding.

    A program may refuse it, or make float32 tensors of its own: whoever asks looks at what its density returns.

    >>> import zoo
    >>> x = zoo.dataset("iris").x.float()
    >>> fine, wide = in_float64(zoo.build("ppca", x), x)
    >>> wide.dtype, fine.log_evidence(wide).dtype
    (torch.float64, torch.float64)
    """
    return copy.deepcopy(model).double(), in_double(x)
