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


def by_plate(x: Any, size: int) -> None:
    """Weights N(0, 1), without an intercept; the target is the last column. The plate draws the rows of a step."""
    w = numpyro.sample("w", dist.Normal(jnp.zeros(x.shape[1] - 1), 1.0).to_event(1))
    with numpyro.plate("rows", len(x), subsample_size=size) as index:
        rows = x[index]
        numpyro.sample("y", dist.Bernoulli(logits=rows[:, :-1] @ w), obs=rows[:, -1])


def by_index(x: Any, size: int) -> None:
    """The same density, of rows drawn with replacement, which takes no permutation of all rows."""
    w = numpyro.sample("w", dist.Normal(jnp.zeros(x.shape[1] - 1), 1.0).to_event(1))
    rows = x[random.randint(numpyro.prng_key(), (size,), 0, len(x))]
    with numpyro.plate("rows", size), numpyro.handlers.scale(scale=len(x) / size):
        numpyro.sample("y", dist.Bernoulli(logits=rows[:, :-1] @ w), obs=rows[:, -1])


PROGRAMS = {"plate": by_plate, "index": by_index}


def cosine(step: Any, rate: float, steps: int) -> Any:
    """Return the rate at a step: a cosine from ``rate`` to a hundredth of it, as the zoo's."""
    share = jnp.minimum(1.0, step / steps)
    return rate * (0.01 + 0.99 * 0.5 * (1 + jnp.cos(jnp.pi * share)))


def main(path: str, out: str, options: str, every: str, limit: str) -> None:
    """Fit AutoNormal by jitted loops of ``every`` steps, for ``limit`` seconds at most; write loc and scale after each loop."""
    begun = time.perf_counter()
    given = json.loads(options)
    x, size, steps = jnp.asarray(np.load(path)), given["batch_size"], given["steps"]
    program = PROGRAMS[given["rows"]]
    guide = AutoNormal(program, init_scale=given["init_scale"])
    optimiser = numpyro.optim.Adam(lambda step: cosine(step, given["learning_rate"], steps))
    svi = SVI(program, guide, optimiser, Trace_ELBO(num_particles=given["draws"]))
    advance = jax.jit(lambda state, x: lax.fori_loop(0, int(every), lambda _, now: svi.update(now, x, size)[0], state))
    state = svi.init(random.PRNGKey(0), x, size)
    seconds, locs, scales = [], [], []
    for _ in range(steps // int(every)):
        state = jax.block_until_ready(advance(state, x))
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
