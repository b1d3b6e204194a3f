"""NumPyro's side of fitting normal guides: the same densities, its own autoguides, a jitted loop of ``svi.update``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax, random
from numpyro.infer import SVI, Trace_ELBO, init_to_value
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from numpyro.infer.util import potential_energy, unconstrain_fn

from benchmarks.contenders import Arrays

jax.config.update("jax_enable_x64", True)  # as the zoo's data are

Normal = tuple[np.ndarray, np.ndarray]


def eight_schools(data: Mapping[str, Any]) -> None:
    """Rubin's eight schools, not centred."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", len(data["y"])):
        eta = numpyro.sample("eta", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu + tau * eta, data["sigma"]), obs=data["y"])


def logistic_regression(data: Mapping[str, Any]) -> None:
    """Weights N(0, 1), the intercept first."""
    weights = numpyro.sample("weights", dist.Normal(0.0, 1.0).expand([data["X"].shape[1] + 1]).to_event(1))
    with numpyro.plate("rows", len(data["y"])):
        numpyro.sample("y", dist.Bernoulli(logits=weights[0] + data["X"] @ weights[1:]), obs=data["y"])


def bayesian_gmm(data: Mapping[str, Any], components: int = 2) -> None:
    """A mixture of two normals of full covariance, with priors."""
    x = data["x"]
    centre, spread = x.mean(0), x.std(0, ddof=1)
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(components)))
    with numpyro.plate("component", components):
        means = numpyro.sample("means", dist.Normal(centre, spread).to_event(1))
        scales = numpyro.sample("scales", dist.LogNormal(jnp.log(spread / components**0.5), 0.5).to_event(1))
        factors = scales[..., None] * numpyro.sample("corr_cholesky", dist.LKJCholesky(x.shape[1], 1.0))
    with numpyro.plate("rows", len(x)):
        normals = dist.MultivariateNormal(means, scale_tril=factors)
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(probs=weights), normals), obs=x)


#: Each program, and its latent sites in the order in which the zoo packs them.
PROGRAMS: Mapping[str, tuple[Callable[..., None], Sequence[str]]] = {
    "eight_schools": (eight_schools, ("mu", "tau", "eta")),
    "logistic_regression": (logistic_regression, ("weights",)),
    "bayesian_gmm": (bayesian_gmm, ("weights", "means", "scales", "corr_cholesky")),
}


def log_joint(arrays: Arrays, model: str) -> np.ndarray:
    """Return log p(x, z) at each row of ``arrays['points']`` (points, d), in NumPyro's own unconstrained coordinates."""
    program, _ = PROGRAMS[model]
    data, shapes = _data(arrays), _shapes(arrays, model)

    def one(point: Any) -> Any:
        parts = jnp.split(point, np.cumsum([int(np.prod(shape)) for shape in shapes.values()])[:-1])
        values = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return -potential_energy(program, (data,), {}, values)

    return np.array([float(one(jnp.asarray(point))) for point in arrays["points"]])


def run(arrays: Arrays, model: str, family: str, choice: tuple[float, int, int], steps: int, seed: int = 0) -> Normal:
    """Call ``svi.init``, and take ``steps`` steps of Adam in one jitted loop; return the guide.

    The first call compiles the loop, for all later ones. ``choice`` is the rate, its horizon and the draws of a step.
    """
    rate, horizon, particles = choice
    engine = _engine(arrays, model, family, particles, seed)
    return engine.read(jax.block_until_ready(engine.advance(engine.start(), engine.data, steps, rate, _decay(horizon))))


def trace(
    arrays: Arrays, model: str, family: str, choice: tuple[float, int, int], stops: Sequence[int], seed: int = 0,
) -> Iterator[tuple[float, int, Normal]]:
    """Yield seconds, step and guide at each of ``stops``, steps in rising order; compiling and reading are not counted."""
    rate, horizon, particles = choice
    engine = _engine(arrays, model, family, particles, seed)
    state, taken, seconds = engine.start(), 0, 0.0
    jax.block_until_ready(engine.advance(state, engine.data, 1, rate, _decay(horizon)))
    for stop in stops:
        begun = time.perf_counter()
        state = jax.block_until_ready(engine.advance(state, engine.data, stop - taken, rate, _decay(horizon)))
        seconds += time.perf_counter() - begun
        taken = stop
        yield seconds, taken, engine.read(state)


class _Engine:
    """An SVI, its jitted loop, its state at the start, and how its parameters are read."""

    def __init__(self, arrays: Arrays, model: str, family: str, particles: int, seed: int):
        program, self.sites = PROGRAMS[model]
        self.arrays, self.data, self.shapes, self.family = arrays, _data(arrays), _shapes(arrays, model), family
        self.guide = {"mean_field": AutoNormal, "full_rank": AutoMultivariateNormal}[family](
            program, init_loc_fn=init_to_value(values=_start(arrays)))
        svi = SVI(program, self.guide, numpyro.optim.Adam(1.0), Trace_ELBO(num_particles=particles))
        self.start: Callable[[], Any] = lambda: svi.init(random.PRNGKey(seed), self.data)
        self.params = svi.get_params

        def advance(state: Any, data: Any, steps: Any, rate: Any, decay: Any) -> Any:
            # Rate and decay are arguments of what is compiled, so that no choice of them compiles anew.
            svi.optim = numpyro.optim.Adam(lambda step: rate * decay**step)
            return lax.fori_loop(0, steps, lambda _, now: svi.update(now, data)[0], state)

        self.advance = jax.jit(advance)

    def read(self, state: Any) -> Normal:
        """Return mean and factor in the zoo's order."""
        params = self.params(state)
        if self.family == "mean_field":
            loc, scale = (
                np.concatenate([np.ravel(params[f"{site}_auto_{what}"]) for site in self.sites]) for what in ("loc", "scale"))
            return loc, np.diag(scale)
        # Where AutoMultivariateNormal has put the coordinates of each site, read off how it takes them apart.
        places = self.guide._unpack_latent(jnp.arange(float(self.guide.latent_dim)))
        order = np.concatenate([np.ravel(places[site]) for site in self.sites]).astype(int)
        return np.array(params["auto_loc"])[order], np.array(params["auto_scale_tril"])[order]


def _decay(horizon: int) -> float:
    """Return the factor a step by which a rate falls to a hundredth over the horizon; 1 where there is none."""
    return float(0.01 ** (1 / horizon)) if horizon else 1.0


_ENGINES: dict[tuple[Any, ...], _Engine] = {}


def _engine(arrays: Arrays, *options: Any) -> _Engine:
    """Return the engine of a case: made once, then kept with its arrays, which are told from others by identity."""
    key = (id(arrays), *options)
    if key not in _ENGINES:
        _ENGINES[key] = _Engine(arrays, *options)
    return _ENGINES[key]


def _data(arrays: Arrays) -> dict[str, Any]:
    return {name.removeprefix("data."): jnp.asarray(value) for name, value in arrays.items() if name.startswith("data.")}


def _start(arrays: Arrays) -> dict[str, Any]:
    return {name.removeprefix("start."): jnp.asarray(value) for name, value in arrays.items() if name.startswith("start.")}


def _shapes(arrays: Arrays, model: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each site's unconstrained value, in the zoo's order."""
    program, sites = PROGRAMS[model]
    with numpyro.handlers.seed(rng_seed=0):
        found = unconstrain_fn(program, (_data(arrays),), {}, _start(arrays))
    return {site: tuple(np.shape(found[site])) for site in sites}
