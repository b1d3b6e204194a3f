"""The result of a fit: the outcome of a method, and the :class:`Fit` that a user gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from guides.guide import BaseGuide
from zoo.errors import ZooError
from zoo.model import Model
from zoo.registry import load

#: What some methods maximise, or walk on, that is no bound on log p(x): its trace has no place beside those of bounds.
LOG_JOINT = "log p(x, z)"


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
    """The outcome of one run of a method: its steps, its bound, and whether it converged.

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


@dataclass(frozen=True, repr=False)
class Fit:
    """A finished fit. ``model`` and ``guide`` hold the parameters it found.

    Attributes:
        method: a key of :data:`METHODS`; ``none`` where there was nothing to fit.
        steps: iterations or gradient steps taken, those of a quick fit of a contained guide left out, as in ``history``.
        seconds: of wall time, the quick fit's included.
        bound: what the optimiser last saw of the bound that it maximised, in nats, summed over units (``svi``: the mean of the
            last tenth of its steps; with ``validation`` the best held-out ELBO). Use ``evaluate`` for an ELBO with its error.
        converged: whether the method's own rule was met, never because its steps were over. em: an iteration gained under
            1e-9 nats per unit; fixed_draws: the slope promises under 0.01 nats, and fresh draws agree; svi: going on as it went
            would gain under 0.02 nats per unit, or the held-out ELBO rose no more; and its steps could move each parameter by
            0.14.
        stopped: why it stopped early, or why it has not converged and what to do; empty where neither is so.
        history: (step, bound, seconds since the start).
        units: how many units the ELBOs are summed over.
        iterations: of EM: ELBO before and after the M-step, log p(x), gap.
        states: of svi: the best and the last state; ``states.use("last")`` puts one in place.
        remarks: what a reader of the fit should know, such as that recorded steps were found to differ from Python's.
        objective: what the bound is called: ``ELBO``, ``IWAE-8 bound``, ``Rényi(0.5) bound``.
        evaluations: of log p(x_i, z) of a row at a draw, that all of it took; one with its gradient counts three.
    """

    model: Model
    guide: BaseGuide
    method: str
    steps: int
    seconds: float
    bound: float | None
    converged: bool
    stopped: str = ""
    history: tuple[tuple[int, float, float], ...] = field(default=(), repr=False)
    units: int = 1
    iterations: tuple[Iteration, ...] = field(default=(), repr=False)
    states: States | None = field(default=None, repr=False)
    remarks: tuple[str, ...] = ()
    objective: str = "ELBO"
    evaluations: float = 0.0

    def __repr__(self) -> str:
        bound = "nothing to fit" if self.bound is None else f"{self.objective} {self.bound:.4f} nats"
        units, steps = (f"{n:,} {what}{'s' if n != 1 else ''}" for n, what in ((self.units, "unit"), (self.steps, "step")))
        ended = "converged" if self.converged else "not converged"
        lines = [
            f"Fit of '{self.guide.text}' to {self.model.label} by {self.method}", f"{bound}, {units}",
            f"{ended} after {steps}, {self.seconds:.2f} s", self.stopped, *self.remarks]
        return "\n  ".join(filter(None, lines))

    def save(self, path: str | Path, figures: bool = True, effort: str = "default") -> Path:
        """Evaluate the fit and save it as a run's directory, for ``zoo report`` and ``experiments.load(path, model=…)``.

        Raises:
            ZooError: a directory that holds something, or can't be written to.
        """
        saved: Path = load("experiments.runs.saving:save")(self, path, figures, effort)
        return saved

    def export(self, path: str | Path) -> Path:
        """Write the guide, and θ, to a .safetensors file, with a JSON of what rebuilds it, for ``experiments.load_guide``."""
        written: Path = load("experiments.fits.export:export")(self, path)
        return written

    @property
    def elbo(self) -> float | None:
        """The bound, where it is the ELBO; ``None`` where another was maximised."""
        return self.bound if self.objective == "ELBO" else None
