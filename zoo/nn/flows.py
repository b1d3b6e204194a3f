"""Normalising flows as Pyro distributions, on zuko.

A flow is a composition of invertible maps. In the *normalising* direction it takes x = z_K through z_{K−1}, …, to z_0, which is
standard normal; the *generative* direction runs back. By the change of variables

    log p(x) = log N(z_0; 0, I) + Σ_k log|det ∂z_{k−1}/∂z_k|.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints

from zoo.errors import ZooError, chosen
from zoo.nn.networks import check_hidden, check_widths


@cache
def _zuko() -> ModuleType:
    """Import zuko, which switches argument validation off for the whole process as it loads; switch it back."""
    before = _validates()
    try:
        import zuko
        import zuko.flows
        import zuko.transforms
    finally:
        Distribution.set_default_validate_args(before)
    module: ModuleType = zuko
    return module


def _validates() -> bool:
    """Return whether distributions check their arguments: torch has a public way to set this, and none to ask for it."""
    try:
        torch.distributions.Normal(0.0, -1.0)
    except ValueError:
        return True
    return False


#: Alive everywhere: with plain rectified units, all of a narrow conditioner's were seen to die within 300 steps. Smooth ones
#: train affine layers worse: after 600 steps on pinwheel, 4 layers reached −1.27 nats per row with SiLU and −0.83 with these.
ACTIVATION = nn.LeakyReLU


#: Numbers by which a spline moves a dimension, as 8 bins have; affine layers need two.
NUMBERS = 23


def _spline(features: int, context: int, layers: int, hidden: Sequence[int]) -> nn.Module:
    from functools import partial

    zuko: Any = _zuko()
    bins = (NUMBERS + 1) // 3
    how = {
        "univariate": partial(zuko.transforms.MonotonicRQSTransform, slope=1e-3), "shapes": [(bins,), (bins,), (bins - 1,)]}
    return _layers(zuko.flows.NICE, features, context, layers, hidden, **how)


def _real_nvp(features: int, context: int, layers: int, hidden: Sequence[int]) -> nn.Module:
    return _layers(_zuko().flows.RealNVP, features, context, layers, hidden)


def _maf(features: int, context: int, layers: int, hidden: Sequence[int]) -> nn.Module:
    return _layers(_zuko().flows.MAF, features, context, layers, hidden)


def _layers(flow: Any, features: int, context: int, layers: int, hidden: Sequence[int], **how: Any) -> nn.Module:
    """Return a zuko flow's transform, normalising direction; the base is always standard normal.

    A dimension alone has no others to be moved by: its layers are monotone maps, which a network makes from the context.
    """
    if features == 1:
        flows = _zuko().flows
        networks = {"hidden_features": hidden, "activation": ACTIVATION} if context else {}
        parts = [flows.ElementWiseTransform(1, context, **how, **networks) for _ in range(layers)]
        one: nn.Module = _zuko().lazy.LazyComposedTransform(*parts)
        return one
    transform: nn.Module = flow(
        features, context, transforms=layers, hidden_features=hidden, activation=ACTIVATION, **how).transform
    return transform


#: Coupling layers run both ways at the cost of one network pass, so they come first; an autoregressive layer (MAF) takes one
#: pass to normalise and as many as there are dimensions to generate. Splines bend where affine layers need many more of them.
#: Each builds a network of layers from features, context, their number and hidden widths.
FLOWS: Mapping[str, Callable[[int, int, int, Sequence[int]], nn.Module]] = {
    "spline": _spline,  # coupling, rational-quadratic splines: Durkan et al. (2019), https://arxiv.org/abs/1906.04032
    "realnvp": _real_nvp,  # coupling, affine: Dinh et al. (2017), https://arxiv.org/abs/1605.08803
    "maf": _maf,  # autoregressive, affine: Papamakarios et al. (2017), https://arxiv.org/abs/1705.07057
}


def build_flow(
    kind: str, features: int, context: int = 0, layers: int = 4, hidden: Sequence[int] = (64, 64), what: str = "a flow",
) -> nn.Module:
    """Return a module that maps a context (…, context) or ``None`` to a transform, normalising direction, of (…, features).

    It starts near the identity: the last layer of each conditioning network is scaled down.

    Args:
        kind: a key of :data:`FLOWS`.
        features: dimensions. A layer moves some given the others; one alone goes through monotone maps.
        context: length of the context vector; 0 for none.
        layers: how many.
        hidden: widths of each layer's conditioning network.
        what: how errors call it.

    Raises:
        ZooError: an unknown kind, no dimension, no layers or too many, or widths that are no whole numbers above 0.

    >>> flow = build_flow("realnvp", 2)
    >>> flow()(torch.zeros(5, 2)).shape
    torch.Size([5, 2])
    """
    build = chosen(FLOWS, kind, f"the kind of {what}")
    if features < 1:
        raise ZooError(f"expected at least one dimension for {what}; got {features}; pass data with a column")
    if not isinstance(layers, int) or isinstance(layers, bool) or layers < 1:
        raise ZooError(f"expected a whole number of layers above 0 for {what}; got {layers!r}; e.g. 4")
    widths = check_hidden(hidden)
    check_widths((features + context, *widths, NUMBERS * features), what, layers)
    module = build(features, context, layers, widths)
    damp(module, 0.1)
    return module


def damp(flow: nn.Module, factor: float) -> None:
    """Multiply the last layer of each conditioning network by ``factor``: with zero the flow is the identity.

    Maps without a network, those of a dimension alone without context, have numbers of their own in its place.
    """
    networks = [m[-1] for m in flow.modules() if isinstance(m, nn.Sequential)]
    own = [m for m in flow.modules() if isinstance(m, nn.ParameterList)]
    with torch.no_grad():
        for part in (*networks, *own):
            for parameter in part.parameters():
                parameter.mul_(factor)


class FlowDistribution(TorchDistribution):
    """x = T⁻¹(z_0), z_0 ~ N(0, I): a flow as a Pyro distribution.

    Zuko's own distributions are refused by ``pyro.sample``, and Pyro's wrapper of them has neither support nor shapes.

    Args:
        transform: the normalising direction, x → z_0; its event is a vector.
        like: (*batch, features), whose shape, dtype and device the draws have.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, transform: Transform, like: Tensor):
        self.transform, self.like = transform, like
        self._last: tuple[Tensor, int, Tensor, Tensor] | None = None
        super().__init__(like.shape[:-1], like.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlowDistribution:
        if torch.Size(batch_shape) == self.batch_shape:
            return self  # plates expand what has their shape already; what was normalised stays known
        return FlowDistribution(self.transform, self.like.expand(*batch_shape, *self.event_shape))

    def normalise(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return z_0 of ``value`` (…, features) and log|det ∂z_0/∂value| (…).

        Kept for the next :meth:`log_prob` of the same value, once: a program may ask for the state and the density apart.
        """
        transform: Any = self.transform  # zuko adds call_and_ladj to torch's
        z, log_abs_det = transform.call_and_ladj(value)
        self._last = (value, _version(value), z, log_abs_det)
        return z, log_abs_det

    def log_prob(self, value: Tensor) -> Tensor:
        last, self._last = self._last, None
        if last is not None and last[0] is value and last[1] == _version(value):
            return _log_normal(last[2]) + last[3]
        z, log_abs_det = self.normalise(value)
        self._last = None
        return _log_normal(z) + log_abs_det

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        x: Tensor = self.transform.inv(self._noise(sample_shape))
        return x

    def rsample_and_log_prob(self, sample_shape: Any = torch.Size()) -> tuple[Tensor, Tensor]:
        """Draw, and return each draw's log-density from the same pass."""
        z = self._noise(sample_shape)
        inverse: Any = self.transform.inv
        x, log_abs_det = inverse.call_and_ladj(z)
        return x, _log_normal(z) - log_abs_det

    def _noise(self, sample_shape: Any) -> Tensor:
        shape = (*sample_shape, *self.batch_shape, *self.event_shape)
        return torch.randn(shape, dtype=self.like.dtype, device=self.like.device)


def _version(value: Tensor) -> int:
    """Return what changes when ``value`` is written to, and with whether gradients are on."""
    return 2 * value._version + torch.is_grad_enabled()


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))


def standardise(loc: Tensor, scale: Tensor) -> Transform:
    """Return the map x → (x − loc) / scale on vectors."""
    return torch.distributions.AffineTransform(-loc / scale, 1 / scale, event_dim=1)


class Triangular(Transform):
    """The map x → L⁻¹ (x − loc) on vectors, for loc (*batch, d) and L (*batch, d, d), lower triangular.

    >>> scale_tril = torch.tensor([[1.0, 0.0], [3.0, 2.0]])
    >>> whiten = Triangular(torch.ones(2), scale_tril)
    >>> whiten.inv(whiten(torch.zeros(2)))
    tensor([0., 0.])
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, loc: Tensor, scale_tril: Tensor):
        super().__init__()
        self.loc, self.scale_tril = loc, scale_tril

    def _call(self, x: Tensor) -> Tensor:
        away = x - self.loc
        more = away.shape[: away.ndim - self.loc.ndim]
        # All draws of a unit are columns of one system: else a batch of systems would copy L for each draw.
        columns = away.reshape(-1, *away.shape[len(more):]).movedim(0, -1)
        solved: Tensor = torch.linalg.solve_triangular(self.scale_tril, columns, upper=False)
        return solved.movedim(-1, 0).reshape(*more, *solved.shape[:-1])

    def _inverse(self, y: Tensor) -> Tensor:
        return self.loc + torch.einsum("...ij,...j->...i", self.scale_tril, y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return -self.scale_tril.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1).expand(x.shape[:-1])


def compose(*transforms: Transform) -> Transform:
    """Return the composition of ``transforms``, the first applied first; compositions among them are taken apart."""
    _zuko()
    flat = [part for transform in transforms for part in getattr(transform, "transforms", [transform])]
    composed: Transform = _zuko().transforms.ComposedTransform(*flat)
    return composed


@dataclass(frozen=True)
class Composition:
    """What happens to x layer by layer, in the normalising direction.

    Attributes:
        states: z_0, …, z_K = x, each (rows, features).
        log_abs_dets: log|det ∂z_{k−1}/∂z_k| for k = 1 … K, each (rows,). Their sum is that of the whole flow.
    """

    states: tuple[Tensor, ...]
    log_abs_dets: tuple[Tensor, ...]

    @classmethod
    def of(cls, transform: Transform, x: Tensor) -> Composition:
        """Follow ``x`` (rows, features) through the layers of a composed ``transform``."""
        states, log_abs_dets = [x], []
        for layer in transform.transforms:  # type: ignore[attr-defined]
            z, log_abs_det = layer.call_and_ladj(states[-1])
            states.append(z)
            log_abs_dets.append(log_abs_det)
        return cls(tuple(states[::-1]), tuple(log_abs_dets[::-1]))


def layer_log_density(transform: Transform, k: int, points: Tensor) -> Tensor:
    """Return the log-density of the state z_k at ``points`` (n, features): k = 0 is the base, k = K the whole flow.

    Raises:
        ZooError: a layer that there is not.
    """
    layers = transform.transforms  # type: ignore[attr-defined]
    if not 0 <= k <= len(layers):
        raise ZooError(f"expected a layer from 0 to {len(layers)}; got {k}; 0 is the base, the last one the rows")
    return FlowDistribution(compose(*layers[len(layers) - k:]), points).log_prob(points) if k else _log_normal(points)
