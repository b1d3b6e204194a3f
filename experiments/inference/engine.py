"""What the methods share: the parameters they move, and what they say of numbers that are not finite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from experiments.log_evidence.log_weights import scored, work
from guides.guide import BaseGuide
from zoo.data import Data
from zoo.enumerated import Enumerated, expect
from zoo.errors import ZooError
from zoo.faults import fault, finite_gradient
from zoo.model import Model
from zoo.program import evaluating, seeded
from zoo.tolerance import tolerant

#: Densities that touch fewer numbers per draw than this run on one thread.
ONE_THREAD = 2**16


@dataclass(frozen=True)
class States:
    """The best and the last state of what a fit moves, networks' running statistics included; ``best_step`` is the step after
    which the best was."""

    tensors: tuple[Tensor, ...]
    best: tuple[Tensor, ...]
    last: tuple[Tensor, ...]
    best_step: int

    def use(self, name: str) -> None:
        """Put the ``best`` or the ``last`` state into the model and the guide.

        Raises:
            ZooError: another name.
        """
        if name not in ("best", "last"):
            raise ZooError(f"expected state best or last; got '{name}'; choose one")
        with torch.no_grad():
            for tensor, value in zip(self.tensors, getattr(self, name), strict=True):
                tensor.copy_(value)


@dataclass(frozen=True)
class Iteration:
    """One iteration of EM, all in nats, summed over units.

    ``elbo_before`` ≤ ``elbo_after`` ≤ ``log_evidence``: the E-step makes ``elbo_before`` equal to log p(x | θ_old), the
    M-step raises it, and the new log p(x | θ) lies above by ``gap`` = KL(q_old ‖ new posterior).
    """

    step: int
    elbo_before: float
    elbo_after: float
    log_evidence: float

    @property
    def gap(self) -> float:
        return self.log_evidence - self.elbo_after

    @classmethod
    def of(cls, row: Sequence[float]) -> Iteration:
        """Return the iteration that was written down as ``row``."""
        step, *nats = row
        return cls(int(step), *map(float, nats))


@dataclass(frozen=True)
class Outcome:
    """How a method ended.

    Attributes:
        steps: taken.
        bound: what the method last saw of the bound that it maximised, in nats, summed over units.
        converged: whether the method's own rule was met.
        stopped: why it stopped early, or has not converged; empty where neither is so, or its steps were over.
        states: the best and the last state, where the method kept both.
        remarks: what a reader of the fit should know.
        iterations: of EM.
    """

    steps: int
    bound: float
    converged: bool
    stopped: str = ""
    states: States | None = None
    remarks: tuple[str, ...] = ()
    iterations: tuple[Iteration, ...] = ()


def trainable(model: Model, guide: BaseGuide, train_model: bool) -> list[nn.Parameter]:
    """Return φ, and θ with ``train_model``, as far as they take gradients.

    Raises:
        ZooError: if there is nothing to train.
    """
    found = [p for p in guide.parameters() if p.requires_grad and p.numel()]
    if train_model:
        own = {id(p) for p in found}  # a network may be shared: θ's prior and φ's encoder
        found += [p for p in model.parameters() if p.requires_grad and p.numel() and id(p) not in own]
    if not found:
        raise ZooError(f"expected parameters to fit; got none in '{guide.text}' and {model.label}; evaluate them as they are")
    return found


def moved(model: Model, guide: BaseGuide, train_model: bool) -> list[Tensor]:
    """Return all that a fit moves: parameters, and buffers such as batch normalisation's running statistics."""
    return [*trainable(model, guide, train_model), *guide.buffers(), *(model.buffers() if train_model else ())]


#: Draws at which a start is tried, and the numbers that those whose gradient is taken may touch.
TRIED, DERIVED = 8, 2**24


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
    few = len(z) if enumerated else max(1, min(len(z), DERIVED // work(x, z.shape[1], z.shape[2])))
    z, log_q = z[:few], log_q[:few]
    z = z if z.requires_grad or enumerated else z.detach().requires_grad_()
    leaves: list[Tensor] = [p for p in [*guide.parameters(), *model.parameters()] if p.requires_grad and p.numel()]
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
def threads_for(numbers: int) -> Iterator[None]:
    """Run small densities on one thread, and put torch's setting back after.

    A density that touches few ``numbers`` per draw is made of operations too short to share out: measured on two cores, two
    threads took five to eight times as long as one below 20,000 numbers, and were a quarter faster at 115,000.
    """
    before = torch.get_num_threads()
    if numbers < ONE_THREAD and before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def keep_memory() -> None:
    """Let the C library keep the memory that is freed for what is made next.

    glibc gives blocks larger than any that was freed before, up to 32 MiB, back to the system, and the end of its heap where
    that is twice as large. Each operation on some hundred thousand numbers then begins with pages that the system has to clear:
    measured, up to a quarter of the time of a fit. Once a block of nearly 32 MiB was freed, it keeps what a fit needs. This one
    is not touched, so it takes no memory. Other C libraries, and other devices, take no notice.

    Source: mallopt(3), M_MMAP_THRESHOLD, https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


@contextmanager
def quick_products() -> Iterator[None]:
    """Let float32 matrix products be as quick as the machine makes them, and put torch's setting back after.

    On processors without a narrower type of their own the error is that of float32, in less than half the time; others may
    round the factors to bfloat16 or TF32, as training bears. Evaluation never runs in here.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


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
