"""Pathfinder: the best of the normals that L-BFGS passes on its way up log p(x, z), from several starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from experiments.fits.callbacks import Watch
from experiments.fits.result import Outcome
from experiments.inference.engine import check_start, normal_misfit, put_normals, trainable
from experiments.inference.method import Method, Problem
from experiments.inference.options import PathfinderOptions
from experiments.inference.sampling.weighted import Weighted
from experiments.optimisers.each import ascend_each
from experiments.runtime.memory import chunks
from guides.drawn import Drawn
from zoo.data import reference
from zoo.errors import ZooError
from zoo.program.failures.tolerance import tolerant

#: Pairs of steps and changes of the gradient that an inverse Hessian is made of. The paper has 6, for thousands of dimensions;
#: more of them come nearer to covariances that are kept whole, as here: by 1 to 6 nats on regressions of 4 to 31 coefficients.
PAIRS = 24
#: The least share of a change's curvature along its step at which the pair counts.
CURVED = 1e-12
#: Standard deviations of the guide's start by which starts of paths are spread.
SPREAD = 5.0
#: Fresh draws of each path's normal, by which the best is chosen, and the tail of all weights together is told.
DRAWS = 100
#: Draws of all paths' normals together, where draws are asked for.
MANY = 8192
#: Nats that a path rises by no more where it ends.
TOLERANCE = 1e-5


class Pathfinder(Method[PathfinderOptions]):
    """q(z) = N(z | ẑ, Σ), the normal of highest ELBO among those along L-BFGS paths, by the paths' inverse Hessians.

    Each path begins at a draw about the guide's start. At each of its points z, the pairs of steps and changes of the gradient
    make an inverse Hessian Σ, and N(z + Σ ∇ log p, Σ) is a candidate, whose ELBO some draws tell. A path may pass where the
    mass is, and end at a peak that holds none.

    A guide ``draws(full_rank)`` gets draws of all paths' normals, in equal shares, resampled by Pareto-smoothed importance
    weights; its source gets the best normal. k̂ of these draws is among the remarks: above 0.7 the paths' normals miss mass.

    Source: Zhang, Carpenter, Gelman and Vehtari (2022), Pathfinder: parallel quasi-Newton variational inference,
    https://jmlr.org/papers/v23/21-0889.html

    >>> import experiments, zoo
    >>> x = zoo.dataset("eight_schools").x
    >>> done = experiments.fit(zoo.build("eight_schools", x), "full_rank", x, method="pathfinder")
    >>> done.converged, done.steps <= 1000
    (True, True)
    """

    name = "pathfinder"
    climbs = False
    fits_draws = True

    def misfit(self, problem: Problem) -> str:
        if found := normal_misfit(_of_source(problem), self.name):
            return found
        if problem.latents.units > 1:
            return (
                f"expected one unit for method pathfinder; got {problem.latents.units} units with latents of their own; use "
                "method fixed_draws")
        return ""

    def run(self, problem: Problem, options: PathfinderOptions, watch: Watch) -> Outcome:
        whole, problem = problem.guide, _of_source(problem)
        guide, model, x = problem.guide, problem.model, problem.x
        trainable(model, guide, False)  # raises where there is nothing to move
        check_start(model, guide, x)
        density = _Density(problem)
        starts = _starts(guide.posterior(x), options.paths)
        trail = _Trail(density, watch, options.limit, len(starts))
        spent = True
        with suppress(_Spent):
            ascend_each(trail.objective, starts, options.limit, trail.report, TOLERANCE)
            spent = False
        normals = [_best(density, *path, options.elbo_draws) for path in trail.paths if len(path[0]) > 1]
        found = [normal for normal in normals if normal is not None]
        if not found and isinstance(whole, Drawn):
            raise ZooError(
                f"expected a normal of finite ELBO on some path for '{whole.text}'; got none in {trail.evaluations:,} "
                "gradients; raise --steps, or use method nuts")
        if not found:
            return Outcome(trail.evaluations, -math.inf, False, "not converged: no path has a normal of finite ELBO; use svi")
        again = _Again.of(density, found, MANY // len(found) if isinstance(whole, Drawn) else DRAWS)
        best = found[int(again.elbos.argmax())]
        like = reference(x)
        put_normals(guide, best.loc[None].to(like), best.scale_tril[None].to(like))
        bound = float(again.elbos.max())
        stopped = f"{trail.evaluations:,} gradients were taken before all paths ended; raise --steps" if spent else ""
        if isinstance(whole, Drawn):
            again.weighted.put(whole)
            bound, stopped = again.weighted.total, stopped or again.weighted.uneven("the paths' normals")
        told = f"not converged: {stopped}" if stopped else ""
        return Outcome(trail.evaluations, bound, not stopped, told, remarks=(again.told,))


def _of_source(problem: Problem) -> Problem:
    """Return the problem of the normal: for draws that of the guide that they begin from."""
    return replace(problem, guide=problem.guide.source) if isinstance(problem.guide, Drawn) else problem


@dataclass(frozen=True)
class _Normal:
    """A candidate: its mean (d,), its Cholesky factor (d, d) and its ELBO, in nats."""

    loc: Tensor
    scale_tril: Tensor
    elbo: float

    @property
    def distribution(self) -> MultivariateNormal:
        return MultivariateNormal(self.loc, scale_tril=self.scale_tril, validate_args=False)


class _Density:
    """log p(x, z) of the one unit, at points (n, d)."""

    def __init__(self, problem: Problem):
        self.model, self.x, self.each = problem.model, problem.x, problem.work

    def __call__(self, z: Tensor) -> Tensor:
        """Return the log density (n,), −∞ where it can't be evaluated."""
        def joint(part: Tensor) -> list[Tensor]:
            return [self.model.log_joint(self.x, part[:, None].to(reference(self.x)))[:, 0]]

        with torch.no_grad():
            parts = [tolerant(joint, part, [])[0][0] for part in z.split(chunks(len(z), self.each))]
        return torch.cat(parts).double().nan_to_num(nan=-math.inf, posinf=-math.inf)

    def slope(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log density (n,) and its gradient (n, d), float64."""
        with torch.enable_grad():
            at = z.detach().requires_grad_()
            value = self.model.log_joint(self.x, at[:, None].to(reference(self.x)))[:, 0]
            [gradient] = torch.autograd.grad(value.sum(), at)
        return value.detach().double(), gradient


class _Spent(Exception):
    """All evaluations of the gradient that there were are made."""


class _Trail:
    """The points of each path and the gradients there.

    Attributes:
        paths: of each path its points and gradients, in order.
        evaluations: of the gradient so far.
    """

    def __init__(self, density: _Density, watch: Watch, limit: int, count: int):
        self.density, self.watch, self.limit = density, watch, limit
        self.paths: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in range(count)]
        self.evaluations, self.iterations = 0, 0
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def objective(self, points: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log p(x, z) of paths ``index`` (k,) at ``points`` (k, d), twice, and the gradients."""
        if self.evaluations + len(points) > self.limit:
            raise _Spent
        self.evaluations += len(points)
        value, gradient = self.density.slope(points)
        first = not any(path for path, _ in self.paths)
        self._seen.append((index, points.clone(), gradient))
        if first:
            self._keep(points)
        return value, value, gradient

    def report(self, value: float, norm: float, reconstruction: float, points: Tensor) -> None:
        """Keep what an iteration came to."""
        self._keep(points)
        self.iterations += 1
        self.watch.step(self.iterations, value / len(points), gradient_norm=norm)

    def _keep(self, points: Tensor) -> None:
        """Add the points (paths, d) that paths have moved to, with the gradients that were seen there."""
        for path, (kept, gradients) in enumerate(self.paths):
            if kept and torch.equal(kept[-1], points[path]):
                continue
            for index, seen, slope in reversed(self._seen):
                at = (index == path).nonzero()
                if len(at) and torch.equal(seen[at[0, 0]], points[path]):
                    kept.append(points[path].clone())
                    gradients.append(slope[at[0, 0]])
                    break
        self._seen.clear()


def _starts(q: Distribution, paths: int) -> Tensor:
    """Return where paths begin, (paths, d), float64: at the guide's mean, and about it. Uses torch's generator."""
    loc, scale = q.mean.detach().double()[0], q.variance.detach().double()[0].sqrt()
    noise = torch.randn(paths, len(loc), dtype=loc.dtype, device=loc.device)
    noise[0] = 0.0
    return loc + SPREAD * scale * noise


def _best(density: _Density, points: Sequence[Tensor], gradients: Sequence[Tensor], draws: int) -> _Normal | None:
    """Return the normal of highest ELBO along a path; ``None`` where none has a finite one. Uses torch's generator."""
    candidates = list(_normals(points, gradients))
    if not candidates:
        return None
    z = torch.stack([normal.distribution.sample((draws,)) for normal in candidates])  # (candidates, draws, d)
    log_q = torch.stack([normal.distribution.log_prob(each) for normal, each in zip(candidates, z, strict=True)])
    elbos = (density(z.flatten(0, 1)).view(log_q.shape) - log_q).mean(1).nan_to_num(nan=-math.inf, posinf=-math.inf)
    at = int(elbos.argmax())
    return replace(candidates[at], elbo=float(elbos[at])) if math.isfinite(float(elbos[at])) else None


def _normals(points: Sequence[Tensor], gradients: Sequence[Tensor]) -> Iterator[_Normal]:
    """Give a candidate for each point of a path but the first: N(z + Σ ∇ log p, Σ), Σ the path's inverse Hessian there."""
    scale = torch.ones_like(points[0])
    pairs: list[tuple[Tensor, Tensor]] = []
    for before, at, slope, gradient in zip(points, points[1:], gradients, gradients[1:], strict=False):
        step, change = at - before, slope - gradient  # of −log p
        if float(step @ change) > CURVED * float(change @ change):
            scale = _diagonal(scale, step, change)
            pairs = [*pairs, (step, change)][-PAIRS:]
        covariance = torch.diag(scale)
        for step, change in pairs:
            ratio = 1 / (step @ change)
            turn = torch.eye(len(step)).to(step) - ratio * torch.outer(step, change)
            covariance = turn @ covariance @ turn.mT + ratio * torch.outer(step, step)
        scale_tril, failed = torch.linalg.cholesky_ex(0.5 * (covariance + covariance.mT))
        if not int(failed) and bool(scale_tril.isfinite().all()):
            yield _Normal(at + covariance @ gradient, scale_tril, -math.inf)


def _diagonal(scale: Tensor, step: Tensor, change: Tensor) -> Tensor:
    """Return the diagonal (d,) that an inverse Hessian begins from, with one more pair.

    Source: Gilbert and Lemaréchal (1989), Some numerical experiments with variable-storage quasi-Newton algorithms,
    https://doi.org/10.1007/BF01589113
    """
    a, b, c = change @ (scale * change), step @ change, step @ (step / scale)
    return 1 / (a / (b * scale) + change.square() / b - a * step.square() / (b * c * scale.square()))


@dataclass(frozen=True)
class _Again:
    """The paths' normals on fresh draws: the ELBO of the best of many candidates is flattered by those that chose it.

    Attributes:
        log_weight: log p(x, z) − log q(z) at draws of each path's own normal, (paths, draws).
        weighted: these draws of one unit, weighted by p over the mean density of all the normals (the balance heuristic).
    """

    log_weight: Tensor
    weighted: Weighted

    @classmethod
    def of(cls, density: _Density, normals: Sequence[_Normal], draws: int) -> _Again:
        """Draw from the normals. Uses torch's generator."""
        z = torch.cat([normal.distribution.sample((draws,)) for normal in normals])
        log_q = torch.stack([normal.distribution.log_prob(z) for normal in normals])  # of all normals at all draws
        log_p = density(z)
        own = log_q.view(len(normals), len(normals), draws).diagonal(dim1=0, dim2=1).mT
        mixed = log_q.logsumexp(0) - math.log(len(normals))
        return cls(log_p.view(own.shape) - own, Weighted(z[:, None], (log_p - mixed)[:, None]))

    @property
    def elbos(self) -> Tensor:
        """The ELBO of each path's normal, (paths,), in nats."""
        return self.log_weight.mean(1).nan_to_num(nan=-math.inf)

    @property
    def told(self) -> str:
        """How far apart the paths' normals are, and how their draws together would do."""
        khat = float(self.weighted.khat[0])
        low, high = float(self.elbos.min()), float(self.elbos.max())
        count = len(self.log_weight)
        whose = f"normals of {count} paths" if count > 1 else "the normal of one path"
        return f"{whose}: ELBO from {low:.2f} to {high:.2f}, k̂ of all their draws {khat:.2f}"
