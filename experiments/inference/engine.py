"""Shared parts of the methods: trainable parameters, checks of a start, and messages of non-finite numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from experiments.inference.method import Problem
from experiments.runtime.memory import PILOT, within, work
from guides.amortisation import Free
from guides.families.family import Normal
from guides.guide import BaseGuide, Guide
from zoo.data import Data
from zoo.distributions.enumerated import Enumerated, expect
from zoo.distributions.scored import scored
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.failures.faults import fault, finite_gradient
from zoo.program.failures.tolerance import tolerant
from zoo.program.run import evaluating, seeded


def trainable(model: Model, guide: BaseGuide, train_model: bool) -> list[nn.Parameter]:
    """Return φ, and θ with ``train_model``, as far as they take gradients.

    Raises:
        ZooError: if there is nothing to train.
    """
    found = _movable(guide)
    if train_model:
        own = {id(p) for p in found}  # a network may be shared: θ's prior and φ's encoder
        found += [p for p in _movable(model) if id(p) not in own]
    if not found:
        raise ZooError(f"expected parameters to fit; got none in '{guide.text}' and {model.label}; evaluate them as they are")
    return found


def _movable(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of ``module`` that take gradients and hold numbers."""
    return [p for p in module.parameters() if p.requires_grad and p.numel()]


def state_tensors(model: Model, guide: BaseGuide, train_model: bool) -> list[Tensor]:
    """Return all that a fit moves: parameters, and buffers such as batch normalisation's running statistics."""
    return [*trainable(model, guide, train_model), *guide.buffers(), *(model.buffers() if train_model else ())]


def normal_misfit(problem: Problem, method: str) -> str:
    """Return why a ``method`` that finds normals of any covariance at a fixed θ can't fit ``problem``; empty where it can."""
    guide = problem.guide
    free = isinstance(guide, Guide) and isinstance(guide.amortisation, Free)
    if not free or not isinstance(guide.family, Normal) or not guide.family.any_covariance:
        return (
            f"expected a guide whose units have a normal of any covariance each for method {method}; got '{guide.text}'; use "
            "full_rank")
    if problem.train_model:
        return (
            f"expected train_model=False with method {method}, which moves φ alone; got a model whose θ moves, too; use method "
            "fixed_draws")
    return ""


def put_normals(guide: BaseGuide, loc: Tensor, scale_tril: Tensor) -> None:
    """Put N(loc, L Lᵀ), of ``loc`` (units, d) and L = ``scale_tril`` (units, d, d), into a guide without a misfit."""
    assert isinstance(guide, Guide), "a misfit otherwise"
    assert isinstance(guide.family, Normal), "a misfit otherwise"
    assert isinstance(guide.amortisation, Free), "a misfit otherwise"
    with torch.no_grad():
        guide.amortisation.put(guide.family.of_normal(loc, scale_tril))


#: Draws at which a start is tried.
TRIED = 8


def check_start(model: Model, guide: BaseGuide, x: Data) -> None:
    """Raise a :class:`ZooError` unless the ELBO and its gradient are finite at draws of the guide as it is.

    It names the site at fault, and the observation. A gradient that is not finite tells a fit nothing of where to go, though
    the density itself be finite.
    """
    with torch.enable_grad():
        q = guide.posterior(x)
        if isinstance(q, Enumerated):  # a value of a finite support that q rules out may be impossible
            z, log_q = q.enumerate_support(), q.logits.movedim(-1, 0)
            counts = log_q > -torch.inf
        else:
            z, log_q = scored(q, TRIED)
            counts = torch.ones_like(log_q, dtype=torch.bool)
        with torch.no_grad():
            [value], reason = tolerant(lambda part: [model.log_joint(x, part)], z, [z.shape[1]])
        kept = ~value.isnan().all(1) if reason else torch.ones_like(value[:, 0], dtype=torch.bool)
        fine = bool(z.isfinite().all()) and bool(kept.any()) and bool((value.isfinite() | ~counts)[kept].all())
        if fine and _finite_slope(model, guide, x, z[kept], log_q[kept], isinstance(q, Enumerated)):
            return
        sound = kept & counts.all(1)
        found = fault(model, x, z[sound] if bool(sound.any()) else z, list(model.parameters())) if z.isfinite().all() else ""
    own = f"non-finite density or gradient of the guide '{guide.text}' itself"
    raise ZooError(
        f"expected a finite ELBO and gradient where the fit starts; got {found or own}; check the data and "
        "the model's scales, or use float64 data")


def _finite_slope(model: Model, guide: BaseGuide, x: Data, z: Tensor, log_q: Tensor, enumerated: bool) -> bool:
    """Return whether the gradient of the ELBO at draws z (draws, units, d) is finite in z, φ and θ."""
    few = len(z) if enumerated else within(PILOT, work(x, z.shape[1], z.shape[2]), most=len(z))
    z, log_q = z[:few], log_q[:few]
    z = z if z.requires_grad or enumerated else z.detach().requires_grad_()
    leaves: list[Tensor] = [*_movable(guide), *_movable(model)]
    leaves += [z] if z.requires_grad else []
    with seeded(0):  # a network that drops units out must not move the fit's own draws
        log_p = model.log_joint(x, z)
    value = expect(log_q.exp(), log_p - log_q).sum() if enumerated else (log_p - log_q).sum()
    return not (value.requires_grad and leaves) or finite_gradient(value, leaves)


def non_finite_site(model: Model, x: Data, z: Tensor) -> str:
    """Return the first site, in the program's order, whose log-probability is not finite at z (draws, units, d)."""
    with torch.no_grad():
        if not bool(z.isfinite().all()):
            return model.latents(x).sites[0].name
        for name, value in model.log_probs(x, z).items():
            if not bool(value.isfinite().all()):
                return name
    return "none: the guide's own log-density"


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Hold a module's parameters fixed, and put their ``requires_grad`` back after."""
    before = [(p, p.requires_grad) for p in module.parameters()]
    for p, _ in before:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p, flag in before:
            p.requires_grad_(flag)


@contextmanager
def held(model: Model) -> Iterator[None]:
    """Hold θ fixed and the model in evaluation mode: one density, whatever its networks drop out while they train."""
    with evaluating(model), frozen(model):
        yield
