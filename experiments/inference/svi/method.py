"""Stochastic variational inference: Adam on minibatch estimates of a bound."""

from __future__ import annotations

from experiments.fits.callbacks import Watch
from experiments.fits.result import Outcome
from experiments.inference.method import Method, Problem
from experiments.inference.svi.ascent import Differs
from experiments.inference.svi.batches import BATCH, default_draws
from experiments.inference.svi.options import SVIOptions
from experiments.inference.svi.run import Run
from experiments.runtime.threads import quick_products
from guides.guide import BaseGuide
from zoo.program.sites.latents import Latents

#: Seconds from which on a run says what declaring a program pure would save.
LONG = 5.0


class SVI(Method[SVIOptions]):
    """Adam on minibatch estimates of a bound; uses torch's generator.

    A minibatch consists of whole units. This method, not the program's plates, scales the bound of a minibatch by
    units / batch_size, so the estimate is unbiased for the bound of all units, whatever the program does with scales.

    The best state is that of the block (a fiftieth of the run) with the highest mean. With a ``validation`` share, the best
    state is the one with the highest held-out ELBO. A later state only replaces the best state if its held-out ELBO is higher
    by more than a standard error of the paired difference, since a smaller gain may come from overfitting the training units.
    If a run diverges or turns non-finite, the fit returns to the best state and warns. For that, states within a block are
    noted every 10 steps. States are compared under the present objective, so a change of the objective by a callback or a
    schedule is not mistaken for a fall of the bound.

    Without ``steps``, the learning rate stays constant until the ascent has converged at this rate, and then falls over as many
    steps again. The run ends if the ascent has converged at the end of the fall, too; otherwise the run goes on at a quarter of
    the rate. The ascent has converged if :func:`rises` finds no gain above :data:`TOLERANCE` nats per unit. With a
    ``validation`` share, it has converged if ``patience`` blocks of 100 steps raised the held-out ELBO by no more than a
    quarter of :data:`TOLERANCE`. A run whose steps could move no parameter by :data:`REACH`, or are lost in rounding, has not
    converged, wherever it stands.

    The steps of pure programs and guides are recorded, see :mod:`zoo.program.recording`. If recorded results are found to
    differ from Python's results, the run returns to the last step at which both were compared, and continues by Python. If
    several processes share the units, each process takes its share of a minibatch, and the gradients are added up.

    Source: Kucukelbir et al. (2017), Automatic differentiation variational inference, https://arxiv.org/abs/1603.00788;
    Kingma and Ba (2015), Adam, https://arxiv.org/abs/1412.6980; means of where the steps lead, and rates that fall once these
    settle: Welandawe et al. (2022), Robust, automated, and accurate black-box variational inference,
    https://arxiv.org/abs/2203.15945
    """

    name = "svi"
    shares_units = True

    def suits(self, guide: BaseGuide, latents: Latents | None) -> bool:
        return guide.density

    def misfit(self, problem: Problem) -> str:
        return ""  # what a guide can't do shows at its first draw

    def bound(self, problem: Problem, options: SVIOptions) -> str:
        units = problem.latents.units
        return options.bound.label(options.draws or default_draws(problem.guide, units, units, options.bound.alpha))

    def at_once(self, problem: Problem, options: SVIOptions) -> float:
        """A minibatch."""
        return min(1.0, (options.batch_size or BATCH) / problem.latents.units) * problem.work

    def run(self, problem: Problem, options: SVIOptions, watch: Watch) -> Outcome:
        with quick_products():
            return _climb(Run(problem, options), problem, watch)


def _climb(run: Run, problem: Problem, watch: Watch) -> Outcome:
    """Take a run's steps, from where the watch knows it to have been, to its end."""
    problem.guide.train()
    if problem.train_model:
        problem.model.train()
    step, wrong = watch.resume(run.load), ""
    while True:
        try:
            while run.going(step) and not wrong:
                step += 1
                wrong = run.step(step)
                if not wrong:
                    ascent = run.ascent
                    watch.step(step, ascent.values[-1] * run.bound.share, run.checkpoint, **ascent.numbers)
            run.check()
            if watch.seconds > LONG:
                run.remarks += filter(None, [run.ascent.recorder.saving()])
            return run.outcome(wrong)
        except Differs:
            step, wrong = run.go_back(), ""
            watch.rewind(step)
