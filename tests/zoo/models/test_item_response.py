"""Item response: each person's marginal likelihood at given items is one integral over the ability."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from scipy.special import expit
from torch import Tensor

import zoo


def answers(persons: int = 12, items: int = 5) -> Tensor:
    return zoo.dataset("irt_2pl", "responses").tensor[:persons, :items]


def given(model: zoo.Model, x: Tensor, discrimination: Tensor, difficulty: Tensor, abilities: Tensor) -> Tensor:
    """Return points z at these items and abilities, (draws, persons)."""
    draws = len(abilities)
    values = {"discrimination": discrimination.expand(draws, -1), "difficulty": difficulty.expand(draws, -1)}
    return model.unconstrain(x, {**values, "ability": abilities})


def test_each_persons_marginal_likelihood_is_the_integral_over_the_ability() -> None:
    """Gauss–Hermite on the program's own log-likelihoods, 60 nodes, against SciPy's quad on the formula."""
    x = answers()
    model = zoo.build("item_response", x)
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(5, generator=generator).double() + 0.5, torch.randn(5, generator=generator).double()
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    abilities = torch.from_numpy(nodes)[:, None].expand(-1, len(x))
    log_likelihood = model.log_likelihood(x, given(model, x, a, b, abilities))["x"]
    log_weights = torch.from_numpy(weights / math.sqrt(2 * math.pi)).log()
    ours = (log_likelihood + log_weights[:, None]).logsumexp(0)

    def likelihood(ability: float, row: np.ndarray) -> float:
        chance = expit(a.numpy() * (ability - b.numpy()))
        return float(np.prod(np.where(row == 1, chance, 1 - chance)) * stats.norm.pdf(ability))

    for person in range(len(x)):
        value, error = quad(likelihood, -12, 12, args=(x[person].numpy(),), epsabs=1e-14, epsrel=1e-12)
        assert abs(math.exp(float(ours[person])) - value) < 1e-10 * value + error


def test_the_joint_density_is_that_of_the_formula() -> None:
    x = answers()
    model = zoo.build("item_response", x, spread=0.7, scale=1.5)
    z = model.sample_prior(x, 3)
    found = model.constrain(x, z)
    for draw in range(3):
        a, b, ability = (found[name][draw].numpy() for name in ("discrimination", "difficulty", "ability"))
        chance = expit(a * (ability[:, None] - b))
        expected = stats.bernoulli.logpmf(x.numpy(), chance).sum() + stats.norm.logpdf(ability).sum()
        expected += stats.lognorm.logpdf(a, 0.7).sum() + np.log(a).sum() + stats.norm.logpdf(b, 0, 1.5).sum()
        assert float(model.log_joint(x, z)[draw, 0]) == pytest.approx(expected, rel=1e-10)


def test_abilities_are_local_and_items_shared() -> None:
    from zoo.program.sites.blocks import Blocks

    x = answers()
    blocks = Blocks.of(zoo.build("item_response", x).latents(x))
    assert blocks is not None
    assert (blocks.plate, blocks.rows, len(blocks.shared), tuple(blocks.local.shape)) == ("person", 12, 10, (12, 1))


def test_answers_drawn_are_right_as_often_as_the_model_says() -> None:
    x = answers().repeat(200, 1)
    model = zoo.build("item_response", x)
    a, b = torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0]).double(), torch.tensor([0.0, 0.0, 1.0, -2.0, 3.0]).double()
    with zoo.seeded(0):
        drawn = model.predict(x, given(model, x, a, b, torch.full((1, len(x)), 0.5).double()))["x"][0]
    chance = (a * (0.5 - b)).sigmoid()
    assert bool(((drawn.mean(0) - chance).abs() < 4 * (chance * (1 - chance) / len(x)).sqrt()).all())


@pytest.mark.parametrize(("x", "text"), [
    (torch.tensor([[0.0, 1], [2, 0]]), r"responses of 0 and 1 for item_response; got 2 of person 1, item 0 \(from 0\)"),
    (torch.zeros(3, 2), r"expected columns that vary for item_response; got constant column\(s\) 0, 1"),
    (torch.ones(1, 2), "expected at least 2 rows for item_response; got 1"),
    (torch.ones(3), "expected a floating tensor of shape"),
])
def test_data_that_it_cannot_use(x: Tensor, text: str) -> None:
    with pytest.raises(zoo.ZooError, match=text):
        zoo.build("item_response", x)


def test_responses_of_files_are_0_and_1(tmp_path: Path) -> None:
    path = tmp_path / "exam.csv"
    path.write_text("q1,q2,q3\n1,0,1\n0,0,1\n1,1,1\n")
    data = zoo.dataset(str(path), "responses")  # an item that all got right tells of its difficulty
    assert data.columns == ("q1", "q2", "q3")
    assert data.tensor.tolist() == [[1, 0, 1], [0, 0, 1], [1, 1, 1]]
    with pytest.raises(zoo.ZooError, match=r"responses of exam\.csv as they are; got standardise"):
        zoo.dataset(str(path), "responses", standardise=True)
    path.write_text("q1,q2\n1,0\n0,3\n")
    with pytest.raises(zoo.ZooError, match=r"0 or 1 for responses in exam.csv; got 3 in row 1 \(from 0\), column 'q2'"):
        zoo.dataset(str(path), "responses")
