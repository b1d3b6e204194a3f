"""A step of a VAE's training, against stock Pyro and NumPyro."""

from __future__ import annotations

from typing import Any

import torch

import experiments
import zoo
from benchmarks.contenders import LIBRARIES, Task, calls, cold_in_turn, processes
from benchmarks.race import Race, in_turn, slope
from benchmarks.results import Result
from benchmarks.sides import zoo_vae

SIDES = {"zoo": "zoo_vae", "Pyro": "pyro_vae", "NumPyro": "numpyro_vae"}
#: Warm and cold.
GOALS = {"Pyro": (2.2, None), "NumPyro": (1.0, None)}
#: The zoo with ``compile=True``, and its goals.
COMPILED, GOALS_COMPILED = "zoo compiled", {"NumPyro": (0.8, None)}
#: Steps of a run, of the shorter run that is taken off it, and of a cold one; images a step; rate of Adam.
STEPS, SHORT, FIRST, BATCH, RATE = 1_500, 300, 100, 256, 1e-3
COLD = 3


def vae_step(repeats: int = 5) -> Result:
    """Time a training step of a VAE with a 784-400-50 decoder and encoder on binarised MNIST: batches of 256, one draw of z per
    image, Adam at 0.001, float32, from the same weights.

    Warm: the difference between a run of 1,500 steps and a run of 300 steps, divided by 1,200, so that costs which arise once
    per run cancel. For the zoo, a run is a call of `experiments.fit` with all its work beside the steps (history, the best
    state, checks). For Pyro, a run is a loop of `SVI.step` with validation off. For NumPyro, a run is one jitted `fori_loop` of
    `svi.update`, compiled beforehand. The last rows time the whole run of 1,500 steps, building included. *zoo compiled* is the
    same call with `compile=True`.

    Cold: the first call of a fresh process that has imported its library; the call builds, compiles and takes 100 steps.
    """
    arrays = _arrays()
    checked = _check(arrays)
    options = {"batch": BATCH, "rate": RATE, "steps": STEPS}
    tasks = {
        name: Task(f"benchmarks.sides.{side}:train", arrays, options, LIBRARIES[name]) for name, side in SIDES.items()}
    tasks[COMPILED] = tasks["zoo"].having(compile=True)
    values = {name: _elbo(task(), arrays) for name, task in tasks.items()}
    apart = max(values.values()) - min(values.values())
    assert apart < 0.02 * abs(values["zoo"]), f"expected ELBOs that agree after {STEPS} steps; got {values}"
    agrees = (
        f"log weights of a batch at the same weights and z, to {checked:.0e} relative; "
        f"ELBO an image after {STEPS} steps, to {apart:.2g} nats")
    whole, step = _times(tasks, repeats)
    cold = cold_in_turn({name: tasks[name].having(steps=FIRST) for name in SIDES}, COLD)
    case, compiled = f"784-400-50, batch {BATCH}", {name: step[name] for name in (COMPILED, "zoo", "NumPyro")}
    return Result([
        *Race(calls(cold), {name: step[name] for name in SIDES}, values).rows(
            case, agrees, GOALS, 1e3, "ms a step", note=processes(cold)),
        *Race({}, compiled, values).rows(f"compiled, {case}", agrees, GOALS_COMPILED, 1e3, "ms a step"),
        *Race({}, {name: whole[name] for name in SIDES}, values).rows(
            f"whole run, {case}", agrees, {}, 1e3 / STEPS, "ms a step"),
    ], facts={"elbo_per_image": values})


def _times(tasks: dict[str, Task], repeats: int) -> tuple[dict[str, tuple[float, ...]], dict[str, tuple[float, ...]]]:
    """Return the seconds of whole runs and of a step, (repeats,) each."""
    runs = {(name, steps): task.having(steps=steps) for name, task in tasks.items() for steps in (STEPS, SHORT)}
    seconds = in_turn(runs, repeats)
    whole = {name: seconds[name, STEPS] for name in tasks}
    return whole, {name: slope(whole[name], seconds[name, SHORT], STEPS - SHORT) for name in tasks}


def _arrays() -> dict[str, Any]:
    """Return images, initial weights, and a batch with z at which densities are compared."""
    x = zoo.dataset("mnist", "images", binarise="static", dtype=torch.float32).tensor
    model, guide, _ = zoo_vae.build({"x": x.numpy()})
    encoder: Any = guide.amortisation
    with zoo.seeded(1), torch.no_grad():
        z = guide.posterior(x[:BATCH]).sample()
    given = {"x": x, "centre": encoder.centre, "spread": encoder.spread, "batch": x[:BATCH], "z": z}
    return {name: value.numpy() for name, value in given.items()} | zoo_vae.weights(model, guide)


def _check(arrays: dict[str, Any]) -> float:
    """Return the relative difference of the contenders' log weights of a batch; raise if the log weights differ."""
    found = {name: Task(f"benchmarks.sides.{side}:log_weight", arrays)() for name, side in SIDES.items()}
    apart = (max(found.values()) - min(found.values())) / abs(found["zoo"])
    assert apart < 1e-5, f"expected the same log weights in float32; got {found}"
    return float(apart)


def _elbo(weights: dict[str, Any], arrays: dict[str, Any]) -> float:
    """Return the ELBO of weights, in nats an image, on the first 1,000 images and fixed draws."""
    model, guide, x = zoo_vae.build({**arrays, **weights})
    return experiments.log_weights(model, guide, x[:1000], 16, seed=3).elbo().value / 1000
