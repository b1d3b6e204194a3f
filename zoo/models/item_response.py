"""The two-parameter logistic model of item response theory."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

from zoo.data import Data, check_positive, check_table
from zoo.errors import ZooError
from zoo.model import Model
from zoo.nn.likelihoods import BernoulliLogits


class ItemResponse(Model):
    """Answers of persons to items, by the ability of the person, and the difficulty and discrimination of the item: the 2PL.

        discrimination_j ~ LogNormal(0, spread²),  difficulty_j ~ N(0, scale²),  ability_i ~ N(0, 1),
        x_ij ~ Bernoulli(sigmoid(discrimination_j (ability_i − difficulty_j)))

    The persons are the unit plate. The model has both kinds of latents: each person's ability is local, the items' parameters
    are shared by all persons, so that the data set is one unit. Discriminations are positive, without which the signs of
    all of them and of all abilities could be turned together.

    Latents: ``discrimination`` (in log coordinates) and ``difficulty`` (items,), ``ability`` (persons,).

    Args:
        x: (persons, items), 0 or 1; at least two persons.
        spread: the standard deviation of the logarithms of discriminations.
        scale: the standard deviation of difficulties.

    Raises:
        ZooError: not a floating table, not 0 and 1, one person, the same answer to every item by all, a prior not positive.

    Source: Birnbaum (1968), Some latent trait models, in Lord and Novick, Statistical Theories of Mental Test Scores; Bock and
    Aitkin (1981), Marginal maximum likelihood estimation of item parameters, Psychometrika 46,
    https://doi.org/10.1007/BF02293801

    >>> import torch
    >>> x = (torch.rand(30, 4) < 0.5).double()
    >>> ItemResponse(x).latents(x).size                    # 4 discriminations, 4 difficulties, 30 abilities
    38
    """

    pure = True

    def __init__(self, x: Data, spread: float = 1.0, scale: float = 2.0):
        super().__init__()
        x = check_table(x, self.label, varying=False)
        if bool(((x != 0) & (x != 1)).any()):
            person, item = ((x != 0) & (x != 1)).nonzero()[0].tolist()
            raise ZooError(
                f"expected responses of 0 and 1 for {self.label}; got {float(x[person, item]):g} of person {person}, item "
                f"{item} (from 0); recode them")
        check_positive(self.label, spread=spread, scale=scale)
        self.items, self.spread, self.scale = x.shape[1], spread, scale

    def forward(self, x: Tensor) -> None:
        zero = x.new_zeros(())
        with pyro.plate("item", self.items):
            discrimination = pyro.sample("discrimination", dist.LogNormal(zero, self.spread))
            difficulty = pyro.sample("difficulty", dist.Normal(zero, self.scale))
        with pyro.plate("person", len(x)):
            ability = pyro.sample("ability", dist.Normal(zero, 1.0))
            logits = discrimination * (ability[..., None] - difficulty)
            pyro.sample("x", BernoulliLogits(logits=logits).to_event(1), obs=x)

    def extra_repr(self) -> str:
        return f"items={self.items}"
