"""The zoo's side of a logistic regression on rows of a mapped file, in a process of its own."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch

import experiments
import guides
import zoo


def program(x: Any) -> None:
    """Weights N(0, 1), without an intercept; the target is the last column."""
    w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[1] - 1), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x[:, :-1] @ w), obs=x[:, -1])


class Way(experiments.Callback):
    """A recorder of the guide at every ``every``-th step, until ``limit`` seconds have passed."""

    def __init__(self, every: int, limit: float):
        self.every, self.limit, self.begun = every, limit, time.perf_counter()
        self.seconds: list[float] = []
        self.states: list[tuple[np.ndarray, np.ndarray]] = []

    def on_step(self, now: experiments.Moment) -> None:
        if now.step % self.every:
            return
        self.seconds.append(time.perf_counter() - self.begun)
        phi = {name.rsplit(".", 1)[-1]: value.detach()[0] for name, value in now.guide.named_parameters()}
        self.states.append((phi["loc"].numpy().copy(), phi["log_scale"].exp().numpy().copy()))
        if self.seconds[-1] > self.limit:
            self.save("cut off")

    def save(self, end: str) -> None:
        """Write what was recorded, the whole seconds and the peak of resident memory in MB; end the process."""
        total, peak = time.perf_counter() - self.begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        loc, scale = (np.array(part) for part in zip(*self.states, strict=True))
        np.savez(sys.argv[2], seconds=self.seconds, loc=loc, scale=scale, peak=peak, total=total, end=end)
        sys.exit(0)  # a callback that raises an error is told no more; this is none


def main(path: str, options: str, every: str, limit: str) -> None:
    """Fit a mean-field normal with the options of ``fit`` in JSON, and write its way."""
    way = Way(int(every), float(limit))
    x, given = zoo.mapped(path), json.loads(options)
    model = zoo.as_model(program)
    guide = guides.build("mean_field", model, x)
    if (scale := given.pop("init_scale", None)) is not None:
        with torch.no_grad():
            dict(guide.named_parameters())["amortisation.phi.log_scale"].fill_(math.log(scale))
    experiments.fit(model, guide, x, progress=False, callbacks=[way], **given)
    way.save("ended")


if __name__ == "__main__":
    main(sys.argv[1], *sys.argv[3:])
