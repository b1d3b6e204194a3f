"""Matrix factorisation: a user's seen ratings are normal once the user's latents are integrated out; and ratings as data."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

import experiments
import zoo
from zoo.program.sites.blocks import Blocks

SHARED = ("noise", "user_scale", "item_bias", "item_factors")


def some(users: int = 5, items: int = 4) -> dict[str, Tensor]:
    """Return ratings of which some are missing, one user's all, with rubbish in the place of these."""
    generator = torch.Generator().manual_seed(2)
    seen = (torch.rand(users, items, generator=generator) < 0.6).double()
    seen[1] = 0
    ratings = 3 + torch.randn(users, items, generator=generator, dtype=torch.double)
    return {"ratings": torch.where(seen > 0, ratings, 1e6), "seen": seen}


def test_users_integrate_to_the_normal_of_their_ratings() -> None:
    """The log-density is quadratic in the users' latents: its integral is its value at the top and its curvature there."""
    x = some()
    model = zoo.build("matrix_factorisation", x)
    with zoo.seeded(2):
        values = model.constrain(x, model.sample_prior(x, 1))
    blocks = Blocks.of(model.latents(x))
    assert blocks is not None
    assert (blocks.plate, len(blocks.shared), blocks.local.shape) == ("users", 2 + 4 + 8, (5, 3))

    def log_joint(local: Tensor) -> Tensor:
        users = local.reshape(1, 5, 3)
        own = {"user_offset": users[..., 0], "user_factors": users[..., 1:]}
        sites = model.log_probs(x, model.unconstrain(x, {**{name: values[name] for name in SHARED}, **own}))
        return sum((sites[name].sum() for name in ("user_offset", "user_factors", "ratings")), torch.zeros(()))

    start = torch.zeros(15, dtype=torch.double)
    curvature = torch.autograd.functional.hessian(log_joint, start)
    top = start - torch.linalg.solve(curvature, torch.func.grad(log_joint)(start))
    integral = log_joint(top) + 7.5 * math.log(2 * math.pi) - 0.5 * torch.linalg.slogdet(-curvature).logabsdet
    noise, scale, bias, factors = (values[name][0].numpy() for name in SHARED)
    seen, ratings = x["seen"].numpy() > 0, x["ratings"].numpy()
    covariance = scale**2 + factors @ factors.T + noise**2 * np.eye(4)
    expected = sum(
        multivariate_normal(ratings[seen].mean() + bias[row], covariance[np.ix_(row, row)]).logpdf(value[row])
        for row, value in zip(seen, ratings, strict=True) if row.any())
    assert float(integral) == pytest.approx(expected, abs=1e-8)


def test_ratings_that_were_not_seen_do_not_matter() -> None:
    x = some()
    model = zoo.build("matrix_factorisation", x)
    z = model.sample_prior(x, 3)
    other = {**x, "ratings": torch.where(x["seen"] > 0, x["ratings"], -7.0)}
    torch.testing.assert_close(model.log_joint(other, z), model.log_joint(x, z), rtol=0, atol=1e-9)
    assert torch.equal(zoo.build("matrix_factorisation", other).spread, model.spread)
    _, fresh = model.simulate(x, seed=0)
    assert torch.equal(fresh["seen"], x["seen"])
    assert torch.equal(fresh["ratings"] == 1e6, x["seen"] == 0)


def test_unseen_ratings_are_predicted_better_than_by_the_items_means() -> None:
    """Of the ratings 15% are hidden from the fit: predictions err less than the films' mean ratings, by two standard errors."""
    data = zoo.dataset("ratings").x
    hidden = (torch.rand(data["seen"].shape, generator=torch.Generator().manual_seed(4)) < 0.15) & (data["seen"] > 0)
    x = {"ratings": data["ratings"], "seen": torch.where(hidden, 0.0, data["seen"])}
    model = zoo.build("matrix_factorisation", x)
    done = experiments.fit(model, "mean_field", x, progress=False)
    assert done.converged
    with torch.no_grad():
        values = model.constrain(x, done.guide.posterior(x).mean[None])
    mean = model.centre + values["user_bias"][0][:, None] + values["item_bias"][0] + values["user_factors"][0] @ values[
        "item_factors"][0].mT
    truth = data["ratings"][hidden]
    of_items = ((x["ratings"] * x["seen"]).sum(0) / x["seen"].sum(0)).expand_as(hidden)
    gain = (truth - of_items[hidden]).square() - (truth - mean[hidden]).square()
    assert float(gain.mean()) > 2 * float(gain.std()) / math.sqrt(len(gain))


# -- data ----------------------------------------------------------------------------------------------------------------


def test_simulated_ratings_are_as_they_say() -> None:
    data = zoo.dataset("ratings")
    ratings, seen = data.x["ratings"], data.x["seen"] > 0
    assert (tuple(ratings.shape), int(seen.sum())) == ((36, 18), 388)
    assert bool((2 * ratings == (2 * ratings).round()).all())
    assert (float(ratings[seen].min()), float(ratings[seen].max())) == (0.5, 5.0)
    assert "simulated" in zoo.DATASETS["ratings"].summary
    assert sorted(data.columns) == sorted(f"film_{j}" for j in range(1, 19))


def test_a_file_of_ratings_is_a_matrix(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("when,item,user,rating\n1,b,7,4\n2,a,7,2.5\n3,a,9,1\n")
    data = zoo.dataset(str(tmp_path / "f.csv"), "ratings")
    assert (data.columns, data.rows) == (("b", "a"), ("7", "9"))
    assert data.x["ratings"].tolist() == [[4, 2.5], [0, 1]]
    assert data.x["seen"].tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize(("text", "expected"), [
    ("u,i,r\n1,2,3\n", "expected rows with columns user, item and rating in f.csv; got 1 rows of u, i, r; name them so"),
    ("user,item,rating\n", "got 0 rows of user, item, rating"),
    ("user,item,rating\n1,a,3\n1,a,4\n", "one rating of each user and item in f.csv; got a second one of user 1 and item a"),
    ("user,item,rating\n1,a,3\n1,,4\n", "expected a value in every row of column 'item' in f.csv; got none in row 1"),
    ("user,item,rating\n1,a,3\n1,b,good\n", "expected numbers in column 'rating' of f.csv; got 'good' in row 1"),
])
def test_bad_files_of_ratings(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(zoo.ZooError, match=expected):
        zoo.dataset(str(tmp_path / "f.csv"), "ratings")


@pytest.mark.parametrize(("x", "expected"), [
    ({"ratings": torch.ones(3)}, "expected a mapping with ratings and seen for matrix_factorisation; got a mapping of ratings"),
    ({"ratings": torch.ones(3, 2), "seen": torch.ones(3, 1)}, r"of one shape \(users, items\) .* got \(3, 2\) and \(3, 1\)"),
    ({"ratings": torch.ones(3, 2), "seen": torch.full((3, 2), 0.5)}, "expected seen of 0 and 1"),
    ({"ratings": torch.ones(3, 2), "seen": torch.ones(3, 2)}, "expected two different ratings or more"),
])
def test_bad_ratings(x: dict[str, Tensor], expected: str) -> None:
    with pytest.raises(zoo.ZooError, match=expected):
        zoo.build("matrix_factorisation", x)
