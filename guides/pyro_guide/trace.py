"""A Pyro guide's trace: what it must hold to be a density of the model's latents, and what the program is run under."""

from __future__ import annotations

import math
import weakref
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.infer.autoguide.guides import AutoContinuous
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import biject_to, constraints
from torch.overrides import TorchFunctionMode

from zoo.data import Data
from zoo.errors import ZooError
from zoo.program.params import LocalParams
from zoo.program.run import Program
from zoo.program.sites.angles import wound
from zoo.program.sites.latents import Latents, Site, is_discrete

if TYPE_CHECKING:
    from guides.pyro_guide.guide import ProgramGuide

#: Auxiliary sites of an AutoGuide: each holds the unconstrained values of some latent sites, in order, of these shapes.
Auxiliary: TypeAlias = Mapping[str, Mapping[str, torch.Size]]

#: What makes tensors that samplers then fill in place, as in ``torch.empty(shape).normal_()``.
EMPTY = (torch.empty, torch.empty_like, torch.Tensor.new, torch.Tensor.new_empty)


class ProgramDistribution(dist.TorchDistribution):
    """q(z | x) of a :class:`ProgramGuide`: batch shape (units,), event shape (d,), unconstrained coordinates.

    The log-density of the last draws is kept from their trace: ``log_prob`` of that very tensor costs nothing.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector

    def __init__(self, guide: ProgramGuide, x: Data, units: int):
        self.guide, self.x, self.has_rsample = guide, x, guide.has_rsample
        self._last: tuple[Tensor, Tensor, bool] | None = None
        super().__init__(torch.Size([units]), torch.Size([guide.latents.size]), validate_args=False)

    def rsample_and_log_prob(self, sample_shape: Any = torch.Size()) -> tuple[Tensor, Tensor]:
        """Return draws z (*sample_shape, units, d) and log q(z | x) (*sample_shape, units), with gradients to φ.

        z itself has them where ``has_rsample`` is true.
        """
        z, log_q = self.guide.draw(self.x, self.batch_shape[0], math.prod(sample_shape))
        z, log_q = z.reshape(*sample_shape, *z.shape[1:]), log_q.reshape(*sample_shape, log_q.shape[1])
        self._last = (z, log_q, torch.is_grad_enabled())
        return z, log_q

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        if not self.has_rsample:
            raise NotImplementedError(f"'{self.guide.text}' has a site that is not reparameterised")
        return self.rsample_and_log_prob(sample_shape)[0]

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        with torch.no_grad():
            return self.rsample_and_log_prob(sample_shape)[0]

    def log_prob(self, value: Tensor) -> Tensor:
        if self._last is not None and value is self._last[0] and (self._last[2] or not torch.is_grad_enabled()):
            return self._last[1]
        log_q = self.guide.log_q(self.x, value.reshape(-1, *self.batch_shape, *self.event_shape))
        return log_q.reshape(value.shape[:-1])


class Params(LocalParams):
    """Serve ``pyro.param`` from a guide, and its module's own parameters, the way that stock SVI looks for them."""

    def _pyro_param(self, msg: Any) -> None:
        super()._pyro_param(msg)
        if msg["done"]:
            msg["name"] = f"guide.{msg['name']}"  # SVI collects by name, and the model may have one of this name
        if isinstance(msg["value"], nn.Parameter):
            msg["value"].unconstrained = weakref.ref(msg["value"])  # type: ignore[attr-defined]


class Fixed(Messenger):
    """Set a guide program's latent sites to ``values``, and its auxiliary sites to the ``unconstrained`` ones.

    Delta sites follow by themselves. An auxiliary site that these do not tell is refused, or drawn where ``text`` is ``None``.
    """

    def __init__(
        self, values: Mapping[str, Tensor], unconstrained: Mapping[str, Tensor], auxiliary: Auxiliary, text: str | None,
    ):
        super().__init__()
        self.values, self.unconstrained, self.auxiliary, self.text = values, unconstrained, auxiliary, text

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if site_is_subsample(msg) or msg["is_observed"] or point(msg["fn"]):
            return
        if name in self.auxiliary:
            parts = [self.unconstrained[latent].reshape(-1) for latent in self.auxiliary[name]]
            msg["value"] = torch.cat(parts).reshape(msg["fn"].shape())
        elif name in self.values:
            msg["value"] = self.values[name]
        elif self.text is not None:
            raise ZooError(
                f"expected a guide whose log-density is known at any z; got '{self.text}', whose auxiliary site '{name}' z "
                "does not tell; take it at the guide's own draws, with rsample_and_log_prob")


class Angles(Messenger):
    """Give a program's draws of the angles ``names`` the density of directions, :class:`zoo.program.sites.angles.Wound`."""

    def __init__(self, names: Collection[str]):
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            msg["fn"] = wound(msg["fn"])


class Batched(TorchFunctionMode):
    """Make empty tensors differ between draws under vmap, by adding a ``zero`` that does.

    Vmap refuses to fill tensors that are the same for all draws with random numbers in place, as torch's samplers do.
    """

    def __init__(self, zero: Tensor):
        super().__init__()
        self.zero = zero

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        empty = func in EMPTY and result.is_floating_point()
        return result + self.zero.to(result.dtype) if empty else result


def auxiliary_sites(program: Program, sites: Mapping[str, Any]) -> Auxiliary:
    """Return which auxiliary sites of an AutoGuide hold unconstrained values of which latents; none for other programs."""
    if not isinstance(program, AutoGuide):
        return {}
    each = {f"{name}_unconstrained": name for name in sites if f"{name}_unconstrained" in sites}
    joint = [name for name, site in sites.items() if site["infer"].get("is_auxiliary", False) and name.endswith("_latent")]
    parts = [part for part in program.modules() if isinstance(part, AutoContinuous)]
    return {
        **{site: {name: sites[site]["value"].shape} for site, name in each.items()},
        **{site: _unconstrained_shapes(part) for site, part in zip(joint, parts, strict=True)}}


def _unconstrained_shapes(guide: AutoContinuous) -> dict[str, torch.Size]:
    """Return the shapes of the latents' unconstrained values, in the order in which the guide's one vector holds them."""
    prototype: Any = guide.prototype_trace
    sites = prototype.iter_stochastic_nodes()
    return {name: biject_to(site["fn"].support).inv(site["value"]).shape for name, site in sites}


def unpack(auxiliary: Auxiliary, sites: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the unconstrained values of the latents that the auxiliary sites hold."""
    return {k: v for name, shapes in auxiliary.items() for k, v in split(sites[name]["value"], shapes).items()}


def split(value: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Cut ``value`` into parts of the given shapes.

    >>> split(torch.arange(3), {"a": torch.Size([]), "b": torch.Size([2])})
    {'a': tensor(0), 'b': tensor([1, 2])}
    """
    parts = value.reshape(-1).split([shape.numel() for shape in shapes.values()])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def unit_plate(latents: Latents, site: Any, units: int) -> str | None:
    """Return the plate of the ``units`` at a guide's site: the one of the model's name for it, or in its place."""
    frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
    if latents.unit is None or any(frame.name == latents.unit for frame in frames):
        return latents.unit
    plates = latents.sites[0].plates
    place = (plates.index(latents.unit) - len(plates), units)
    return next((str(frame.name) for frame in frames if (frame.dim, frame.size) == place), None)


def separable(site: Any) -> bool:
    """Return whether a site's log-density is a plain sum over the elements of its value."""
    return isinstance(site["fn"], dist.Independent)


def wrapped(fn: Any) -> Iterator[Any]:
    """Yield a distribution and those that it wraps."""
    yield fn
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
        yield fn


def point(fn: Any) -> bool:
    """Return whether a distribution is a point mass."""
    return any(isinstance(part, dist.Delta) for part in wrapped(fn))


def check_sites(latents: Latents, sites: Mapping[str, Any], text: str) -> None:
    """Raise unless a guide samples every latent site, in the model's shape, and no other but auxiliary ones."""
    names = [site.name for site in latents.sites]
    got = [
        f"{name}, observed" if site["is_observed"] else name for name, site in sites.items()
        if name in names or site["is_observed"] or not site["infer"].get("is_auxiliary", False)]
    if sorted(got) != sorted(names):
        raise ZooError(
            f"expected the guide '{text}' to sample {', '.join(names)}; got {', '.join(got) or 'no site'}; name its sites "
            "after the model's latent ones, one each, without obs=")
    for site in latents.sites:
        check_latent(site, sites[site.name], latents.discrete, text)


def check_latent(latent: Site, site: Any, discrete: bool, text: str) -> None:
    """Raise unless a guide samples one latent in the model's shape, and a continuous one not from a discrete distribution."""
    if site["value"].shape != latent.shape:
        raise ZooError(
            f"expected site '{latent.name}' of '{text}' in the model's shape {tuple(latent.shape)}; got "
            f"{tuple(site['value'].shape)}; match its plates and event dimensions")
    if not discrete and not point(site["fn"]) and is_discrete(site):
        raise ZooError(
            f"expected a density at site '{latent.name}' of '{text}', whose latent is continuous; got a "
            f"{type(site['fn']).__name__}, which is discrete; use another distribution")


def check_density(latents: Latents, sites: Mapping[str, Any], text: str) -> None:
    """Raise where a guide has scaled or masked sites, or draws fewer or more numbers than its latents have coordinates."""
    for name, site in sites.items():
        check_integral(name, site, text)
    fixed = [site for site in latents.sites if point(sites[site.name]["fn"])]
    extra = auxiliary_numbers(latents, sites)
    extra -= sum(site.size * latents.units for site in fixed)  # each coordinate of theirs must come from a number drawn
    if extra < 0:
        raise ZooError(
            f"expected a guide with a density; got '{text}', a point estimate (Delta) at site '{fixed[0].name}'; use another "
            "one, e.g. AutoNormal")
    if extra > 0:
        raise ZooError(
            f"expected '{text}' to draw its latents alone; got {extra} auxiliary number(s) more, which log q would have to "
            "integrate out; sample the model's latent sites only")


def check_integral(name: str, site: Any, text: str) -> None:
    """Raise where the log-density of a guide's site is scaled or masked."""
    masked = isinstance(site["mask"], Tensor) or site["mask"] is False
    if masked or site["scale"] != 1 or any(isinstance(fn, dist.MaskedDistribution) for fn in wrapped(site["fn"])):
        raise ZooError(
            f"expected a density at every site of '{text}'; got '{name}' scaled, masked or subsampled, which changes its "
            "integral; leave poutine.scale, mask and subsample_size out")


def auxiliary_numbers(latents: Latents, sites: Mapping[str, Any]) -> int:
    """Return how many numbers a guide draws at auxiliary sites, which are no latents of the model; a point mass draws none."""
    names = [site.name for site in latents.sites]
    return sum(site["value"].numel() for name, site in sites.items() if name not in names and not point(site["fn"]))
