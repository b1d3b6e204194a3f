"""Measure what docs/results.md reports: the 784-400-50 VAE on 5,000 MNIST digits, a fifth of them held out.

``make results`` runs it, some ten minutes on two cores, and writes the page.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

import experiments
import zoo
from experiments.inference.engine import held
from experiments.inference.fit import one_view
from experiments.log_evidence.brackets.bracket import bracket
from experiments.runtime.holdout import partition

GUIDE = "mean_field:encoder(hidden=(400,))"
STEPS, CHAINS, TEMPERATURES, SEED = 3000, 4, 32, 0

PAGE = """# Results

`make results` (`docs/make_results.py`) measured these numbers, in nats per image, ± Monte-Carlo standard error. Your numbers
will differ in the last digits with the machine.

## VAE on MNIST

The model is `vae` with a 784-400-50 decoder (SiLU, Bernoulli likelihood), and the guide is `{guide}`.
The data are the 5,000 digits of `mnist` ({train} to train on, {held} held out), in float32. Adam takes {steps} steps on batches
of 256, and the best state by the held-out ELBO of a tenth of the training images is kept. The numbers are those of the {held}
held-out images, which neither θ nor the encoder has seen.

{table}

- The two rows are two data sets: *static* binarisation draws each pixel once; *dynamic* binarisation draws each pixel anew at
  every step and once more for the evaluation. The rows must not be compared with each other, nor with results on all of
  MNIST: 4,000 images are a fifteenth of MNIST.
- The bounds obey ELBO ≤ IWAE-500 ≤ log p(x) in expectation. AIS runs forward from the encoder's q and back from Markov chains
  at the posterior, 100 transitions of 4 chains in 50 dimensions. The chains have not mixed (R̂ over 1.1 in nearly all images),
  so the upper end is an estimate with a bias; the lower end is a bound whatever the chains did.
- The gap of the encoder is the difference between AIS and the ELBO. IWAE-500 does not close this gap: {draws} draws of a guide
  that is {gap:.1f} nats off miss mass that AIS finds.

## The split on the digits

`zoo compare` splits the gaps on the 359 held-out images of 1,797 (8 × 8, 8 latents):

```
$ zoo compare vae --data digits --binarise threshold \\
    -g mean_field:encoder -g full_rank:encoder -g flow:encoder -g mean_field -g full_rank
{digits}
```
"""


def main() -> None:
    rows = [measure(binarise) for binarise in ("static", "dynamic")]
    heads = ("binarisation", "test ELBO", "reconstruction", "KL(q‖prior)", "IWAE-500", "AIS, 95%", "active", "R̂ > 1.1")
    table = "\n".join([
        "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *("| " + " | ".join(row["cells"]) + " |" for row in rows)])
    page = PAGE.format(
        guide=GUIDE, train=4000, held=1000, steps=STEPS, table=table, draws=500, gap=rows[0]["gap"], digits=digits())
    (Path(__file__).parent / "results.md").write_text(page)


def measure(binarise: str) -> dict[str, object]:
    """Train on 4,000 images and measure on 1,000."""
    data = zoo.dataset("mnist", "images", binarise=binarise, dtype=torch.float32)
    units = partition(data.x, len(data.x), 0.2, SEED)
    model = zoo.build("vae", one_view(units.train, data.view, SEED), latent=50, hidden=(400,))
    begun = time.perf_counter()
    done = experiments.fit(
        model, GUIDE, units.train, steps=STEPS, learning_rate=0.002, validation=0.1, patience=8, view=data.view, seed=SEED)
    _say(f"{binarise}: {done.steps} steps, {time.perf_counter() - begun:.0f} s; {done.stopped}")
    x = one_view(units.held, data.view, SEED)
    with held(model):
        weights = experiments.log_weights(model, done.guide, x, 500, seed=1)
        _say(f"{binarise}: weights, {time.perf_counter() - begun:.0f} s")
        ais = bracket(model, done.guide, x, method="annealed", chains=CHAINS, temperatures=TEMPERATURES, seed=SEED)
        _say(f"{binarise}: AIS, {time.perf_counter() - begun:.0f} s")
    count = len(x)
    elbo, iwae = weights.elbo(), weights.importance_bound()
    relative = (weights.log_weight - iwae).exp()  # w / mean w: the delta method
    iwae_se = float((relative.var(0) / len(relative)).sum().sqrt()) / count

    def each(estimate: experiments.Estimate) -> str:
        return f"{estimate.value / count:.2f} ± {estimate.se / count:.3f}"

    apart = 0 if ais.rhat is None else int((ais.rhat > 1.1).sum())
    cells = (
        binarise, each(elbo), each(weights.reconstruction()), each(weights.kl_prior()),
        f"{float(iwae.mean()):.2f} ± {iwae_se:.3f}", f"{ais.lower_limit / count:.2f} … {ais.upper_limit / count:.2f}",
        str(weights.active()), f"{apart} of {count}")
    return {"cells": cells, "gap": (0.5 * (ais.lower_total + ais.upper_total) - elbo.value) / count}


def digits() -> str:
    """Return the table of the digits' split."""
    data = zoo.dataset("digits", "images", binarise="threshold")
    units = partition(data.x, len(data.x), 0.2, SEED)
    model = zoo.build("vae", units.train)
    guides = ["mean_field:encoder", "full_rank:encoder", "flow:encoder", "mean_field", "full_rank"]
    return str(experiments.compare(model, data.x, guides, data=data.name, seed=SEED))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
