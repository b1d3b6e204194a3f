"""The polynomials of a quadratic model, read off its program on a handful of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.structure.quadratic import Frame

if TYPE_CHECKING:
    from zoo.model import Model

#: Columns from which on gradients tell a program's polynomials sooner than densities do. Measured on mixtures of eight: twice
#: as late at four columns, as soon at 18, three times as soon at 32, nine times at 64.
STEEP = 18
#: Numbers that densities may take at once, where each row has a matrix of its own.
MATRICES = 2**20


class Probe:
    """Rows whose densities determine a program's polynomials in the features of ``frame``, at each value of z.

    With few columns, the coefficients follow from differences of the densities at the frame's corners. With many columns, they
    follow from densities and gradients at the frame's ends: if each row has a matrix, densities at the corners take D⁴
    operations, and gradients at the ends take D³. Both ways are exact if the density is a polynomial of degree two, which is
    checked on rows of the data.

    Args:
        frame: the frame of the data.
        support: the values of z, (K, d).
        checked: the rows of the data for the check, (rows, D), float64.
    """

    def __init__(self, frame: Frame, support: Tensor, checked: Tensor):
        self.frame, self.support = frame, support
        self.steep = frame.columns >= STEEP
        self.x = checked if self.steep else torch.cat([frame.corners, checked])
        self.z = support[:, None].expand(-1, len(self.x), -1)
        self.features = frame.features(checked)

    def __call__(self, model: Model) -> tuple[Tensor, Tensor, float]:
        """Return the coefficients of log p(z | θ) and of log p(x | z, θ), each (K, size), and how far their sum is from
        log p(x, z | θ) at the rows checked: the most, relative to 1 + its size. θ is to be float64."""
        most = max(1, MATRICES // (len(self.z) * self.frame.columns**2))
        parts = [model.log_terms(x, z) for x, z in zip(self.x.split(most), self.z.split(most, 1), strict=True)]
        found = torch.stack([torch.cat(terms, 1) for terms in zip(*parts, strict=True)])
        corners = len(self.x) - self.features.shape[1]
        prior, likelihood = self._by_slopes(model, most) if self.steep else self.frame.by_values(found[..., :corners])
        exact = found[..., corners:].sum(0)
        off = ((prior + likelihood) @ self.features - exact).abs() / (1 + exact.abs())
        return prior, likelihood, float(off.nan_to_num(torch.inf).max())

    def _by_slopes(self, model: Model, most: int) -> Tensor:
        """Return the coefficients of both, (2, K, size), from the program's gradients at the frame's ends."""
        parts = [_slopes(model, ends, self.support) for ends in self.frame.ends.split(most)]
        values, slopes = (torch.cat(each, 2) for each in zip(*parts, strict=True))
        return self.frame.by_slopes(values, slopes)


def _slopes(model: Model, ends: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p(z | θ) and log p(x | z, θ) of rows (rows, D) at each value of z, (2, K, rows), and their gradients in x."""
    with torch.enable_grad():
        x = ends.repeat(len(support), 1).requires_grad_()  # a row for each value of z, which has its own gradient
        terms = model.log_terms(x, support.repeat_interleave(len(ends), 0)[None])
        slopes = [
            torch.autograd.grad(each.sum(), x, retain_graph=True, allow_unused=True)[0] if each.requires_grad else None
            for each in terms]
    shape = len(support), len(ends)
    values = torch.stack([each.detach().view(shape) for each in terms])
    return values, torch.stack([torch.zeros_like(x) if each is None else each for each in slopes]).view(2, *shape, -1)
