"""Counts so large that float32 can't hold their log-factorials."""

from __future__ import annotations

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import betaln, gammaln
from torch import Tensor

import experiments
import zoo

Rows = dict[str, Tensor]


def binomial(d: Rows) -> None:
    p = pyro.sample("p", dist.Beta(torch.tensor(2.0).to(d["n"]), torch.tensor(3.0).to(d["n"])))
    with pyro.plate("rows", len(d["k"])):
        pyro.sample("k", dist.Binomial(total_count=d["n"], probs=p), obs=d["k"])


def poisson(d: Rows) -> None:
    rate = pyro.sample("rate", dist.Gamma(torch.tensor(2.0).to(d["k"]), 1e-6))
    with pyro.plate("rows", len(d["k"])):
        pyro.sample("k", dist.Poisson(rate), obs=d["k"])


def evidence(n: int, k: int) -> float:
    """log p(k) of a Binomial under Beta(2, 3): closed form."""
    return float(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) + betaln(2 + k, 3 + n - k) - betaln(2, 3))


def rows(n: int, k: int, dtype: torch.dtype) -> Rows:
    return {"n": torch.tensor([n], dtype=dtype), "k": torch.tensor([k], dtype=dtype)}


@pytest.mark.parametrize(("n", "k"), [(20_000_001, 6_000_001), (1_000_000, 500_123)])
def test_float64_has_the_evidence(n: int, k: int) -> None:
    done = experiments.fit(binomial, "full_rank", rows(n, k, torch.float64))
    assert done.elbo == pytest.approx(evidence(n, k), abs=0.01)  # the posterior is all but normal


def test_float32_refuses_what_it_rounds_away() -> None:
    message = r"got counts up to 2e\+07 at site 'k' \(Binomial\) in torch.float32, .* about 19 nats; pass the data in float64"
    with pytest.raises(zoo.ZooError, match=message) as caught:
        experiments.fit(binomial, "full_rank", rows(20_000_000, 12_345_678, torch.float32))
    assert "\n" not in str(caught.value)
    with pytest.raises(zoo.ZooError, match=r"at site 'k' \(Poisson\)"):
        experiments.fit(poisson, "full_rank", {"k": torch.tensor([3e6, 3.1e6])})


def test_the_rounding_told_is_the_rounding_there_is() -> None:
    """On many counts, float32's log-likelihood is off from float64's by about what the warning says."""
    torch.manual_seed(0)
    n = torch.full((400,), 30_000.0).double()
    k = torch.distributions.Binomial(n, torch.tensor(0.4).double()).sample()
    z = torch.zeros(1, 1, 1).double()
    exact = zoo.as_model(binomial).log_joint({"n": n, "k": k}, z)
    with pytest.warns(zoo.ZooWarning, match="rounds their log-likelihood by about") as caught:
        rough = zoo.as_model(binomial).log_joint({"n": n.float(), "k": k.float()}, z.float())
    told = float(str(caught[0].message).split("by about ")[1].split(" nats")[0])
    assert float((rough - exact).abs()) < 5 * told


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ordinary_counts_pass(dtype: torch.dtype) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for most in (20_000, *([20_000_000] if dtype == torch.float64 else [])):
            assert zoo.as_model(binomial).latents(rows(most, 6_000, dtype)).units == 1
