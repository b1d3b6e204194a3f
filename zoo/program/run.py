"""Running a Pyro program: at a point, and from its prior.

A run leaves Pyro's global state as it was: :func:`isolated` sets validation and the parameter store, and restores both after
the run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from zoo.data import Data
from zoo.program.params import empty_store
from zoo.program.sites.latents import is_awaited, is_deterministic, is_observation
from zoo.program.sites.masks import standing_in

Program = Callable[[Data], Any]


@contextmanager
def isolated(params: Messenger) -> Iterator[None]:
    """Run programs with their own parameters and without validation, which vmap can't run; restore both after.

    PyroModules write their parameters to the global store as they run. An empty store takes that and is thrown away: the
    module holds them anyway. ``params`` serves the ``pyro.param`` statements of bare functions. Handlers around the
    caller (a guide of ours asks its model while stock Pyro traces it) see nothing.
    """
    with pyro.validation_enabled(False), empty_store(), poutine.block(), params:
        yield


@contextmanager
def unregistered() -> Iterator[None]:
    """Keep Pyro from warning that parameters held fixed are not in its store: none of ours are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*was not registered in the param store because requires_grad=False")
        yield


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Run with torch's generators at ``seed`` and put them back as they were; ``None`` uses them as they are.

    >>> before = torch.get_rng_state()
    >>> with seeded(3): _ = torch.rand(2)
    >>> bool((torch.get_rng_state() == before).all())
    True
    """
    if seed is None:
        yield
        return
    if not torch.cuda.is_initialized():
        # torch.manual_seed also seeds devices that are not there, which takes longer than a small fit's steps.
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_rng_state(before)
        return
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def generators() -> tuple[Tensor, list[Tensor]]:
    """Return the states of torch's generators, for :func:`replaying`."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


@contextmanager
def replaying(states: tuple[Tensor, list[Tensor]]) -> Iterator[None]:
    """Draw again what was drawn from ``states`` on, and put the generators back after."""
    with seeded(0):
        set_generators(*states)
        yield


def set_generators(cpu: Tensor, cuda: list[Tensor]) -> None:
    """Put torch's generators to the states that :func:`generators` returned."""
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)


@contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """Let programs make tensors in ``dtype``: constants and flows take torch's default, whatever that of the data."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Run with ``modules`` in evaluation mode, and put each part's mode back after: nothing that drops out or adapts does."""
    before = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, flag in before:
            part.training = flag


class Unobserve(Messenger):
    """Draw the observed sites afresh, marked ``was_observed``.

    Unlike Pyro's own ``uncondition``, this messenger leaves alone deterministic sites, which would gain a dimension if they
    were redrawn in a plate, and factors, which are not observations. It also marks sites that are ``observed`` in other data
    and not in these data.
    """

    def __init__(self, observed: Container[str] = ()):
        super().__init__()
        self.observed = observed

    def _pyro_sample(self, msg: Any) -> None:
        if is_awaited(msg, self.observed):
            return
        if msg["is_observed"] and not is_deterministic(msg) and not isinstance(msg["fn"], Unit):
            msg["is_observed"], msg["value"], msg["done"] = False, None, False
            msg["infer"] = {**msg["infer"], "was_observed": True}


def run(program: Program, x: Data, *handlers: Messenger, density: bool = True) -> dict[str, Any]:
    """Run ``program`` under ``handlers``; return its sample sites by name, with their log-probabilities (``density``)."""
    return random_sites(traced(program, x, *handlers, density=density))


def traced(program: Program, x: Data, *handlers: Messenger, density: bool = True) -> Any:
    """Run ``program`` under ``handlers``; return Pyro's trace of it, with log-probabilities (``density``)."""
    with ExitStack() as stack:
        tracer = stack.enter_context(poutine.trace())
        for handler in handlers:
            stack.enter_context(handler)
        program(x)
    if density:
        with standing_in(s for s in tracer.trace.nodes.values() if s["type"] == "sample" and is_observation(s)):
            tracer.trace.compute_log_prob()
    return tracer.trace


def random_sites(trace: Any) -> dict[str, Any]:
    """Return a trace's sample sites by name, those of plates' subsamples left out."""
    return {
        name: site for name, site in trace.nodes.items() if site["type"] == "sample" and not site_is_subsample(site)}


def draw_afresh(program: Program, x: Data, *handlers: Messenger) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Run ``program`` with nothing observed; return the latent values and the fresh observations, by site."""
    sites = run(program, x, Unobserve(), *handlers, density=False)
    fresh = {k: s for k, s in sites.items() if not is_deterministic(s) and not s["is_observed"]}
    observed = {k: s["value"] for k, s in fresh.items() if s["infer"].get("was_observed", False)}
    return {k: s["value"] for k, s in fresh.items() if k not in observed}, observed
