"""Log evidence of low-dimensional units by numerical integration."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.log_evidence.estimator import Estimator, Question, Unsettled
from experiments.log_evidence.log_weights import log_joint
from experiments.log_evidence.proposals.modes import Modes, find_modes
from experiments.log_evidence.result import Evidence
from experiments.runtime.memory import QUADRATURE, chunks, work
from zoo.data import Data
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.run import seeded

#: Nodes per dimension, by dimension; and of the grids by which the mean and the covariance of an integrand are found.
NODES, ROUGH = {1: 401, 2: 121}, {1: 101, 2: 41}
#: Grids that an integral takes, about.
GRIDS = 10
#: Half-width of the grid, in posterior standard deviations.
WIDTH = 10.0
#: A quadrature whose grids differ by more than this many nats per unit is not trusted.
MAX_ERROR = 1e-3


class Quadrature(Estimator):
    """The integral over each unit's one or two latents, see :func:`integrate`."""

    def misfit(self, question: Question) -> str:
        model, latents = question.model, question.model.latents(question.x)
        if latents.discrete or latents.size not in NODES:
            return f"expected 1 or 2 continuous latents per unit for quadrature; got {latents.size}; use a bracket"
        parameters = sum(p.numel() for p in model.parameters())
        if NODES[latents.size] ** latents.size * latents.units * (latents.size + parameters) > QUADRATURE:
            return f"expected a density that is cheap for quadrature; got {parameters:,} parameters; use a bracket"
        if question.budget.left < GRIDS * NODES[latents.size] ** latents.size:
            return "expected more effort for quadrature; use a bracket"
        return ""

    def run(self, question: Question) -> Evidence:
        found = integrate(question.model, question.x)
        total, error = float(found.value.sum()), float(found.error.sum())
        if not math.isfinite(total) or error > MAX_ERROR * len(found.value):
            raise Unsettled(f"quadrature of {question.model.label} did not settle ({error:.2g} nats between grids)")
        return Evidence("quadrature", total, 0.0, total - error, total + error, found.value)


@dataclass(frozen=True)
class Integral:
    """log ∫ p(x, z) dz of each unit, and an estimate of its error, both (units,), in nats."""

    value: Tensor
    error: Tensor


def integrate(model: Model, x: Data) -> Integral:
    """Integrate p(x, z | θ) over each unit's unconstrained latents, d ≤ 2, mode by mode, on grids that adapt.

    The modes are looked for first (:func:`experiments.log_evidence.proposals.modes.find_modes`). A smooth partition of unity
    then cuts the integrand into one piece a mode, which loses nothing: the pieces' integrals add up to the whole whatever the
    cuts. Each piece is summed by the trapezoidal rule, which converges faster than any power of the step for smooth integrands
    that die off, on a grid whose centre and axes are the piece's own mean and covariance. The error is the larger difference
    to two other sums: over every second node, and on grids 1.7 times as wide.

    Raises:
        ZooError: d > 2, or discrete latents (they are enumerated).

    Source: Trefethen and Weideman (2014), The exponentially convergent trapezoidal rule, SIAM Review 56,
    https://doi.org/10.1137/130932132
    """
    latents = model.latents(x)
    if latents.discrete or latents.size not in NODES:
        raise ZooError(f"expected 1 or 2 continuous latents per unit; got {latents.size}; use the importance-weighted bound")
    with seeded(0), torch.no_grad():
        modes = find_modes(model, x, NODES[latents.size])
        pieces = [_piece(model, x, modes, k) for k in range(modes.loc.shape[0])]
    value, coarse, wide = (torch.stack(part).logsumexp(0) for part in zip(*pieces, strict=True))
    rounding = torch.finfo(value.dtype).eps * 64 * (1 + value.abs())
    error = torch.maximum((value - coarse).abs(), (value - wide).abs()) + rounding
    cut = wide - value > (value - coarse).abs()  # more than the step of the grid leaves out: tails that lie beyond it
    return Integral(torch.where(cut, wide, value), error)


@dataclass(frozen=True)
class _Grid:
    """A square grid about each unit's ``loc`` (units, d), along its axes ``scale_tril`` (units, d, d).

    Attributes:
        width: half of a side, along these axes.
        count: nodes a side.
    """

    loc: Tensor
    scale_tril: Tensor
    width: float
    count: int

    def nodes(self) -> Tensor:
        """Return the nodes, (nodes, units, d)."""
        size = self.loc.shape[1]
        axis = torch.linspace(-self.width, self.width, self.count, dtype=self.loc.dtype, device=self.loc.device)
        square = torch.cartesian_prod(*[axis] * size).reshape(-1, size)
        return self.loc + torch.einsum("uij,nj->nui", self.scale_tril, square)

    def log_integral(self, log_f: Tensor, stride: int = 1) -> Tensor:
        """Return log ∫ f, (units,), by the trapezoidal rule on every ``stride``-th node of ``log_f`` (nodes, units)."""
        size = self.scale_tril.shape[-1]
        shape = (self.count,) * size
        picked = log_f.reshape(*shape, -1)[(slice(None, None, stride),) * size].flatten(0, size - 1)
        step = stride * 2 * self.width / (self.count - 1)
        log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return picked.logsumexp(0) + size * math.log(step) + log_det


def _piece(model: Model, x: Data, modes: Modes, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return log ∫ p(x, z) w_k(z) dz on the fitted grid, on every second node of it, and on a wider one: (units,) each."""
    loc, scale_tril = _fitted(model, x, modes, k)
    count = NODES[loc.shape[1]]
    near, far = _Grid(loc, scale_tril, WIDTH, count), _Grid(loc, scale_tril, 1.7 * WIDTH, count)
    log_f, log_far = _evaluate(model, x, modes, k, near)[1], _evaluate(model, x, modes, k, far)[1]
    return near.log_integral(log_f), near.log_integral(log_f, 2), far.log_integral(log_far)


def _fitted(model: Model, x: Data, modes: Modes, k: int) -> tuple[Tensor, Tensor]:
    """Return the mean (units, d) of piece k and the Cholesky factor of its covariance (units, d, d), by rough grids."""
    loc, scale_tril, before = modes.loc[k], torch.diag_embed(modes.scale[k]), math.inf
    for _ in range(60):
        nodes, log_f = _evaluate(model, x, modes, k, _Grid(loc, scale_tril, WIDTH, ROUGH[loc.shape[1]]))
        new_loc, new_tril = _moments(nodes, log_f, scale_tril)
        change = max(
            float(((new_loc - loc).abs() / new_tril.diagonal(dim1=-2, dim2=-1)).max()),
            float(((new_tril - scale_tril).abs().amax((-1, -2)) / new_tril.abs().amax((-1, -2))).max()))
        loc, scale_tril = new_loc, new_tril
        if change < 1e-3 or (before <= change < 0.05):  # in float32, rounding of log p may move the grid on for ever
            break
        before = change
    return loc, scale_tril


def _evaluate(model: Model, x: Data, modes: Modes, k: int, grid: _Grid) -> tuple[Tensor, Tensor]:
    """Return the nodes (nodes, units, d) and log p(x, z) + log w_k(z) there (nodes, units)."""
    units, size = grid.loc.shape
    nodes = grid.nodes()
    parts = [log_joint(model, x, part) for part in nodes.split(chunks(len(nodes), work(x, units, size)))]
    log_f = torch.cat(parts).to(nodes.dtype).nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf)
    return nodes, log_f + modes.log_share(nodes, k)


def _moments(nodes: Tensor, log_f: Tensor, scale_tril: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the Cholesky factor of the covariance of the integrand on the nodes.

    The covariance never shrinks below a quarter of the grid's step at once: a grid that is too coarse to see the peak
    must first move onto it.
    """
    total = log_f.logsumexp(0)
    share = torch.where(total.isfinite(), (log_f - total).exp(), 1 / len(log_f))
    loc = torch.einsum("nu,nui->ui", share, nodes)
    centred = nodes - loc
    covariance = torch.einsum("nu,nui,nuj->uij", share, centred, centred)
    step = 0.5 * WIDTH / ROUGH[loc.shape[1]]
    found, failed = torch.linalg.cholesky_ex(covariance + step**2 * scale_tril @ scale_tril.mT)
    return loc, torch.where((failed > 0)[:, None, None], scale_tril, found)  # as of an integrand that nowhere falls off
