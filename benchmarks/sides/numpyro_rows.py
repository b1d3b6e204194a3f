"""NumPyro's side of a logistic regression by a subsampling plate, in a process of its own, with the rows in memory."""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax, random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

ROWS = 1_000_000


def by_plate(x: Any, size: int) -> None:
    """Weights N(0, 1), without an intercept; the target is the last column. The plate draws the rows of a step."""
    w = numpyro.sample("w", dist.Normal(jnp.zeros(x.shape[1] - 1), 1.0).to_event(1))
    with numpyro.plate("rows", len(x), subsample_size=size) as index:
        rows = x[index]
        numpyro.sample("y", dist.Bernoulli(logits=rows[:, :-1] @ w), obs=rows[:, -1])


def of_batch(x: Any, size: int) -> None:
    """The same density, of ``size`` rows that were picked before, scaled to all ROWS."""
    w = numpyro.sample("w", dist.Normal(jnp.zeros(x.shape[1] - 1), 1.0).to_event(1))
    with numpyro.plate("rows", size), numpyro.handlers.scale(scale=ROWS / size):
        numpyro.sample("y", dist.Bernoulli(logits=x[:, :-1] @ w), obs=x[:, -1])


def cosine(step: Any, rate: float, steps: int) -> Any:
    """Return the rate at a step: a cosine from ``rate`` to a hundredth of it, as the zoo's."""
    share = jnp.minimum(1.0, step / steps)
    return rate * (0.01 + 0.99 * 0.5 * (1 + jnp.cos(jnp.pi * share)))


def main(path: str, out: str, options: str, every: str, limit: str) -> None:
    """Fit AutoNormal by jitted loops of ``every`` steps, for ``limit`` seconds at most; write loc and scale after each loop."""
    begun = time.perf_counter()
    given = json.loads(options)
    x, size, steps = jnp.asarray(np.load(path)), given["batch_size"], given["steps"]
    plate = given["rows"] == "plate"
    guide = AutoNormal(by_plate if plate else of_batch, init_scale=given["init_scale"])
    optimiser = numpyro.optim.Adam(lambda step: cosine(step, given["learning_rate"], steps))
    svi = SVI(guide.model, guide, optimiser, Trace_ELBO(num_particles=given["draws"]))

    def advance(state: Any, x: Any, key: Any) -> Any:
        if plate:
            return lax.fori_loop(0, int(every), lambda _, now: svi.update(now, x, size)[0], state)
        order = random.permutation(key, len(x))[: int(every) * size].reshape(int(every), size)
        return lax.scan(lambda now, rows: (svi.update(now, x[rows], size)[0], None), state, order)[0]

    jitted, keys = jax.jit(advance), random.split(random.PRNGKey(1), steps // int(every))
    state = svi.init(random.PRNGKey(0), x if plate else x[:size], size)
    seconds, locs, scales = [], [], []
    for key in keys:
        state = jax.block_until_ready(jitted(state, x, key))
        seconds.append(time.perf_counter() - begun)
        params = svi.get_params(state)
        locs.append(np.array(params["w_auto_loc"]))
        scales.append(np.array(params["w_auto_scale"]))
        if seconds[-1] > float(limit):
            break
    total, peak = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    end = "ended" if len(seconds) == steps // int(every) else "cut off"
    np.savez(out, seconds=seconds, loc=np.array(locs), scale=np.array(scales), peak=peak, total=total, end=end)


if __name__ == "__main__":
    main(*sys.argv[1:])
