"""Acceleration of fixed-point iterations, such as EM's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from experiments.fits.state import alike

#: Iterations that an extrapolation looks back on.
MEMORY = 8
#: Steps' lengths that an extrapolation may go at most.
FAR = 2.0**20
#: Ridge of its least-squares problem, relative to the largest eigenvalue.
RIDGE = 1e-10


class Anderson:
    """Anderson's extrapolation of θ ← M(θ): from the last few steps f = M(θ) − θ, the point at which f should vanish.

    It fits f_t by the last differences of f, γ = argmin ‖f_t − ΔF γ‖, and goes to M(θ_t) − ΔM γ. Near a fixed point that is
    a quasi-Newton step; far from one it may lead anywhere, to another maximum say. So it may go beyond M(θ_t) by no more than
    ``reach`` times ‖f_t‖, which is 1 at first, doubles after each step, and is halved by :meth:`restart`, which is for
    after a step that did not do.

    Source: Anderson (1965), Iterative procedures for nonlinear integral equations, https://doi.org/10.1145/321296.321305;
    Walker and Ni (2011), Anderson acceleration for fixed-point iterations, https://doi.org/10.1137/10078356X; with a check of
    monotony, as here, Henderson and Varadhan (2019), Damped Anderson acceleration with restarts and monotonicity control for
    accelerating EM, https://doi.org/10.1080/10618600.2019.1594835

    >>> anderson, theta = Anderson(), torch.tensor([4.0], dtype=torch.double)
    >>> for _ in range(6):  # of a linear map one difference tells all
    ...     image = 1 + 0.9 * theta
    ...     proposed = anderson.propose(theta, image)
    ...     theta = image if proposed is None else proposed
    >>> theta
    tensor([10.0000], dtype=torch.float64)
    """

    def __init__(self, memory: int = MEMORY):
        self.memory, self.reach = memory, 1.0
        self.images: list[Tensor] = []
        self.steps: list[Tensor] = []

    def propose(self, start: Tensor, image: Tensor) -> Tensor | None:
        """Take note that θ = ``start`` maps to ``image``, each (size,); return where to go; ``None`` after one step alone."""
        self.images = [*self.images[-self.memory :], image]
        self.steps = [*self.steps[-self.memory :], image - start]
        if len(self.images) < 2:
            return None
        differences = torch.stack(self.steps).diff(dim=0)
        gram = differences @ differences.T
        ridge = (RIDGE * gram.diagonal().max()).clamp(min=torch.finfo(gram.dtype).tiny) * torch.eye(len(gram)).to(gram)
        # Not by least squares: LAPACK's differ in the last bits from call to call, with where its memory lies.
        weights, _ = torch.linalg.solve_ex(gram + ridge, differences @ self.steps[-1])
        jump = -weights @ torch.stack(self.images).diff(dim=0)
        jump = jump * (self.reach * self.steps[-1].norm() / jump.norm()).clamp(max=1)
        self.reach = min(2 * self.reach, FAR)
        return image + jump if bool(jump.isfinite().all()) else None

    def restart(self) -> None:
        """Forget all steps but the last, and go less far."""
        self.images, self.steps, self.reach = self.images[-1:], self.steps[-1:], max(1.0, self.reach / 4)

    def state(self) -> dict[str, Tensor]:
        """Return the remembered steps, for :meth:`load`."""
        if not self.images:
            return {}
        return {
            "images": torch.stack(self.images), "steps": torch.stack(self.steps),
            "reach": torch.tensor(self.reach, dtype=torch.float64)}

    def load(self, state: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> None:
        """Remember what :meth:`state` returned for these parameters.

        Raises:
            ValueError: it is of others.
        """
        size = sum(p.numel() for p in parameters)
        for name in ("images", "steps") if state else ():
            like = torch.zeros(size, dtype=torch.float64)
            setattr(self, name, alike(list(state[name]), [like] * len(state[name])))
        self.reach = float(state["reach"]) if state else 1.0
