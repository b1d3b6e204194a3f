"""Any Pyro guide as a guide of the zoo: its draws, and their log q, from its trace."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Distribution

from guides.guide import BaseGuide
from guides.pyro_guide import calls, trace
from zoo.data import Data, Identity, reference, take
from zoo.distributions.enumerated import Enumerated
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.params import LocalParams
from zoo.program.run import Program, isolated, precision, run, seeded
from zoo.program.sites.angles import centre
from zoo.program.sites.latents import Packing, Scheme, by_unit, is_deterministic, sum_right
from zoo.program.sites.layout import first_run
from zoo.program.sites.stand_ins import whole_plates
from zoo.program.sites.substitution import Pack, Substitute
from zoo.program.vectorise import FORBIDDEN, OverDraws


def as_guide(model: Model, guide: BaseGuide | str | Program | type[AutoGuide], x: Data) -> BaseGuide | str:
    """Return ``guide`` as a guide for ``model`` on ``x``: ours, or how one is written, unchanged; a Pyro guide wrapped.

    Args:
        model: the model.
        guide: one of ours or its written form; an ``AutoGuide``, or its class, which is then called on the model; or a
            Pyro program of one argument, x: a function, or a module with its own parameters.
        x: the data.

    Raises:
        ZooError: anything else, or a program that is no guide of this model (see :class:`ProgramGuide`).

    >>> import zoo
    >>> from pyro.infer.autoguide import AutoNormal
    >>> x = zoo.dataset("eight_schools").x
    >>> as_guide(zoo.build("eight_schools", x), AutoNormal, x).size
    20
    """
    if isinstance(guide, BaseGuide | str):
        return guide
    if isinstance(guide, type) and issubclass(guide, AutoGuide):
        try:
            guide = guide(model)
        except TypeError as error:
            raise ZooError(f"expected {guide.__name__} to take the model alone; got {error}; pass an instance") from error
        return ProgramGuide(model, guide, x, fresh=True)
    if isinstance(guide, type) or not callable(guide):
        got = f"the class {guide.__name__}" if isinstance(guide, type) else type(guide).__name__
        raise ZooError(f"expected a guide: its name, or a Pyro program of x; got {got}; pass one, e.g. 'full_rank'")
    return ProgramGuide(model, guide, x)


class ProgramGuide(BaseGuide):
    """A Pyro guide: a program that samples the model's latent sites. log q(z | x) is read off its trace.

    A draw's values go to the model's unconstrained coordinates z, where log q(z) = Σ log q(site) + log|det ∂value/∂z|,
    summed over the sites of each unit. An ``AutoGuide`` draws in these coordinates already: its are taken as they are.
    Draws are vectorised by ``torch.func.vmap``; programs that vmap can't run go draw by draw, with a warning.

    φ is the parameters of the module; of a function, its ``pyro.param`` statements. These start at what Pyro's global store
    has under their names, so a guide that stock Pyro has trained is taken as it is, and are kept here: the store stays as it
    was. Go on with this object, as another wrapping of the function starts anew. What an ``AutoGuide`` makes on its first call
    is made here, from the store or from the seed 0, in the precision of x. Plates that subsample hold all their rows.

    Args:
        model: the model.
        program: a Pyro program of the model's arguments. It comes out in evaluation mode, as guides do.
        x: the data.
        fresh: whether an ``AutoGuide`` that has not run is to start anew, whatever the store holds.

    Attributes:
        latents: the model's, on x.
        has_rsample: whether every site is reparameterised.
        minibatches, new_units: whether it runs on some of the rows; an ``AutoGuide`` has parameters for all of them.

    Raises:
        ZooError: an ``AutoGuide`` of another model; other arguments than the model's; latent sites that are missing, too many
            or of another shape; a scaled, masked or observed site; a point estimate in place of a density; a site that
            couples the units; θ among φ; a parameter in Pyro's store that is of another shape.

    Source: Bingham et al. (2019), Pyro, https://jmlr.org/papers/v20/18-403.html

    >>> import pyro, zoo, pyro.distributions as dist
    >>> x = zoo.dataset("wine", standardise=True).x
    >>> def guide(x):
    ...     loc = pyro.param("loc", torch.zeros(2).to(x))
    ...     with pyro.plate("rows", len(x)):
    ...         pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
    >>> q = ProgramGuide(zoo.build("ppca", x), guide, x).posterior(x)
    >>> z, log_q = q.rsample_and_log_prob((5,))
    >>> z.shape, log_q.shape
    (torch.Size([5, 178, 2]), torch.Size([5, 178]))
    """

    program: Any
    pure = False
    _subsamples = False
    caches = (*BaseGuide.caches, "_checked", "_draws")

    def __init__(self, model: Model, program: Program, x: Data, fresh: bool = False):
        super().__init__(model, getattr(program, "__name__", type(program).__name__))
        self.written = ""
        self._places = calls.takes_places(model, program, self.text, x)
        self.latents = model.latents(x)
        self.fit_to(x)
        if not self.latents.size:
            raise ZooError(f"expected a model with latents for '{self.text}'; got {model.label}, which has none; use 'exact'")
        self.__dict__["program"], self.__dict__["_checked"] = program, None
        if isinstance(program, nn.Module):
            # PyroModule's own way would rename its parameters, and refuse used ones.
            nn.Module.add_module(self, "module", program)
        self._draws = OverDraws(self, quiet=True)
        with seeded(0), torch.no_grad(), isolated(LocalParams(model)):
            found = first_run(model, x)
        self._angles = {site.name for site in self.latents.sites if centre(found[site.name]["fn"]) is not None}
        with seeded(0), precision(reference(x).dtype), whole_plates() as asked:
            calls.make_parameters(self, x, fresh)
        self._subsamples = bool(asked)
        with seeded(0), torch.no_grad():
            sites = self._run(x)
            trace.check_sites(self.latents, sites, self.text)
            trace.check_density(self.latents, sites, self.text)
            self._auxiliary = trace.auxiliary_sites(program, sites)
            self._check_units(sites)
            self.has_rsample = all(site["fn"].has_rsample for site in sites.values())
            self.minibatches = self.new_units = self._runs_on_some(x)
            if not self.latents.discrete:
                self._check_supports(x)
                self._check_draws(x)
        self.eval()

    @property
    def label(self) -> str:
        """What warnings call the guide."""
        return f"'{self.text}'"

    def forward(self, x: Data) -> Any:
        with trace.Params(self):  # stock Pyro, too, must run the program with this guide's φ
            return self.called(x)

    def posterior(self, x: Data, index: Tensor | None = None) -> Distribution:
        units = self.model.latents(x).units if index is None else len(index)
        self.check_size(x, self.latents.size, index)
        if units != self.latents.units and not self.minibatches:
            raise ZooError(
                f"expected the {self.latents.units} units that '{self.text}' has parameters for; got {units}; leave "
                "batch_size out, or amortise the guide over the rows of x")
        if not self.latents.discrete:
            self._check_supports(x)
            return trace.ProgramDistribution(self, x, units)
        values = self.latents.support().to(reference(x))
        return Enumerated(self.log_q(x, values[:, None].expand(-1, units, -1)).T, values, validate_args=False)

    def draw(self, x: Data, units: int, draws: int) -> tuple[Tensor, Tensor]:
        """Run the program once per draw; return z (draws, units, d) and log q(z | x) (draws, units), in nats."""

        def one(zero: Tensor) -> tuple[Tensor, Tensor]:
            with trace.Batched(zero):
                sites = self._run(x)
            return self._place(x, sites, units)

        zeros = torch.zeros(draws, device=reference(x).device)
        z, log_q = self._draws(one, zeros, self.model.latents(x).awaited)
        return z.to(reference(x).dtype), log_q

    def log_q(self, x: Data, z: Tensor) -> Tensor:
        """Return log q(z | x) in nats, (draws, units), at any z (draws, units, d).

        Raises:
            ZooError: the program draws auxiliary values that z does not tell, or can't be inverted.
        """

        def one(row: Tensor) -> Tensor:
            sites, model, substitute = self._at(x, row, self.text)
            volume = sum(by_unit(v, model[name], self.latents.unit) for name, v in substitute.log_abs_det.items())
            return self._sum(sites, model, row.shape[0]) + volume

        try:
            log_q: Tensor = self._draws(one, z, self.model.latents(x).awaited)
        except (KeyError, NotImplementedError) as error:  # of flows without an inverse
            raise ZooError(
                f"expected a guide whose log-density is known at any z; got '{self.text}', which can't be inverted: {error}; "
                "take it at the guide's own draws, with rsample_and_log_prob") from error
        return log_q

    def _run(self, x: Data, *handlers: Messenger, density: bool = True) -> dict[str, Any]:
        whole = whole_plates() if self._subsamples else nullcontext()
        with isolated(trace.Params(self)), precision(reference(x).dtype), whole:
            sites = run(self.called, x, trace.Angles(self._angles), *handlers, density=density)
        return {name: site for name, site in sites.items() if not is_deterministic(site)}

    def called(self, x: Data) -> Any:
        """Call the program on what its model is given."""
        args, kwargs = self.given(x)
        return self.program(*args, **kwargs)

    def given(self, x: Data) -> calls.Given:
        """Return what the program is called with."""
        return calls.guide_arguments(self.model, self.program, x, self._places)

    def _run_model(self, x: Data, handler: Messenger) -> dict[str, Any]:
        with self.model.runner.isolated():
            return run(self.model, x, handler, density=False)

    def _place(self, x: Data, sites: Mapping[str, Any], units: int) -> tuple[Tensor, Tensor]:
        """Return one draw's z (units, d) and log q(z | x) (units,) from the program's trace."""
        scheme, volume, parts = self.model.runner.scheme(x, drawing=True), torch.zeros(()), []
        values, known = self._values(sites), trace.unpack(self._auxiliary, sites)
        model = self._run_model(x, Pack(values, scheme))
        for name, value in values.items():
            packing = Packing.of(model[name], scheme)
            assert packing.transform is not None, "discrete latents are enumerated"
            z = known[name] if name in known else packing.transform.inv(value)
            log_abs_det = packing.transform.log_abs_det_jacobian(z, value)
            volume = volume + by_unit(sum_right(log_abs_det, packing.extra), model[name], scheme.unit)
            parts.append(packing.pack(z))
        return torch.cat(parts, 1), self._sum(sites, model, units) + volume

    def _at(self, x: Data, row: Tensor, text: str | None) -> tuple[dict[str, Any], dict[str, Any], Substitute]:
        """Return the traces of the program, without densities where ``text`` is ``None``, and of the model at z (units, d)."""
        substitute = Substitute(row, self.model.runner.scheme(x, drawing=True))
        model = self._run_model(x, substitute)
        fixed = trace.Fixed(self._values(model), substitute.unconstrained, self._auxiliary, text)
        return self._run(x, fixed, density=text is not None), model, substitute

    def _values(self, sites: Mapping[str, Any]) -> dict[str, Tensor]:
        return {site.name: sites[site.name]["value"] for site in self.latents.sites}

    def _sum(self, sites: Mapping[str, Any], model: Mapping[str, Any], units: int) -> Tensor:
        """Sum the program's log-probabilities over the sites of each unit, (units,)."""
        total = torch.zeros(())
        for name, site in sites.items():
            plate = trace.unit_plate(self.latents, site, units)
            if plate is not None or self.latents.unit is None or units == 1:
                total = total + by_unit(site["log_prob"], site, plate)
                continue
            each = site["fn"].base_dist.log_prob(site["value"])
            for latent, part in trace.split(each, self._auxiliary[name]).items():
                total = total + Packing.of(model[latent], Scheme(self.latents.unit)).pack(part).sum(1)
        return total

    def _check_units(self, sites: Mapping[str, Any]) -> None:
        """Raise where the log-density of a site can't be told apart by unit."""
        for name, site in sites.items():
            plate = trace.unit_plate(self.latents, site, self.latents.units)
            apart = plate is not None or (name in self._auxiliary and trace.separable(site))
            if self.latents.units > 1 and not apart:
                raise ZooError(
                    f"expected every site of '{self.text}' in plate '{self.latents.unit}', whose rows own their latents; got "
                    f"'{name}' outside; use full_rank, which does this unit by unit, or AutoNormal")

    def _check_supports(self, x: Data) -> None:
        """Raise where an ``AutoGuide`` maps its coordinates to another support than the model has, at a draw of the prior."""
        if not self._auxiliary or self.__dict__.get("_checked") == Identity.of(x):
            return
        with seeded(0), torch.no_grad():
            sites, model, _ = self._at(x, self.model.sample_prior(x, 1)[0], None)
        for name in trace.unpack(self._auxiliary, sites):
            value, expected = sites[name]["value"], model[name]["value"]
            if not torch.allclose(value, expected, 1e-4, 1e-6 * float(expected.abs().max()), equal_nan=True):
                raise ZooError(
                    f"expected latents of fixed support for '{self.text}'; got '{name}', whose support changes; use "
                    "mean_field, whose coordinates follow it")
        self.__dict__["_checked"] = Identity.of(x)

    def _check_draws(self, x: Data) -> None:
        """Fall back to a loop where vmap gives all draws one value: samplers that don't use torch's generator."""
        z, _ = self.draw(x, self.latents.units, 2)
        same = (z[0] == z[1]).split([site.size for site in self.latents.sites], 1)
        if self._draws.vectorised and any(bool(part.all()) for part in same):
            self._draws.give_up("it would draw the same value in every draw")

    def _runs_on_some(self, x: Data) -> bool:
        """Return whether the program, run on half of the rows, draws the latents of these alone."""
        latents, some = self.latents, (self.latents.units + 1) // 2
        if not latents.rows_first or latents.unit is None or some == latents.units:
            return False
        try:
            sites = self._run(take(x, torch.arange(some, device=reference(x).device), latents.units))
        except (*FORBIDDEN, KeyError):
            return False
        axes = {site: site.plates.index(latents.unit) for site in latents.sites}
        expected = {site.name: (*site.shape[:i], some, *site.shape[i + 1:]) for site, i in axes.items()}
        return all(value.shape == expected[name] for name, value in self._values(sites).items())
