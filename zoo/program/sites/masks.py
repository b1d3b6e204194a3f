"""Masks: which elements of a site count, and the values that stand in for observations that do not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.distributions import MaskedDistribution, Unit
from torch import Tensor
from torch.distributions.constraints import boolean
from torch.distributions.transforms import AffineTransform, ComposeTransform, Transform

from zoo.program.sites.angles import WRAPPERS, bijection, unwrapped


def counting(site: Any) -> Tensor | None:
    """Return which elements of a site's value count, broadcastable to (\\*batch, \\*event); ``None`` where all of them do.

    A mask comes from ``poutine.mask``, from ``obs_mask``, or from ``.mask()`` of the distribution or of one that it wraps.

    >>> import pyro.distributions as dist
    >>> fn = dist.Normal(torch.zeros(2), 1.0).mask(torch.tensor([True, False])).to_event(1)
    >>> counting({"fn": fn, "mask": None})
    tensor([ True, False])
    """
    found = [mask for mask in _masks(site["fn"], site["mask"]) if mask is not True]
    if not found:
        return None
    total = torch.as_tensor(found[0])
    for mask in found[1:]:
        total = total & torch.as_tensor(mask, device=total.device)
    return total


def _masks(fn: Any, mask: Tensor | bool | None) -> Iterator[Tensor | bool]:
    """Yield the masks of a site, each with a dimension of length one for every event dimension that it covers whole."""
    if mask is not None:
        yield _over_events(mask, fn.event_dim)
    while isinstance(fn, WRAPPERS):
        if isinstance(fn, MaskedDistribution):
            yield _over_events(fn._mask, fn.event_dim)  # Pyro has no public name for it
        fn = fn.base_dist


def _over_events(mask: Tensor | bool, dims: int) -> Tensor | bool:
    return mask.reshape([*mask.shape, *[1] * dims]) if isinstance(mask, Tensor) else mask


def filled(site: Any) -> Tensor:
    """Return an observed site's value with elements of the support in the place of those that do not count.

    A density is evaluated at masked elements, too, before it is multiplied by nothing. What stands there must not matter: the
    gradient at NaN, or outside the support, is 0 · NaN.

    Whole numbers and truth values that are observed of a Bernoulli, or of a mixture of them, as a file's column of 0 and 1
    holds them, are given in the type of its probability: torch has its density at no others.
    """
    value: Tensor = site["value"]
    if not value.is_floating_point() and _of_truth_values(site["fn"]):
        value = value.to(unwrapped(site["fn"]).mean.dtype)
    counts = None if isinstance(site["fn"], Unit) else counting(site)
    if counts is None:
        return value
    other = stand_in(site["fn"], value)
    return value if other is None else torch.where(counts, value, other)


def _of_truth_values(fn: Any) -> bool:
    try:
        return _innermost(fn.support) is boolean
    except NotImplementedError:
        return False


def _innermost(support: Any) -> Any:
    """Return the constraint that reinterpreted dimensions and mixtures are wrapped around."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def stand_in(fn: Any, like: Tensor) -> Tensor | None:
    """Return a constant inside the support of ``fn``, (\\*batch, \\*event), as of its parameters; ``None`` where none is known.

    >>> import pyro.distributions as dist
    >>> stand_in(dist.Poisson(torch.ones(2)), torch.zeros(2)), stand_in(dist.Uniform(2.0, 4.0), torch.zeros(()))
    (tensor([0., 0.]), tensor(3.))
    """
    try:
        if fn.support.is_discrete:
            found = _least(fn.support, like.new_zeros(fn.shape()))
        else:
            transform = bijection(fn)
            found = transform(torch.zeros(domain_shape(transform, fn.shape()), dtype=like.dtype, device=like.device))
    except NotImplementedError:
        return None
    return found.detach().to(like.dtype)


def _least(support: Any, zeros: Tensor) -> Tensor:
    """Return the least value of a discrete support, of vectors that add up to a number the one with all of it first."""
    support = _innermost(support)
    name = type(support).__name__.strip("_").lower()
    if name in ("multinomial", "onehot"):
        total = torch.as_tensor(getattr(support, "upper_bound", 1), device=zeros.device)
        return torch.cat([(zeros[..., :1] + total.reshape(*total.shape, 1)), zeros[..., 1:]], -1)
    return zeros + torch.as_tensor(getattr(support, "lower_bound", 0), device=zeros.device)


def with_masked(site: Any, fresh: Tensor) -> Tensor:
    """Return ``fresh`` observations with those of an observed site that a mask leaves out in their place."""
    counts = counting(site)
    return fresh if counts is None else torch.where(counts, fresh, site["value"].to(fresh.dtype))


@contextmanager
def standing_in(sites: Iterable[Any]) -> Iterator[None]:
    """Give observed ``sites`` of a trace values of the support where they are masked, and their own values back after.

    Only densities see the stand-ins: a program that goes on with the value it observed goes on with that.
    """
    before = [(site, site["value"]) for site in sites]
    for site, _ in before:
        site["value"] = filled(site)
    try:
        yield
    finally:
        for site, value in before:
            site["value"] = value


def domain_shape(transform: Transform, shape: torch.Size) -> torch.Size:
    """Return the shape that ``transform`` maps to ``shape``: its own ``inverse_shape``, but at once where a scalar is added.

    To broadcast shapes, torch first imports SymPy, which takes a process longer than most of its fits.
    """
    for part in reversed(transform.parts) if isinstance(transform, ComposeTransform) else [transform]:
        scalars = isinstance(part, AffineTransform) and not any(getattr(x, "shape", ()) for x in (part.loc, part.scale))
        shape = shape if scalars else part.inverse_shape(shape)
    return torch.Size(shape)
