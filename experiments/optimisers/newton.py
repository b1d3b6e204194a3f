"""Newton's ascent of one unit's log p(x, z) in z, to a mode that fits may start from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: Steps at most; halvings of a step; and the share of the promised rise that a step has to make.
STEPS, HALVINGS, ENOUGH = 100, 30, 1e-4
#: Nats that a step promises where the mode is near enough to start from.
NEAR = 1e-3
#: Eigenvalues of the curvature, of which the diagonal is scaled to one, are taken to be no less.
LEAST = 1e-8


@dataclass(frozen=True)
class Mode:
    """A local maximum of log p(x, z): ``loc`` (d,), and ``scale`` (d,), the deviation of each coordinate given the others."""

    loc: Tensor
    scale: Tensor


def find_mode(log_joint: Callable[[Tensor], Tensor], z: Tensor) -> Mode | None:
    """Climb from ``z`` (d,) to a mode; ``None`` where no mode is found.

    Each step is Newton's with the eigenvalues of −∇² log p by their size, in coordinates in which the diagonal is one, so that
    no coordinate's unit matters; it is halved until log p rises. No mode: log p has no bound, as where a scale of a hierarchy
    goes to zero, it is flat, or it has no second derivatives.

    Args:
        log_joint: log p(x, z), (draws,), at z (draws, d), with a graph that can be differentiated twice.
        z: where to start.

    Source: Nocedal and Wright (2006), Numerical optimization, section 3.4, https://doi.org/10.1007/978-0-387-40065-5; Dauphin
    et al. (2014), https://arxiv.org/abs/1406.2572

    >>> mode = find_mode(lambda z: -z[:, 0].exp() + z[:, 0] - 2 * (z[:, 1] - 1e3) ** 2, torch.zeros(2, dtype=torch.double))
    >>> mode.loc, mode.scale
    (tensor([   0., 1000.], dtype=torch.float64), tensor([1.0000, 0.5000], dtype=torch.float64))
    """
    for _ in range(STEPS):
        values, gradients, hessians = derivatives(lambda points: log_joint(points[:, 0])[:, None], z[None])
        value, gradient, hessian = float(values), gradients[0], hessians[0]
        if not math.isfinite(value) or not bool(gradient.isfinite().all() and hessian.isfinite().all()):
            return None
        direction = _direction(gradient, hessian)
        promised = 0.5 * float(gradient @ direction)
        if promised < NEAR:
            curvature = -hessian.diagonal()
            return Mode(z, curvature.rsqrt()) if bool((curvature > 0).all()) else None
        longer = _searched(log_joint, z, value, direction, promised)
        if longer is None:
            return None
        z = longer
    return None


def derivatives(log_joint: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log p (units,), its gradient (units, d) and its Hessian (units, d, d) of independent units at z (units, d).

    Args:
        log_joint: log p(x, z), (copies, units), at z (copies, units, d). Copy j is differentiated for row j of each Hessian.
        z: the point.

    >>> value, gradient, hessian = derivatives(lambda z: -z.square().sum(-1), torch.tensor([[1.0, 2.0]]))
    >>> value, gradient, hessian
    (tensor([-5.]), tensor([[-2., -4.]]), tensor([[[-2., -0.],
             [-0., -2.]]]))
    """
    with torch.enable_grad():
        copies = z.detach().expand(z.shape[-1], *z.shape).clone().requires_grad_()
        values = log_joint(copies)
        [slopes] = torch.autograd.grad(values.sum(), [copies], create_graph=True)
        own = slopes.diagonal(dim1=0, dim2=2).sum()  # of copy j the slope in coordinate j, of every unit
        rows = torch.autograd.grad(own, [copies])[0] if own.requires_grad else torch.zeros_like(copies)
    rows = rows.movedim(0, 1)
    return values[0].detach(), slopes[0].detach(), 0.5 * (rows + rows.mT)


def _direction(gradient: Tensor, hessian: Tensor) -> Tensor:
    diagonal = hessian.diagonal().abs()
    scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
    values, vectors = torch.linalg.eigh(-scale[:, None] * hessian * scale)
    along = vectors.mT @ (scale * gradient) / values.abs().clamp(min=LEAST)
    direction: Tensor = scale * (vectors @ along)
    return direction


def _searched(
    log_joint: Callable[[Tensor], Tensor], z: Tensor, value: float, direction: Tensor, promised: float,
) -> Tensor | None:
    """Return where the longest of the halved steps leads that rises enough; ``None`` where none does."""
    length = 1.0
    for _ in range(HALVINGS):
        trial = z + length * direction
        with torch.no_grad():
            if float(log_joint(trial[None])) - value >= ENOUGH * length * promised:
                return trial
        length *= 0.5
    return None
