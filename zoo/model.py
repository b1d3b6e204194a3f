"""The model: a Pyro program p(x, z | θ), and the densities, draws and layout that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.distributions import Distribution

from zoo.data import Data, reference
from zoo.distributions.empty import Empty
from zoo.distributions.enumerated import Enumerated
from zoo.program.coordinates import constrained, coordinates
from zoo.program.density import log_terms
from zoo.program.drawing import predictions, prior_draws, simulation
from zoo.program.enumeration.rows import likelihoods
from zoo.program.params import theta
from zoo.program.run import run
from zoo.program.runner import Hooked, Runner
from zoo.program.sites.blocks import Blocks
from zoo.program.sites.latents import Latents, is_deterministic
from zoo.program.sites.substitution import Substitute, latent_log_prob
from zoo.program.tally import tally_draws
from zoo.registry import MODELS, Facts
from zoo.structure.learned import Form, Learned, learned

#: Rows of all draws that a program of independent rows takes in one run.
AT_ONCE = 2**13


class Model(Hooked):
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

    A **unit** is one observation that owns its latents: the rows of the outermost plate that holds every latent and every
    observed site; where there is none, the data set is one unit. It is found from the program, not declared. A unit's
    latents pack into one unconstrained vector of length d (``biject_to(support)``, flattened). Discrete latents are
    enumerated: their d coordinates hold values of the support. Where every latent is a function of x, d = 0.

    What a model may know about itself, each optional, is written by overriding ``posterior``, ``log_evidence`` (models
    with discrete latents know both by enumeration), ``maximise``, ``start``, ``recover`` and ``forms``.

    Attributes:
        dims: names for event dimensions of sites, and for those of θ in order: ``{"means": ("component", "column")}``.
        holdout: share of the units that θ and encoders should not see in a comparison, unless one says otherwise.
        train_with: the guide to fit θ with in a comparison; empty: EM where p(z | x) is known, else the first amortised one.
        learning_rate: of Adam, unless one says otherwise.
        quadratic: whether log p(x_i, z_i | θ) is a polynomial of degree two in row i, jointly so in z_i where z is continuous,
            as of normal rows. EM then needs the rows' first and second moments alone: see :mod:`zoo.structure.quadratic`.
        pure: whether the program does the same tensor operations in every run, whatever else Python knows: it counts nothing,
            asks for no state of its own that changes. Fits may then record them, see :mod:`zoo.program.recording`.
        runner: runs the program, and knows its layout on the data: see :class:`zoo.program.runner.Runner`.

    >>> import pyro, torch, zoo, pyro.distributions as dist
    >>> def coin(x):
    ...     p = pyro.sample("p", dist.Beta(2.0, 2.0))
    ...     with pyro.plate("rows", len(x)):
    ...         pyro.sample("x", dist.Bernoulli(p), obs=x)
    >>> model = zoo.as_model(coin)
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
    caches: ClassVar[tuple[str, ...]] = ("runner",)

    def __init__(self) -> None:
        super().__init__()
        self.runner = Runner(self)

    def forward(self, x: Any) -> Any:
        raise NotImplementedError("a Model writes its Pyro program as forward(x)")

    def given(self, x: Data) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and keyword arguments with which the program, and a guide of it, is called on ``x``."""
        return (x,), {}

    @property
    def label(self) -> str:
        """The model's name in tables and errors: its registered name, or its class's."""
        path = f"{type(self).__module__}:{type(self).__name__}"
        return next((name for name, entry in MODELS.items() if entry.path == path), type(self).__name__)

    def latents(self, x: Data) -> Latents:
        """Return the latent sites of the program on ``x`` and how they pack into each unit's vector.

        Of a table of more than 32,768 rows, each a unit, 1,024 are run and stand for all. A site that was observed in data
        asked about before counts as observed in data without it, such as new rows to predict: :meth:`constrain` and
        :meth:`predict` draw it.

        Raises:
            ZooError: see :func:`zoo.program.sites.layout.layout`.
        """
        return self.runner.latents(x)

    def log_terms(self, x: Data, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(z | θ) and log p(x | z, θ), in nats.

        Args:
            x: the data.
            z: (draws, units, d), unconstrained; for discrete latents, values of the support.

        Returns:
            two tensors (draws, units). The first includes log|det J| of the constraining map.
        """
        tally_draws(x, z)
        scheme = self.runner.scheme(x)
        if self.quadratic and isinstance(x, Tensor) and len(z) > 1 and z[..., 0].numel() <= AT_ONCE:
            # Rows know nothing of each other, so all draws are as many rows more: one run, which need not be mapped.
            prior, likelihood = self.runner.over_draws(
                lambda rows: log_terms(self.runner.program, x.repeat(len(z), 1), rows, scheme), z.flatten(0, 1)[None])
            return prior.view(len(z), -1), likelihood.view(len(z), -1)
        prior, likelihood = self.runner.over_draws(lambda row: log_terms(self.runner.program, x, row, scheme), z)
        return prior, likelihood

    def log_joint(self, x: Data, z: Tensor) -> Tensor:
        """Return log p(x, z | θ) in nats, (draws, units), for z (draws, units, d): the sum of :meth:`log_terms`."""
        prior, likelihood = self.log_terms(x, z)
        return prior + likelihood

    def log_probs(self, x: Data, z: Tensor) -> dict[str, Tensor]:
        """Return every site's log-probability at z (draws, units, d): {site: (draws, *batch shape of the site)}.

        Those of latent sites include log|det J|. Their sums are :meth:`log_terms`. Where discrete latents are summed out, there
        is one term of all latents and one of all observations, (draws, units), each under all their names.
        """
        scheme = self.runner.scheme(x)
        if scheme.summed:
            kinds = (self.latents(x).sites, self.latents(x).observed)
            names = (", ".join(site.name for site in kind) for kind in kinds)
            return dict(zip(names, self.log_terms(x, z), strict=True))

        def one(row: Tensor) -> dict[str, Tensor]:
            substitute = Substitute(row, scheme)
            sites = run(self.runner.program, x, substitute).items()
            return {k: latent_log_prob(k, s, substitute) for k, s in sites if not is_deterministic(s)}

        result: dict[str, Tensor] = self.runner.over_draws(one, z)
        return result

    def log_likelihood(self, x: Data, z: Tensor) -> dict[str, Tensor]:
        """Return log p(x_i | z, θ) of each observation by site: {site: (draws, *batch shape of the site)}.

        Where discrete latents are summed out: of each row of the plate that holds them and the observations, under the names of
        all observed sites; of all observations together, (draws,), where there is no such plate.
        """
        if self.latents(x).summed:
            return likelihoods(self.runner, x, z)
        observed = {site.name for site in self.latents(x).observed}
        return {k: v for k, v in self.log_probs(x, z).items() if k in observed}

    def constrain(self, x: Data, z: Tensor) -> dict[str, Tensor]:
        """Return the latent and deterministic sites' values at z (draws, units, d), each (draws, *shape).

        Discrete latents that are summed out, and what is computed from them, have none.
        """
        return constrained(self.runner, x, z)

    def unconstrain(self, x: Data, values: Mapping[str, Tensor]) -> Tensor:
        """Return the (draws, units, d) coordinates of latent ``values``, each (draws, *shape): inverts ``constrain``."""
        return coordinates(self.runner, x, values)

    def predict(self, x: Data, z: Tensor) -> dict[str, Tensor]:
        """Draw observations from p(x | z, θ) at each draw of z (draws, units, d): {site: (draws, *shape)}.

        Uses torch's generator. Programs are run draw by draw: not every sampler runs under vmap. ``x`` may be new rows, with
        no observations where the program takes ``None`` for them, as in ``obs=x.get("y")``.
        """
        return predictions(self.runner, x, z)

    def sample_prior(self, x: Data, draws: int) -> Tensor:
        """Draw z from the prior p(z | θ): (draws, units, d), unconstrained. Uses torch's generator.

        Where the program fails at what it drew, say at a Cholesky factor that does not exist there, it is run again.

        Raises:
            ZooError: other latent sites from draw to draw, or a program that fails at nearly every draw.
        """
        return prior_draws(self.runner, x, draws)[0]

    def simulate(self, x: Data, seed: int | None = None) -> tuple[dict[str, Tensor], Data]:
        """Draw latents and observations from p(x, z | θ), shaped and with covariates like ``x``.

        Returns:
            the latent values by site, and data like ``x`` in which the observed entries are replaced: those that a mask leaves
            out stay as they are, so that what is missing stays missing.

        Raises:
            ZooError: if an observed site is no entry of ``x``, so that its draw has no place there.
        """
        return simulation(self.runner, x, seed)

    def theta(self) -> dict[str, Tensor]:
        """Return θ by name, constrained: e.g. the weights of a mixture on the simplex, not their logits."""
        return theta(self)

    def forms(self) -> Mapping[str, Sequence[Form]]:
        """Return the forms in which parameters θ are shown, by parameter: e.g. covariances for Cholesky factors."""
        return {}

    def learned(self) -> Learned:
        """Return θ as a reader takes it: see :func:`zoo.structure.learned.learned`."""
        return learned(self)

    def facts(self, x: Data) -> Facts:
        """Return what decides which guides fit: kind of latents, owner, and whether p(z | x, θ) is known."""
        found = self.latents(x)
        exact = found.discrete or not found.size or type(self).posterior is not Model.posterior
        kind = "discrete" if found.discrete else "continuous" if found.size else "none"
        blocks = Blocks.of(found)
        return Facts(kind, "rows" if found.unit else "dataset", exact, self.label, blocks is not None and blocks.both)

    def posterior(self, x: Data) -> Distribution:
        """Return the exact p(z | x, θ): batch shape (units,), event shape (d,), unconstrained coordinates.

        Discrete latents are enumerated, and latents that are functions of x leave a point, so all such models know it. The
        distribution has ``log_prob``, ``sample`` (or ``rsample``), ``mean`` and, where it is known, ``variance``.

        Raises:
            NotImplementedError: where it is not known.
        """
        if not self.latents(x).size:
            return Empty(self.runner.empty(x))
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

    def start(self, x: Data) -> dict[str, Tensor] | None:
        """Return latent values near which fits of ``free`` guides should start; ``None``: the prior's median."""
        return None

    def recover(self, x: Data, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return quantities that the program marginalises, for the posterior tree; ``values`` are (draws, *shape)."""
        return {}

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

    def _enumerate(self, x: Data) -> tuple[Tensor, Tensor]:
        found = self.latents(x)
        values = found.support().to(reference(x))
        return self.log_joint(x, values[:, None].expand(-1, found.units, -1)), values
