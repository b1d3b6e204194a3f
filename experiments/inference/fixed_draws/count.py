"""The count of a fit's iterations, and the tape of its evaluations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.fits.callbacks import Watch
from experiments.fits.state import State
from experiments.optimisers.lbfgs import Tape


@dataclass
class Count:
    """Counts the iterations of all ascents of a fit, tells the watch of each, and keeps the tape of their evaluations."""

    watch: Watch
    size: int
    taken: int = 0
    value: float = -math.inf
    reconstruction: float | None = None
    kl: float | None = None
    tape: Tape | None = None

    def __post_init__(self) -> None:
        self.tape = Tape() if self.watch.saved else None

    def __call__(self, value: float, gradient_norm: float | None = None) -> None:
        self.taken, self.value = self.taken + 1, value
        self.watch.step(
            self.taken, value, self.snapshot, gradient_norm=gradient_norm, reconstruction=self.reconstruction, kl=self.kl)

    def terms(self, reconstruction: Tensor, kl: Tensor) -> Tensor:
        """Return the ELBO, and remember its reconstruction and KL terms."""
        self.reconstruction, self.kl = torch.stack([reconstruction.detach(), kl.detach()]).tolist()
        return reconstruction - kl

    def snapshot(self) -> State:
        assert self.tape is not None, "only a watch that keeps checkpoints asks"
        answers = self.tape.answers
        return State({
            "answers": torch.from_numpy(np.concatenate([np.empty(0), *answers])),
            "lengths": torch.tensor([len(answer) for answer in answers], dtype=torch.long)}, {})

    def load(self, state: State) -> None:
        lengths = state.tensors["lengths"].tolist()
        answers = [part.numpy() for part in state.tensors["answers"].double().split(lengths)] if lengths else []
        self.tape = Tape(answers, size=sum(answer.nbytes for answer in answers))
