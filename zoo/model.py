"""The model: a Pyro program p(x, z | θ), and what the zoo makes of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import Distribution

from zoo.data import FEW, Data, Identity, put_back, reference, subsample_rows
from zoo.distributions.empty import Empty
from zoo.distributions.enumerated import Enumerated
from zoo.errors import ZooError, ZooWarning
from zoo.program.latents import Collected, Latents, Pack, Substitute, is_deterministic
from zoo.program.layout import layout
from zoo.program.masks import with_masked
from zoo.program.params import LocalParams, theta
from zoo.program.recording.settings import Settings
from zoo.program.run import (
    Unobserve,
    draw_afresh,
    isolated,
    latent_log_prob,
    log_prior,
    log_terms,
    run,
    seeded,
    unregistered,
)
from zoo.program.tolerance import drawn
from zoo.program.vectorise import over_draws
from zoo.registry import MODELS, Facts
from zoo.structure.linear_predictor import Predictor, find

if TYPE_CHECKING:
    from zoo.structure.quadratic import Moments


#: Rows of all draws that a program of independent rows takes in one run.
AT_ONCE = 2**13


#: Bytes of a predictor's matrix that a model may hold on to.
KEPT = 2**26


class Model(PyroModule):
    """A latent-variable model p(x, z | θ), defined by one plain Pyro program.

    A subclass writes ``forward(x)`` as in any Pyro tutorial: for one draw, with no thought of batching. θ lives in
    module parameters (``PyroParam`` where constrained), never in Pyro's global store. :func:`zoo.as_model` wraps a bare
    function. The program is the only definition of the density; everything else follows from it:

    ======================  =========================================================  ================
    ``latents(x)``          the latent sites and the unit that owns them               :class:`Latents`
    ``log_joint(x, z)``     log p(x, z | θ), unconstrained coordinates, Jacobian in    (draws, units)
    ``log_terms(x, z)``     the same, apart: log p(z), log p(x | z)                    2 × (draws, units)
    ``constrain(x, z)``     the sites' values at z, deterministic sites included       dict
    ``predict(x, z)``       observations drawn from p(x | z)                           dict
    ``simulate(x)``         latents and observations, drawn afresh                     (dict, x-like)
    ======================  =========================================================  ================

    A **unit** is one observation that owns its latents: the rows of the outermost plate that holds every latent and
    every observed site; where there is none, the data set is one unit. It is found from the program, not declared.
    A unit's latents pack into one unconstrained vector of length d (``biject_to(support)``, flattened). Discrete
    latents are enumerated: their d coordinates hold values of the support.

    What a model may know about itself, each optional, is written by overriding ``posterior``, ``log_evidence`` (models
    with discrete latents know both by enumeration), ``maximise``, ``start`` and ``recover``.

    Where every latent is a function of x (``pyro.deterministic`` sites alone), d = 0 and the posterior is a point.

    Attributes:
        dims: names for the event dimensions of sites, for the posterior tree: ``{"means": ("component", "column")}``.
        holdout: share of the units that θ and encoders should not see in a comparison, unless one says otherwise.
        train_with: the guide to fit θ with in a comparison, unless one says otherwise; empty: EM where the posterior is
            known, else the first amortised guide compared.
        learning_rate: of Adam, unless one says otherwise.
        quadratic: whether log p(x_i, z_i | θ) is a polynomial of degree two in row i, jointly so in z_i where z is continuous,
            as of normal rows. EM then needs the rows' first and second moments alone: see :mod:`zoo.structure.quadratic`.
        pure: whether the program does the same tensor operations in every run, whatever else Python knows: it counts nothing,
            and asks for no state of its own that changes. Fits may then record its operations, see
            :mod:`zoo.program.recording`.

    >>> import pyro, pyro.distributions as dist
    >>> def coin(x):
    ...     p = pyro.sample("p", dist.Beta(2.0, 2.0))
    ...     with pyro.plate("rows", len(x)):
    ...         pyro.sample("x", dist.Bernoulli(p), obs=x)
    >>> from zoo import as_model
    >>> model = as_model(coin)
    >>> x = torch.tensor([1.0, 1.0, 0.0])
    >>> model.log_joint(x, torch.zeros(5, 1, 1)).shape      # 5 draws, one unit, d = 1
    torch.Size([5, 1])
    """

    dims: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    holdout: ClassVar[float] = 0.0
    train_with: ClassVar[str] = ""
    learning_rate: ClassVar[float] = 0.02
    quadratic: ClassVar[bool] = False
    pure: bool = False
    #: Attributes that hold what is known already of the program and the data.
    caches: ClassVar[tuple[str, ...]] = ("_vectorised", "_last", "_part", "_plain", "_alone", "_predictor")

    def __init__(self) -> None:
        super().__init__()
        self._vectorised = True
        self._last: tuple[Any, Latents] | None = None
        self._part: tuple[Any, Latents] | None = None
        self._observed: frozenset[str] = frozenset()
        self._plain: bool | None = None
        self._alone = False
        self._predictor: tuple[Any, Settings, Predictor | None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # They hold on to the data, which copies can do without.
        return {**self.__dict__, **dict.fromkeys(("_last", "_part", "_predictor", "_proof"))}

    def forward(self, x: Any) -> Any:
        raise NotImplementedError("a Model writes its Pyro program as forward(x)")

    @property
    def label(self) -> str:
        """How tables and errors call the model: its registered name, or its class's."""
        path = f"{type(self).__module__}:{type(self).__name__}"
        return next((name for name, entry in MODELS.items() if entry.path == path), type(self).__name__)

    def latents(self, x: Data) -> Latents:
        """Return the latent sites of the program on ``x`` and how they pack into each unit's vector.

        Of a table of more than 32,768 rows, each a unit, 1,024 are run and stand for all. A site that was observed in data
        asked about before counts as observed in data without it, such as new rows to predict: :meth:`constrain` and
        :meth:`predict` draw it.

        Raises:
            ZooError: see :func:`zoo.program.layout.layout`.
        """
        key = Identity.of(x)
        for known in (self._last, self._part):
            if known is not None and known[0] == key:
                return known[1]
        with seeded(0), self._isolated():
            few = subsample_rows(x, FEW)
            if few is not x and bool(reference(x).isnan().any()):
                few = x  # which row has a number missing, all of them must be asked
            found = layout(self, few, self.label, self._observed)
            grown = found if few is x else found.grown(len(reference(x)), len(reference(few)))
            found = layout(self, x, self.label, self._observed) if grown is None else grown
        self._observed |= {site.name for site in found.observed}
        self._last, self._part, self._plain = (key, found), None, None
        return found

    def adopt(self, part: Data, units: int) -> None:
        """Take it that ``part`` is ``units`` of the units of the data last asked about: its :meth:`latents` are then known.

        A minibatch is new data each time, and its layout would else be found by running the program each time.
        """
        if self._last is not None:
            found = self._last[1].grown(units, self._last[1].units)
            self._part = None if found is None else (Identity.of(part), found)

    def log_terms(self, x: Data, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(z | θ) and log p(x | z, θ), in nats.

        Args:
            x: the data.
            z: (draws, units, d), unconstrained; for discrete latents, values of the support.

        Returns:
            two tensors (draws, units). The first includes log|det J| of the constraining map.
        """
        unit = self._unit(x)
        if self.quadratic and isinstance(x, Tensor) and len(z) > 1 and z[..., 0].numel() <= AT_ONCE:
            # Rows know nothing of each other, so all draws are as many rows more: one run, which need not be mapped.
            prior, likelihood = self._over_draws(
                lambda rows: log_terms(self._program, x.repeat(len(z), 1), rows, unit), z.flatten(0, 1)[None])
            return prior.view(len(z), -1), likelihood.view(len(z), -1)
        prior, likelihood = self._over_draws(lambda row: log_terms(self._program, x, row, unit), z)
        return prior, likelihood

    def log_terms_and_slope(self, x: Data, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return :meth:`log_terms` and the gradient of their sum in z, (draws, units, d), all without a graph."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            prior, likelihood = self.log_terms(x, z)
            [slope] = torch.autograd.grad((prior + likelihood).sum(), [z])
        return prior.detach(), likelihood.detach(), slope

    def log_prior_and_slope(self, x: Data, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(z | θ) alone, (draws, units), and its gradient in z (draws, units, d), both without a graph."""
        unit, sites = self._unit(x), self.latents(x).sites
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            prior: Tensor = self._over_draws(lambda row: log_prior(self._program, x, row, unit, sites[-1].name), z)
            [slope] = torch.autograd.grad(prior.sum(), [z])
        return prior.detach(), slope

    def log_joint(self, x: Data, z: Tensor) -> Tensor:
        """Return log p(x, z | θ) in nats, (draws, units), for z (draws, units, d): the sum of :meth:`log_terms`."""
        prior, likelihood = self.log_terms(x, z)
        return prior + likelihood

    def log_probs(self, x: Data, z: Tensor) -> dict[str, Tensor]:
        """Return every site's log-probability at z (draws, units, d): {site: (draws, *batch shape of the site)}.

        Those of latent sites include log|det J|. Their sums are :meth:`log_terms`.
        """
        unit = self._unit(x)

        def one(row: Tensor) -> dict[str, Tensor]:
            substitute = Substitute(row, unit)
            sites = run(self._program, x, substitute).items()
            return {k: latent_log_prob(k, s, substitute) for k, s in sites if not is_deterministic(s)}

        result: dict[str, Tensor] = self._over_draws(one, z)
        return result

    def sites(self, x: Data, z: Tensor) -> dict[str, Any]:
        """Return the sample sites of one run at one draw z (units, d), by name, as Pyro notes them."""
        with self._isolated():
            return run(self, x, Substitute(z, self._unit(x)), density=False)

    def log_likelihood(self, x: Data, z: Tensor) -> dict[str, Tensor]:
        """Return log p(x_i | z, θ) of each observation by site: {site: (draws, *batch shape of the site)}."""
        observed = {site.name for site in self.latents(x).observed}
        return {k: v for k, v in self.log_probs(x, z).items() if k in observed}

    def constrain(self, x: Data, z: Tensor) -> dict[str, Tensor]:
        """Return the latent and deterministic sites' values at z (draws, units, d), each (draws, *shape)."""
        unit = self._unit(x)

        def one(row: Tensor) -> dict[str, Tensor]:
            sites = run(self._program, x, Substitute(row, unit, observed=self._observed), density=False).items()
            return {k: s["value"] for k, s in sites if k not in self._observed or is_deterministic(s)}

        result: dict[str, Tensor] = self._over_draws(one, z, self.latents(x).awaited)
        return result

    def volume(self, x: Data, z: Tensor) -> dict[str, Tensor]:
        """Return what each continuous latent site gains from its coordinates at one draw z (units, d), over its batch shape.

        log|det ∂value/∂z|, and where a mask leaves a latent without a density a standard normal; see
        :class:`zoo.program.latents.Substitute`.
        """
        substitute = Substitute(z, self._unit(x), observed=self._observed)
        with self._isolated():
            run(self, x, substitute, density=False)
        return substitute.volume

    def unconstrain(self, x: Data, values: Mapping[str, Tensor]) -> Tensor:
        """Return the (draws, units, d) coordinates of latent ``values``, each (draws, *shape): inverts ``constrain``."""
        unit = self._unit(x)
        if not self.latents(x).size:
            draws = len(next(iter(values.values()))) if values else 1
            return self._nothing(x).expand(draws, -1, -1)
        last = self.latents(x).sites[-1].name

        def one(row: Mapping[str, Tensor]) -> Tensor:
            pack = Pack(row, unit, last, self._observed)
            with suppress(Collected):
                run(self._program, x, pack, density=False)
            return torch.cat(pack.parts, 1)

        result: Tensor = self._over_draws(one, dict(values))
        return result.to(reference(x).dtype)

    def predict(self, x: Data, z: Tensor) -> dict[str, Tensor]:
        """Draw observations from p(x | z, θ) at each draw of z (draws, units, d): {site: (draws, *shape)}.

        Uses torch's generator. Programs are run draw by draw: not every sampler runs under vmap. ``x`` may be new rows, with
        no observations where the program takes ``None`` for them, as in ``obs=x.get("y")``.
        """
        unit = self._unit(x)
        with torch.no_grad(), self._isolated():
            rows = [draw_afresh(self, x, Substitute(row, unit, observed=self._observed))[1] for row in z]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def sample_prior(self, x: Data, draws: int) -> Tensor:
        """Draw z from the prior p(z | θ): (draws, units, d), unconstrained. Uses torch's generator.

        Where the program fails at what it drew, say at a Cholesky factor that does not exist there, it is run again.

        Raises:
            ZooError: other latent sites from draw to draw, or a program that fails at nearly every draw.
        """
        return self.prior_draws(x, draws)[0]

    def prior_draws(self, x: Data, draws: int) -> tuple[Tensor, int]:
        """Return :meth:`sample_prior`, and how many runs of the program it took."""
        unit, sites = self._unit(x), self.latents(x).sites
        nothing = self._nothing(x)

        def draw() -> Tensor:
            # What follows the last latent site, often a network and draws of the size of the data, is not wanted.
            pack = Pack(None, unit, sites[-1].name if sites else "", self._observed)
            with suppress(Collected):
                run(self, x, Unobserve(), pack, density=False)
            return torch.cat(pack.parts, 1) if pack.parts else nothing

        with torch.no_grad(), self._isolated():
            rows, runs = drawn(draw, draws, f"a prior of {self.label}")
        if len({row.shape for row in rows}) > 1:
            raise ZooError(
                f"expected the same latent sites in every run of {self.label}; got other ones from draw to draw; "
                "sample all of them in every run and use what is needed")
        return torch.stack(rows).to(reference(x).dtype), runs

    def simulate(self, x: Data, seed: int | None = None) -> tuple[dict[str, Tensor], Data]:
        """Draw latents and observations from p(x, z | θ), shaped and with covariates like ``x``.

        Returns:
            the latent values by site, and data like ``x`` in which the observed entries are replaced: those that a mask leaves
            out stay as they are, so that what is missing stays missing.

        Raises:
            ZooError: if an observed site is no entry of ``x``, so that its draw has no place there.
        """
        observed = {site.name: site.shape for site in self.latents(x).observed}
        with seeded(seed), torch.no_grad(), self._isolated():
            [run_once], _ = drawn(lambda: run(self, x, density=False), 1, f"a prior of {self.label}")
            sites = {k: s for k, s in run_once.items() if k in observed}
            [(latent, fresh)], _ = drawn(lambda: draw_afresh(self, x, Unobserve(self._observed)), 1, f"data of {self.label}")
        kept = {k: with_masked(site, fresh[k]) for k, site in sites.items()}
        return latent, put_back(x, {k: site["value"] for k, site in sites.items()}, kept)

    def theta(self) -> dict[str, Tensor]:
        """Return θ by name, constrained: e.g. the weights of a mixture on the simplex, not their logits."""
        return theta(self)

    def facts(self, x: Data) -> Facts:
        """Return what decides which guides fit: kind of latents, owner, and whether p(z | x, θ) is known."""
        found = self.latents(x)
        exact = found.discrete or not found.size or type(self).posterior is not Model.posterior
        kind = "discrete" if found.discrete else "continuous" if found.size else "none"
        return Facts(
            kind, "rows" if found.unit else "dataset", exact, self.label)

    def posterior(self, x: Data) -> Distribution:
        """Return the exact p(z | x, θ): batch shape (units,), event shape (d,), unconstrained coordinates.

        Discrete latents are enumerated, and latents that are functions of x leave a point, so all such models know it.

        Raises:
            NotImplementedError: where it is not known.
        """
        if not self.latents(x).size:
            return Empty(self._nothing(x))
        if not self.latents(x).discrete:
            raise NotImplementedError(f"{self.label} has no exact posterior")
        log_joint, values = self._enumerate(x)
        return Enumerated(log_joint.T, values, validate_args=False)

    def log_evidence(self, x: Data) -> Tensor:
        """Return the exact log p(x | θ) of each unit, (units,), in nats.

        Known by enumeration for discrete latents, and as log p(x, z) − log p(z | x) at any one z where the posterior is.

        Raises:
            NotImplementedError: where it is not known.
        """
        if self.latents(x).discrete:
            return self._enumerate(x)[0].logsumexp(0)
        if not self.facts(x).exact:
            raise NotImplementedError(f"{self.label} has no exact log evidence")
        q = self.posterior(x)
        evidence: Tensor = self.log_joint(x, q.mean[None])[0] - q.log_prob(q.mean)
        return evidence

    def maximise(self, x: Data, q: Distribution) -> None:
        """Set θ to the maximiser of E_q[log p(x, z | θ)]: the M-step of EM, in closed form.

        Args:
            x: the data.
            q: batch shape (units,), event shape (d,).

        Raises:
            NotImplementedError: where there is no closed form; EM then climbs by gradient steps.
        """
        raise NotImplementedError(f"{self.label} has no closed-form M-step")

    def maximise_moments(self, moments: Moments) -> None:
        """Set θ to the maximiser of E_q[log p(x, z | θ)] from the rows' moments under each value of z.

        The M-step of ``quadratic`` models with discrete latents, beside :meth:`maximise`.

        Raises:
            NotImplementedError: where there is no closed form.
        """
        raise NotImplementedError(f"{self.label} has no closed-form M-step")

    def confine(self) -> None:
        """Move θ to where the M-step could have put it, if that bounds θ: extrapolated steps may leave there."""

    def start(self, x: Data) -> dict[str, Tensor] | None:
        """Return latent values near which fits of ``free`` guides should start; ``None``: the prior's median."""
        return None

    def recover(self, x: Data, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return quantities that the program marginalises, for the posterior tree; ``values`` are (draws, *shape)."""
        return {}

    def linear_predictor(self, x: Data) -> Predictor | None:
        """Return the linear predictor that the program is proved to have on ``x``, ``None`` where it has none.

        It is kept for the next time, unless it is large, and then held against the program at one point.
        """
        key = Identity.of(x)
        before, settings, known = self._predictor or (None, None, None)
        if before != key or not (settings and settings.hold()) or (known is not None and not known.holds(self, x)):
            known = find(self, x)
            self._predictor = (key, Settings([self]), known) if known is None or known.matrix.nbytes <= KEPT else None
        return known

    def purity(self) -> str:
        """Return why the program is not known to be pure; empty where it is."""
        if "pure" in vars(self):
            return "" if self.pure else f"{self.label} is not declared pure"
        # A subclass may do what the class that declared itself pure does not: only our own are known.
        own = [base for base in type(self).__mro__ if "pure" in vars(base) or not base.__module__.startswith("zoo.")]
        return "" if vars(own[0]).get("pure", False) else f"{type(self).__name__} does not declare pure = True"

    def unchanged(self) -> bool:
        """Return whether what the program loads from outside, if anything is known of that, is as it was."""
        return True

    @property
    def _program(self) -> Callable[[Data], Any]:
        """The program as it is run: ``forward`` itself where that is the same as calling the module.

        A call makes each use of a parameter or a network a statement that goes through Pyro's handlers, a third of the time
        that a run of a small program takes. Only ``PyroSample`` attributes and hooks need it.
        """
        if self._plain is None:
            modules = [m for m in self.modules() if isinstance(m, PyroModule)]
            hooked = self._forward_hooks or self._forward_pre_hooks
            self._plain = not hooked and not any(m._pyro_samples for m in modules)
            self._alone = len(modules) == 1
        return self.forward if self._plain else self

    @contextmanager
    def _isolated(self, called: bool = True) -> Iterator[None]:
        """Only where a PyroModule is ``called`` does Pyro see parameters, and warn of those held fixed."""
        fixed = called and self.training and any(not p.requires_grad for p in self.parameters())
        with isolated(LocalParams(self)), unregistered() if fixed else nullcontext():
            yield

    def _unit(self, x: Data) -> str | None:
        # Which plate owns the latents is a matter of the program, not of the rows: minibatches need no new trace.
        return self._last[1].unit if self._last is not None else self.latents(x).unit

    def _nothing(self, x: Data) -> Tensor:
        """The units' vectors where d = 0, (units, 0)."""
        return reference(x).new_zeros(self.latents(x).units, 0)

    def _enumerate(self, x: Data) -> tuple[Tensor, Tensor]:
        found = self.latents(x)
        values = found.support().to(reference(x))
        return self.log_joint(x, values[:, None].expand(-1, found.units, -1)), values

    @property
    def draw_by_draw(self) -> bool:
        """Whether the program was found not to run under vmap, so that each draw takes a run of its own."""
        return not self._vectorised

    def _over_draws(self, one: Callable[[Any], Any], rows: Any, drawing: bool = False) -> Any:
        """Map ``one`` over the first dimension of ``rows``; the first time that vmap can't, say so and why.

        A program that is ``drawing`` observations is run row by row: not every sampler runs under vmap.
        """
        with self._isolated(self._program is self or not self._alone):
            result, failure = over_draws(one, rows, self._vectorised and not drawing)
        if failure:
            self._vectorised = False
            warnings.warn(ZooWarning(
                f"{self.label} can't run under vmap and will be run draw by draw, which is slower: {failure}"), stacklevel=3)
        return result
