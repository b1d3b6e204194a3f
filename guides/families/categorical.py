"""The family of all distributions on a finite support."""

from __future__ import annotations

from torch import Tensor

from guides.families.family import Family, Phi, Start
from zoo.distributions.enumerated import Enumerated
from zoo.errors import ZooError


class CategoricalFamily(Family):
    """q(z = values_k) = softmax(logits)_k over the K values of a unit's discrete latents; one member is the exact posterior.

    φ: ``logits`` (K,).

    Source: Bishop (2006), Pattern Recognition and Machine Learning, §9.4;
    https://www.microsoft.com/en-us/research/people/cmbishop/prml-book/

    >>> import torch
    >>> family = CategoricalFamily()
    >>> phi = family.initial(Start(torch.zeros(5, 1), torch.zeros(5, 1), torch.tensor([[0.0], [1.0]])))
    >>> family.distribution(phi).probs[0]
    tensor([0.5000, 0.5000])
    """

    finite_support = True
    values: Tensor

    def initial(self, start: Start) -> dict[str, Tensor]:
        if start.values is None:
            raise ZooError("expected discrete latents for the categorical family; got continuous ones; use mean_field")
        self.values = start.values
        return {"logits": start.loc.new_zeros(len(start.loc), len(start.values))}

    def distribution(self, phi: Phi) -> Enumerated:
        return Enumerated(phi["logits"], self.values.to(phi["logits"]), validate_args=False)

    def solve(self, log_joint: Tensor) -> dict[str, Tensor]:
        """Return log p(z | x): in each unit the ELBO is −KL(q ‖ p(x, ·)), whose maximum this family holds."""
        return {"logits": (log_joint - log_joint.logsumexp(0)).movedim(0, -1)}
