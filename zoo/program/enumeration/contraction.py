"""The factors of a program whose discrete latents are enumerated, and their sum-product by unit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.ops.contract import contract_to_tensor
from pyro.ops.rings import LogRing
from torch import Tensor

from zoo.data import Data
from zoo.errors import ZooError
from zoo.program.enumeration.messenger import Enumerate
from zoo.program.run import Program, random_sites, traced
from zoo.program.sites.latents import Scheme, by_unit, is_deterministic, is_discrete, unit_frame
from zoo.program.sites.masks import counting
from zoo.program.sites.substitution import Substitute, latent_log_prob


class StableLogRing(LogRing):
    """Pyro's sum-product in logarithms, with sums that neither underflow nor stop ``vmap``."""

    _backend = "zoo.program.enumeration.log_einsum"


class SampledLogRing(LogRing):
    """The same, with gradients that are draws of the values that are summed over."""

    _backend = "zoo.program.enumeration.sampled_einsum"


@dataclass(frozen=True)
class Factors:
    """The log-probabilities of one run at all values of its discrete latents.

    Attributes:
        sites: the run's random sites, each with its ``packed`` log-probability.
        scheme: how the program is read.
        symbols: of plates, their letters as dimensions.
        enumerated: letters of the dimensions along which latents are enumerated.
        units: how many units there are.
    """

    sites: Mapping[str, Any]
    scheme: Scheme
    symbols: Mapping[str, str]
    enumerated: frozenset[str]
    units: int

    @classmethod
    def of(
        cls, program: Program, x: Data, substitute: Substitute, potentials: Mapping[str, Tensor] | None = None,
    ) -> Factors:
        """Run ``program`` at a point, ``substitute``, and at all values of its discrete latents.

        ``potentials`` are added to discrete sites' log-probabilities, in the shape of these.
        """
        trace = traced(program, x, Enumerate(substitute.scheme), substitute)
        for name, site in random_sites(trace).items():
            if not site["is_observed"]:
                site["log_prob"] = _log_prob(name, site, substitute)
                if potentials and name in potentials:
                    site["log_prob"] = site["log_prob"] + potentials[name]
        trace.pack_tensors()
        plates = dict(trace.plate_to_symbol)
        sites = {name: site for name, site in random_sites(trace).items() if not is_deterministic(site)}
        enumerated = frozenset(trace.symbol_to_dim) - frozenset(plates.values())
        found = cls(sites, substitute.scheme, plates, enumerated, len(substitute.z))
        found.check_scales()
        return found

    def total(self, ring: type[LogRing] = StableLogRing) -> Tensor:
        """Return log Σ of all factors, (units,): the log-density with the discrete latents summed out."""
        return self._contracted(lambda site: True, ring)

    def inside(self, plate: str) -> Tensor:
        """Return log Σ of the factors of each row of ``plate``, (rows,), which holds every enumerated latent."""
        return self.rows(plate).total()

    def rows(self, plate: str) -> Factors:
        """Return the factors of the rows of ``plate``, each row a unit."""
        sites = {name: site for name, site in self.sites.items() if unit_frame(site, plate) is not None}
        count = int(next(unit_frame(site, plate).size for site in sites.values()))
        return replace(self, sites=sites, scheme=replace(self.scheme, unit=plate), units=count)

    def outside(self, plate: str) -> Tensor:
        """Return the sum of the factors outside of ``plate``, ()."""
        return sum((site["log_prob"].sum() for site in self.sites.values() if unit_frame(site, plate) is None), torch.zeros(()))

    def prior(self) -> Tensor:
        """Return log Σ of the latents' factors, (units,): the log-density of the continuous latents alone."""
        if any(map(self._is_summed_over, self._continuous())):
            return self._contracted(lambda site: not site["is_observed"])
        prior = torch.zeros(self.units)
        for site in self._continuous():  # probabilities of discrete latents sum to one
            prior = prior + by_unit(site["log_prob"], site, self.scheme.unit)
        return prior

    def check_scales(self) -> None:
        """Raise a :class:`ZooError` where a factor that is summed over is scaled: a power of a sum is no sum of powers."""
        for name, site in self.sites.items():
            scaled = isinstance(site["scale"], Tensor) or site["scale"] != 1
            if scaled and self._is_summed_over(site):
                raise ZooError(
                    f"expected no poutine.scale on sites that depend on discrete latents; got site '{name}' scaled; leave it "
                    "out, or marginalise the discrete latent")

    def _is_summed_over(self, site: Any) -> bool:
        """Return whether a site's log-probability differs between values of discrete latents."""
        shape = site["log_prob"].shape
        return bool(shape[: max(0, len(shape) - self.scheme.depth)].numel() > 1)

    def _continuous(self) -> Iterator[Any]:
        return (site for site in self.sites.values() if not site["is_observed"] and not is_discrete(site))

    def _contracted(self, kept: Callable[[Any], bool], ring: type[LogRing] = StableLogRing) -> Tensor:
        tree: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
        sizes: dict[str, int] = {}
        for site in filter(kept, self.sites.values()):
            frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
            sizes |= {self.symbols[frame.name]: frame.size for frame in frames}
            tree.setdefault(frozenset(self.symbols[frame.name] for frame in frames), []).append(site["packed"]["log_prob"])
        target = frozenset({self.symbols[self.scheme.unit]} if self.scheme.unit else ())
        made: Any = ring
        result: Tensor = contract_to_tensor(tree, set(self.enumerated), target_ordinal=target, ring=made(dim_to_size=sizes))
        return result.reshape(self.units)


def _log_prob(name: str, site: Any, substitute: Substitute) -> Tensor:
    """Return a latent site's log-probability in unconstrained coordinates; of a discrete one that is masked, uniform."""
    log_prob = latent_log_prob(name, site, substitute)
    if not is_discrete(site) or (counts := counting(site)) is None:
        return log_prob
    # Under a mask every value has log-probability 0: their sum would be their number.
    size = log_prob.shape[site["infer"]["_enumerate_dim"]]
    for _ in range(site["fn"].event_dim):
        counts = counts.select(-1, 0)
    return torch.where(counts, log_prob, -log_prob.new_full((), float(size)).log())
