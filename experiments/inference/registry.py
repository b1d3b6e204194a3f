"""The methods of inference: a new one is a line here, and a class in a file of its own.

The registry is plain data, so the methods and their options can be listed without importing anything heavy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.inference.options import Options, names
from zoo.errors import ZooError, nearest
from zoo.registry import Registry, load

if TYPE_CHECKING:
    from experiments.inference.method import Method, Problem
    from guides.guide import BaseGuide
    from zoo.data import Data


@dataclass(frozen=True)
class MethodEntry:
    """One registered method.

    Attributes:
        path: ``module:class``.
        summary: what the method does, in a line.
        own: ``module:class`` of the method's options. The command line imports this module to list the options, so the module
            must import nothing heavy.
    """

    path: str
    summary: str
    own: str = "experiments.inference.options:Options"

    @property
    def options(self) -> type[Options]:
        """The dataclass of the method's options."""
        found: type[Options] = load(self.own)
        return found


#: The first that suits a guide is its method where nobody says.
METHODS: Registry[MethodEntry] = Registry("methods", {
    "em": MethodEntry(
        "experiments.inference.em.method:EM", "expectation–maximisation, for guide exact",
        "experiments.inference.options:EMOptions"),
    "fixed_draws": MethodEntry(
        "experiments.inference.fixed_draws.method:FixedDraws",
        "the ELBO on fixed noise, by L-BFGS and natural gradients", "experiments.inference.options:FixedDrawsOptions"),
    "svi": MethodEntry(
        "experiments.inference.svi.method:SVI", "Adam on minibatch estimates of a bound",
        "experiments.inference.svi.options:SVIOptions"),
    "laplace": MethodEntry("experiments.inference.normals.laplace:Laplace", "a normal at the mode, by the curvature there"),
    "pathfinder": MethodEntry(
        "experiments.inference.normals.pathfinder:Pathfinder", "the best normal along L-BFGS paths from several starts",
        "experiments.inference.options:PathfinderOptions"),
    "nuts": MethodEntry(
        "experiments.inference.sampling.nuts:NUTS", "the no-U-turn sampler, until its chains agree",
        "experiments.inference.options:NUTSOptions"),
    "psis": MethodEntry(
        "experiments.inference.sampling.psis:PSIS", "draws of a guide, corrected by Pareto-smoothed importance weights",
        "experiments.inference.options:PSISOptions"),
    "ais": MethodEntry(
        "experiments.inference.sampling.ais:AIS", "annealed importance sampling from a guide to the posterior",
        "experiments.inference.options:AISOptions"),
})


def entry(name: str) -> MethodEntry:
    """Return the entry of a registered method.

    Raises:
        ZooError: an unknown name.

    >>> entry("svi").options(steps=100).limit
    100
    """
    if name not in METHODS:
        raise ZooError(f"unknown method '{name}'{nearest(name, METHODS) or ';'} choose from {', '.join(METHODS)}")
    return METHODS[name]


def build_method(name: str) -> Method[Any]:
    """Return a registered method.

    Raises:
        ZooError: an unknown name.
    """
    found: Method[Any] = load(entry(name).path)()
    return found


def misfit(name: str, problem: Problem) -> str:
    """Return why a method can't fit ``problem``, as a whole error line; empty where it can."""
    method, guide = build_method(name), problem.guide
    if not _takes(method, guide):
        others = [build_method(known) for known in METHODS]
        able = " or ".join(other.name for other in others if _takes(other, guide) and not other.misfit(problem))
        wanted = "draws(guide)" if method.fits_draws else "a guide with a density"
        return f"expected {wanted} for method {name}; got '{guide.text}'; use method {able}"
    return method.misfit(problem)


def _takes(method: Method[Any], guide: BaseGuide) -> bool:
    """Return whether a method fits guides of this kind, with a density or known by draws."""
    return method.fits_density if guide.density else method.fits_draws


def written_method(guide: BaseGuide) -> str | None:
    """Return the method that is written with a guide, ``guide@method``; ``None`` where none is.

    >>> import guides, zoo
    >>> x = zoo.dataset("eight_schools").x
    >>> written_method(guides.build("full_rank@laplace", zoo.build("eight_schools", x), x))
    'laplace'
    """
    _, at, name = guide.written.rpartition("@")
    return name.strip() if at and name.strip().isidentifier() else None


def default_method(guide: BaseGuide, x: Data | None = None) -> str:
    """Return the method that is written with a guide, or else the first registered one that suits it.

    >>> import guides, zoo
    >>> x = zoo.dataset("eight_schools").x
    >>> default_method(guides.build("full_rank", zoo.build("eight_schools", x), x), x)
    'fixed_draws'
    """
    if (written := written_method(guide)) is not None:
        return written
    latents = None if x is None else guide.model.latents(x)
    return next(name for name in METHODS if build_method(name).suits(guide, latents))


def fitting_methods(guide: BaseGuide, x: Data, train_model: bool = True) -> list[str]:
    """Return the registered methods that can fit a guide, and θ with it (``train_model``), the default one first.

    A guide without parameters, of a model whose θ does not move, has nothing to fit.

    >>> import guides, zoo
    >>> x = zoo.dataset("eight_schools").x
    >>> fitting_methods(guides.build("full_rank", zoo.build("eight_schools", x), x), x)
    ['fixed_draws', 'svi', 'laplace', 'pathfinder']
    """
    from experiments.inference.method import Problem

    theta = train_model and any(p.requires_grad for p in guide.model.parameters())
    if not theta and not guide.size:
        return []
    problem = Problem(guide.model, guide, x, theta)
    found = [name for name in METHODS if not misfit(name, problem)]
    return sorted(found, key=lambda name: name != default_method(guide, x))


def methods_with(option: str) -> list[str]:
    """Return the methods that have an option.

    >>> methods_with("accelerate")
    ['em']
    """
    return [name for name, known in METHODS.items() if option in names(known.options)]


def known_options() -> dict[str, dataclasses.Field[Any]]:
    """Return the options that can be written down, of all methods, by what the command line and specs call them.

    >>> known_options()["patience"].default, known_options()["train_draws"].name
    (10, 'draws')
    """
    found: dict[str, dataclasses.Field[Any]] = {}
    for known in METHODS.values():
        for one in dataclasses.fields(known.options):
            if not one.metadata["hidden"]:
                found.setdefault(one.metadata["key"] or one.name, one)
    return found


def check_options(given: Mapping[str, Any]) -> None:
    """Check options by name and value, whichever method will take them.

    Raises:
        ZooError: an option that no method has, or a value out of its range.
    """
    known = list(dict.fromkeys(name for entry in METHODS.values() for name in names(entry.options)))
    for name in given:
        if name not in known:
            raise ZooError(f"unknown option '{name}' of fit{nearest(name, known) or '; it has ' + ', '.join(known)}")
    for one in METHODS.values():
        one.options.of(given)


def choose(name: str | None, problem: Problem, given: Mapping[str, Any]) -> tuple[Method[Any], Any]:
    """Return the method to fit with, the one that is named or the first that suits the guide, and its options.

    Raises:
        ZooError: an unknown name, one beside another that is written with the guide, or an option that the method lacks.
    """
    written = written_method(problem.guide)
    if name is not None and written not in (None, name):
        raise ZooError(f"expected one method for '{problem.guide.text}'; got method {name}, too; leave one of them out")
    text = name or default_method(problem.guide, problem.shown)
    options = entry(text).options
    for option, value in given.items():
        if value is not None and value is not False and option not in names(options):
            raise ZooError(
                f"expected method {' or '.join(methods_with(option))} with {option}; got {text} for '{problem.guide.text}'; "
                f"leave {option} out")
    return build_method(text), options.of(given)
