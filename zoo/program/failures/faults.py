"""Where a density, or its gradient, is no finite number: the site, and the observation that it comes from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.data import Data, place, tensors
from zoo.errors import ZooError
from zoo.program.failures.tolerance import FAILURES, refuse
from zoo.program.run import run
from zoo.program.sites.masks import filled
from zoo.program.sites.substitution import Substitute

if TYPE_CHECKING:
    from zoo.model import Model


@contextmanager
def explained(x: Data, label: str) -> Iterator[None]:
    """Turn what a program called ``label`` raises when it is run on ``x`` into a :class:`ZooError` of one line."""
    try:
        yield
    except KeyError as error:
        raise ZooError(f"expected every entry of x that {label} reads; got none for {error}; add it") from error
    except NotImplementedError as error:
        raise ZooError(
            f"expected latents that can be drawn from their prior and mapped to the reals in {label}; got one that can't: "
            f"{str(error).splitlines()[0]}; use another distribution") from error
    except ZooError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        shapes = ", ".join(f"{name} {value.dtype} {tuple(value.shape)}" for name, value in tensors(x).items())
        first = (str(error).splitlines() or [type(error).__name__])[0]
        whole = [name for name, value in tensors(x).items() if not value.is_floating_point()]
        mend = f"make {', '.join(whole)} floating" if whole and "dtype" in first else "pass data like that it was built on"
        raise ZooError(
            f"expected data that the program of {label} runs on; got {shapes}: {first[:160]}; {mend}, or mend the program"
        ) from error


def fault(model: Model, x: Data, z: Tensor, parameters: Sequence[Tensor] = ()) -> str:
    """Return, in words, the first site at fault for a log p(x, z) or gradient that is not finite; empty where none is.

    Sites are differentiated one by one, in the program's order, in z and in the ``parameters``. Of an observed site the words
    tell the value and the row of the first observation at fault, if one is.

    Args:
        model: the model.
        x: the data.
        z: finite coordinates, (draws, units, d).
        parameters: leaves besides z.

    >>> import pyro, pyro.distributions as dist, zoo
    >>> def level(x):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("rows", len(x)):
    ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=x)
    >>> fault(zoo.as_model(level), torch.tensor([1.0, 1e30]), torch.zeros(1, 1, 1))
    "non-finite log-probability at site 'y' of level, value 1e+30 at row 1"
    """
    def told(what: str, name: str, log_prob: Tensor | None = None) -> str:
        return f"non-finite {what} at site '{name}'{of}{_observation(model, x, z.detach(), name, log_prob)}"

    of = f" of {model.label}"
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        leaves = [z, *(p for p in parameters if p.requires_grad)]
        try:
            found = model.log_probs(x, z)
        except FAILURES as error:
            refuse(error)
            return f"{type(error).__name__.strip('_')} ({(str(error).splitlines() or [''])[0][:160]}){of}"
        for name, value in found.items():
            if not bool(value.sum().isfinite()):
                return told("log-probability", name, value.detach())
            if value.requires_grad and not finite_gradient(value.sum(), leaves):
                return told("gradient of the log-probability", name)
    return ""


def finite_gradient(value: Tensor, leaves: Sequence[Tensor]) -> bool:
    """Return whether a number's gradient in all ``leaves`` is finite; the graph is kept."""
    found = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
    return all(bool(part.isfinite().all()) for part in found if part is not None)


def _observation(model: Model, x: Data, z: Tensor, name: str, log_prob: Tensor | None = None) -> str:
    """Return ", value … at row …" of the first observation at fault at the site ``name``; empty where none is.

    One is where its own log-probability is not finite, or the derivative of that by the observation.
    """
    draw = 0 if log_prob is None else int((~log_prob.reshape(len(log_prob), -1).sum(1).isfinite()).int().argmax())
    with model.runner.isolated():
        site = run(model, x, Substitute(z[draw], model.runner.scheme(x)), density=False).get(name)
    if site is None:  # of several sites together
        return ""
    value = site["value"]
    if not site["is_observed"] or not value.numel():
        return ""
    bad = _underivable(site) if log_prob is None else _extreme(log_prob[draw], value, site["fn"].event_dim)
    if not bool(bad.any()):
        return ""
    first = tuple(bad.nonzero()[0].tolist())
    return f", value {float(value.expand(bad.shape)[first]):.6g}{place(bad, ' at ')}"


def _extreme(log_prob: Tensor, value: Tensor, event_dim: int) -> Tensor:
    """Mark elements of ``value`` at fault for log-probabilities that are not finite, or whose sum is not."""
    each = ~log_prob.isfinite() if not bool(log_prob.isfinite().all()) else log_prob == log_prob.min()
    bad, size = each.reshape([*each.shape, *[1] * event_dim]), value.abs().nan_to_num(nan=math.inf)
    dims = tuple(range(-event_dim, 0))
    largest = size == size.amax(dims, keepdim=True) if event_dim else torch.ones_like(size, dtype=torch.bool)
    return bad & largest


def _underivable(site: Any) -> Tensor:
    """Mark elements of an observed site's value by which its log-probability has no finite derivative."""
    value = filled(site).detach()
    none = torch.zeros_like(value, dtype=torch.bool)
    if not value.is_floating_point():
        return none
    value = value.requires_grad_()
    log_prob = site["fn"].log_prob(value)
    if not log_prob.requires_grad:
        return none
    [found] = torch.autograd.grad(log_prob.sum(), [value], allow_unused=True)
    return none if found is None else ~found.isfinite()
