"""NumPyro's side of a VAE's training: a jitted loop of ``svi.update``, as in its own example."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax, random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.util import log_density

from benchmarks.contenders import Arrays


def _perceptron(weights: Any, x: Any) -> Any:
    return jax.nn.silu(x @ weights["0.weight"].T + weights["0.bias"]) @ weights["2.weight"].T + weights["2.bias"]


def model(x: Any, start: Any) -> None:
    """z_i ~ N(0, I), x_i | z_i ~ Bernoulli(sigmoid(decoder(z_i)))."""
    weights = numpyro.param("decoder", start["decoder"])
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([weights["0.weight"].shape[1]]).to_event(1))
        numpyro.sample("x", dist.Bernoulli(logits=_perceptron(weights, z)).to_event(1), obs=x)


def guide(x: Any, start: Any) -> None:
    """z_i ~ N(loc, diag(scale²)), both from an encoder."""
    weights = numpyro.param("encoder", start["encoder"])
    with numpyro.plate("rows", len(x)):
        loc, log_scale = jnp.split(_perceptron(weights, (x - start["centre"]) / start["spread"]), 2, -1)
        numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))


def train(arrays: Arrays, steps: int, batch: int, rate: float) -> dict[str, np.ndarray]:
    """Take ``steps`` steps of Adam with one draw of z an image; return the weights."""
    start, x = _start(arrays), jnp.asarray(arrays["x"])
    svi, advance = _loop(rate)
    state = svi.init(random.PRNGKey(0), x[:batch], start)
    index = jnp.asarray(_batches(len(x), batch, steps))
    params = svi.get_params(jax.block_until_ready(advance(state, x, index, start, steps)))
    return {f"{part}.{name}": np.array(value) for part in ("decoder", "encoder") for name, value in params[part].items()}


def _batches(rows: int, batch: int, steps: int) -> np.ndarray:
    """Return the rows of each step, each row once in a pass: (steps or more, batch), as many for 300 as for 1,500 steps.

    What is compiled hangs on this number, and must not be compiled anew for a shorter run.
    """
    generator, most = np.random.default_rng(0), 2048 * -(-steps // 2048)
    each = rows // batch
    passes = [generator.permutation(rows)[: each * batch].reshape(each, batch) for _ in range(-(-most // each))]
    return np.concatenate(passes)[:most]


@cache
def _loop(rate: float) -> tuple[Any, Any]:
    """Return the SVI and its jitted loop: compiled once for each shape, however often it is run."""
    svi = SVI(model, guide, numpyro.optim.Adam(rate), Trace_ELBO())

    def advance(state: Any, x: Any, index: Any, start: Any, steps: Any) -> Any:
        return lax.fori_loop(0, steps, lambda i, now: svi.update(now, x[index[i]], start)[0], state)

    return svi, jax.jit(advance)


def log_weight(arrays: Arrays) -> float:
    """Return Σ log p(x, z) − log q(z) over the rows of ``arrays['batch']`` and ``arrays['z']``."""
    start, batch, given = _start(arrays), jnp.asarray(arrays["batch"]), {"z": jnp.asarray(arrays["z"])}
    return float(log_density(model, (batch, start), {}, given)[0] - log_density(guide, (batch, start), {}, given)[0])


def _start(arrays: Arrays) -> dict[str, Any]:
    nets = {
        part: {name.removeprefix(f"{part}."): jnp.asarray(value) for name, value in arrays.items() if name.startswith(part)}
        for part in ("decoder", "encoder")}
    return {**nets, "centre": jnp.asarray(arrays["centre"]), "spread": jnp.asarray(arrays["spread"])}
