"""Watching a fit: what callbacks are told, and that they can't change or lose it."""

from __future__ import annotations

import time

import pytest
import torch

import experiments
import zoo

X = zoo.dataset("wine", standardise=True).tensor


class Log(experiments.Callback):
    def __init__(self) -> None:
        self.said: list[object] = []

    def on_start(self, now: experiments.Moment) -> None:
        self.said.append(("start", now.step, now.elbo))

    def on_step(self, now: experiments.Moment) -> None:
        self.said.append((now.step, now.elbo))

    def on_end(self, fit: experiments.Fit | None) -> None:
        self.said.append(fit)


def _fit(method: str, *callbacks: experiments.Callback) -> experiments.Fit:
    guide = "exact" if method == "em" else "mean_field"
    model = zoo.build("ppca", X, start="random", seed=0)
    return experiments.fit(model, guide, X, method=method, steps=12, seed=3, callbacks=callbacks)


@pytest.mark.parametrize("method", ["em", "svi", "fixed_draws"])
def test_callbacks_hear_the_start_every_step_and_the_end(method: str) -> None:
    log = Log()
    done = _fit(method, log)
    assert log.said[0] == ("start", 0, None)
    assert log.said[1:-1] == [(step, elbo) for step, elbo, _ in done.history]
    assert log.said[-1] is done


def test_a_callback_sees_the_parameters_of_its_step() -> None:
    class Evidence(experiments.Callback):
        def __init__(self) -> None:
            self.values: list[float] = []

        def on_step(self, now: experiments.Moment) -> None:
            self.values.append(float(now.model.log_evidence(now.x).sum().detach()))

    watch = Evidence()
    done = _fit("em", watch)
    assert watch.values == pytest.approx([i.log_evidence for i in done.iterations], abs=1e-9)


def test_what_a_callback_draws_does_not_move_the_fit() -> None:
    class Draws(experiments.Callback):
        def on_step(self, now: experiments.Moment) -> None:
            torch.rand(7)

    plain, watched = _fit("svi"), _fit("svi", Draws())
    assert [e for _, e, _ in plain.history] == [e for _, e, _ in watched.history]
    assert torch.equal(plain.model.loadings, watched.model.loadings)


def test_a_callback_that_raises_is_left_out_with_a_warning() -> None:
    class Bad(experiments.Callback):
        def on_step(self, now: experiments.Moment) -> None:
            raise ValueError("no plot")

    log = Log()
    with pytest.warns(zoo.ZooWarning, match="callback Bad raised ValueError: no plot; the fit goes on without it") as said:
        done = _fit("svi", Bad(), log)
    assert len(said) == 1
    assert done.steps == 12
    assert len(log.said) == 14


def test_the_time_of_callbacks_is_not_the_fits() -> None:
    class Slow(experiments.Callback):
        def on_step(self, now: experiments.Moment) -> None:
            time.sleep(0.2)

    begun = time.perf_counter()
    done = _fit("svi", Slow())
    assert time.perf_counter() - begun - done.seconds >= 12 * 0.2


def test_a_fit_that_fails_says_so() -> None:
    log = Log()
    with pytest.raises(zoo.ZooError, match="expected a batch_size"):
        experiments.fit(zoo.build("ppca", X), "mean_field", X, method="svi", batch_size=10**6, callbacks=[log])
    assert log.said[-1] is None
