"""Mixtures of several guides, from which the evidence of a comparison draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, StudentT, constraints

from experiments.runtime.memory import GLANCE
from guides.guide import BaseGuide
from guides.model_based import Prior
from guides.pyro_guide.guide import ProgramGuide
from zoo.data import Data
from zoo.distributions.enumerated import Enumerated
from zoo.errors import ZooError
from zoo.model import Model


class EqualMixture(dist.TorchDistribution):
    """q(z) = (q_1(z) + … + q_G(z)) / G: a draw comes from each component with probability 1 / G.

    The importance weights p(z) / q(z) use the density of the whole mixture, not of the component that gave the draw; this is
    the balance heuristic. The weights are at most G times the weights of any one component. So a mode that one component
    reaches is in the estimate, and components that miss the mode cost at most log G nats of a bound on one draw, and a G-fold
    number of draws.

    Args:
        components: G distributions, each of batch shape (units,) and event shape (d,).

    Source: Veach and Guibas (1995), Optimally combining sampling techniques for Monte Carlo rendering,
    https://doi.org/10.1145/218380.218498; Owen and Zhou (2000), Safe and effective importance sampling,
    https://doi.org/10.1080/01621459.2000.10473909

    >>> parts = [dist.Normal(torch.full((3, 1), loc), 1.0).to_event(1) for loc in (-2.0, 2.0)]
    >>> mixture = EqualMixture(parts)
    >>> mixture.sample((5,)).shape, mixture.log_prob(torch.zeros(3, 1)).round(decimals=4)
    (torch.Size([5, 3, 1]), tensor([-2.9189, -2.9189, -2.9189]))
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector

    def __init__(self, components: Sequence[Distribution]):
        self.components = tuple(components)
        first = self.components[0]
        super().__init__(first.batch_shape, first.event_shape, validate_args=False)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            parts = [component.sample(torch.Size(sample_shape)) for component in self.components]
            drawn = torch.stack([part.to(parts[0]) for part in parts])  # in the float type of the first, a guide
            which = torch.randint(len(self.components), shape, device=drawn.device)
            return drawn.gather(0, which[None, ..., None].expand(1, *drawn.shape[1:]))[0]

    def log_prob(self, value: Tensor) -> Tensor:
        each = torch.stack([component.log_prob(value) for component in self.components])
        return each.logsumexp(0) - math.log(len(self.components))


class Tails(dist.TorchDistribution):
    """Independent Student's t of 5 degrees of freedom in the coordinates L⁻¹ (z − loc).

    A normal's tails fall off faster than those of most posteriors, so the importance weights of its draws have a variance that
    a few draws dominate, or no finite variance. In a mixture with these heavier tails the weights are bounded there: a
    defensive mixture.

    Args:
        loc: (units, d).
        scale_tril: L, (units, d, d).

    Source: Hesterberg (1995), Weighted average importance sampling and defensive mixture distributions,
    https://doi.org/10.1080/00401706.1995.10484303

    >>> tails = Tails(torch.zeros(3, 2), torch.eye(2).expand(3, 2, 2))
    >>> tails.sample((5,)).shape, tails.log_prob(torch.zeros(3, 2)).round(decimals=4)
    (torch.Size([5, 3, 2]), tensor([-1.9372, -1.9372, -1.9372]))
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector

    def __init__(self, loc: Tensor, scale_tril: Tensor):
        self.loc, self.scale_tril, self.each = loc, scale_tril, StudentT(loc.new_tensor(5.0))
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @classmethod
    def of(cls, z: Tensor) -> Tails:
        """Return those with the mean and the covariance of draws (draws, units, d); of many units, the variances alone."""
        loc, centred = z.mean(0), z - z.mean(0)
        # Of so many numbers that their covariances are not kept, tails are those of independent latents.
        whole = z.shape[1] * z.shape[2] ** 2 <= GLANCE and len(z) > 4 * z.shape[2]
        if whole:
            found, failed = torch.linalg.cholesky_ex(torch.einsum("nui,nuj->uij", centred, centred) / len(z))
            if not bool(failed.any()):
                return cls(loc, found)
        return cls(loc, torch.diag_embed(centred.square().mean(0).sqrt().clamp(min=1e-6)))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        white = self.each.sample(torch.Size(sample_shape) + self.loc.shape)
        return self.loc + torch.einsum("...ij,...j->...i", self.scale_tril, white)

    def log_prob(self, value: Tensor) -> Tensor:
        centred = value.to(self.loc) - self.loc  # components of other guides may be of another float type
        # Draws are columns: a factor for each of them would take draws · d² numbers.
        columns = centred.reshape(-1, *self.loc.shape).movedim(0, -1)
        white = torch.linalg.solve_triangular(self.scale_tril, columns, upper=False).movedim(-1, 0).reshape(centred.shape)
        found: Tensor = self.each.log_prob(white).sum(-1) - self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return found


class MixtureGuide(BaseGuide):
    """The mixture, in equal shares, of the posteriors that several guides of one model give for ``x``, and of ``components``.

    Args:
        model: the model.
        guides: the guides, of continuous latents, whose density is known at any z: see :func:`densities_known`.
        components: further distributions over the latents of the same data.
        text: the name of the mixture; empty: the names of the guides.

    Raises:
        ZooError: neither guides nor components.
    """

    new_units = minibatches = False
    others: tuple[Distribution, ...]

    def __init__(self, model: Model, guides: Sequence[BaseGuide], components: Sequence[Distribution] = (), text: str = ""):
        if not guides and not components:
            raise ZooError("expected guides or distributions to mix; got none; name some")
        super().__init__(model, text or " + ".join(guide.text for guide in guides))
        self.__dict__["guides"], self.__dict__["others"] = tuple(guides), tuple(components)
        for i, guide in enumerate(guides):  # their mode follows this one's
            nn.Module.add_module(self, f"guide {i}", guide)

    def posterior(self, x: Data, index: Tensor | None = None) -> Distribution:
        return EqualMixture([*(guide.posterior(x, index) for guide in self.guides), *self.others])


def densities_known(guides: Sequence[BaseGuide], x: Data) -> list[BaseGuide]:
    """Return the guides that can be mixed: of continuous latents, with a log q that is known at any z.

    Left out are Pyro programs that can't be inverted, guides whose draws are enumerated, and the prior where there is another:
    its program is run draw by draw.
    """
    return [guide for guide in guides if not isinstance(guide, Prior) and _density_known(guide, x)]


def _density_known(guide: BaseGuide, x: Data) -> bool:
    with torch.no_grad():
        q = guide.posterior(x)
        if isinstance(q, Enumerated) or not q.event_shape[0]:
            return False
        if not isinstance(guide, ProgramGuide):
            return True
        try:
            return bool(q.log_prob(q.sample((2,)).clone()).isfinite().all())
        except ZooError:
            return False
