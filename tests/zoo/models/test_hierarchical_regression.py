"""A regression whose coefficients vary by group: given the variances it is Gaussian, so that its marginal is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import zoo
from zoo.models.regression import design

Rows = dict[str, Tensor]


def few(rows: int = 30, groups: int = 4, columns: int = 2) -> Rows:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(rows, columns + 1, generator=generator, dtype=torch.double)
    return {"X": table[:, 1:], "y": table[:, 0], "group": torch.randint(groups, (rows,), generator=generator)}


def prior_and_design(values: dict[str, Tensor], x: Rows, groups: int) -> tuple[MultivariateNormal, Tensor]:
    """Return p(β | mean, scales, corr_cholesky) of all groups' coefficients in a row, and the matrix that gives E[y]."""
    factor = values["scales"][:, None] * values["corr_cholesky"]
    prior = MultivariateNormal(values["mean"].repeat(groups), scale_tril=torch.block_diag(*[factor] * groups))
    wide = torch.nn.functional.one_hot(x["group"], groups)[..., None] * design(x)[:, None]
    return prior, wide.flatten(1)


@pytest.mark.parametrize("centred", [False, True])
def test_given_the_variances_the_coefficients_integrate_to_the_normal_marginal(centred: bool) -> None:
    """log p(y, β | s) − log p(β | y, s) is log N(y | A m, A S Aᵀ + σ² I) at every β: exactly, with s all but the offsets."""
    x, groups = few(), 4
    model = zoo.build("hierarchical_regression", x, centred=centred, shape=2.0, scale=1.5)
    z = model.sample_prior(x, 5)
    for row in z:
        found = {name: value[0] for name, value in model.constrain(x, row[None]).items()}
        prior, wide = prior_and_design(found, x, groups)
        noise = found["noise"].square() * torch.eye(len(wide), dtype=torch.double)
        marginal = MultivariateNormal(wide @ prior.mean, wide @ prior.covariance_matrix @ wide.mT + noise)
        precision = prior.precision_matrix + wide.mT @ wide / found["noise"].square()
        loc = torch.linalg.solve(precision, prior.precision_matrix @ prior.mean + wide.mT @ x["y"] / found["noise"].square())
        at = found["coefficients"].flatten()
        posterior = MultivariateNormal(loc, precision_matrix=precision).log_prob(at)
        log_likelihood = model.log_likelihood(x, row[None])["y"].sum()
        # p(y | β, s) p(β | s) / p(β | y, s): the marginal, whatever β
        ours = log_likelihood + prior.log_prob(at) - posterior
        scale = max(float(abs(term)) for term in (log_likelihood, prior.log_prob(at), posterior))
        assert abs(float(ours - marginal.log_prob(x["y"]))) < 1e-11 * scale + 1e-9
        log_probs = model.log_probs(x, row[None])
        given = log_probs["coefficients"] if centred else log_probs["offsets"]
        log_det = 0.0 if centred else groups * float((found["scales"].log() + found["corr_cholesky"].diagonal().log()).sum())
        assert float(given.sum()) - log_det == pytest.approx(float(prior.log_prob(at)), rel=1e-9)


def test_both_forms_have_the_same_density() -> None:
    """Of the shared parameters and coefficients: the non-centred one's offsets bring their Jacobian."""
    x = few()
    one, other = (zoo.build("hierarchical_regression", x, centred=centred) for centred in (False, True))
    z = one.sample_prior(x, 6)
    found = one.constrain(x, z)
    log_det = 4 * (found["scales"].log().sum(-1) + found["corr_cholesky"].diagonal(dim1=-2, dim2=-1).log().sum(-1))
    again = other.unconstrain(x, {site.name: found[site.name] for site in other.latents(x).sites})
    torch.testing.assert_close(other.log_joint(x, again)[:, 0] + log_det, one.log_joint(x, z)[:, 0], rtol=1e-8, atol=1e-8)


def test_groups_are_looked_up_by_row() -> None:
    x = few(rows=6, groups=2, columns=1)
    x["group"] = torch.tensor([0, 1, 0, 1, 1, 0])
    model = zoo.build("hierarchical_regression", x)
    z = model.sample_prior(x, 1)
    found = {name: value[0] for name, value in model.constrain(x, z).items()}
    mean = torch.stack([found["coefficients"][g, 0] + found["coefficients"][g, 1] * v for g, v in zip(
        x["group"].tolist(), x["X"][:, 0], strict=True)])
    expected = torch.distributions.Normal(mean, found["noise"]).log_prob(x["y"])
    torch.testing.assert_close(model.log_likelihood(x, z)["y"][0], expected)


def test_new_rows_are_predicted_by_their_groups() -> None:
    x = few()
    model = zoo.build("hierarchical_regression", x)
    z = model.sample_prior(x, 1)
    new = {"X": torch.zeros(800, 2, dtype=torch.double), "group": torch.tensor([3, 0]).repeat(400)}
    drawn = model.predict(new, z)["y"][0]
    found = {name: value[0] for name, value in model.constrain(x, z).items()}
    for first, group in enumerate([3, 0]):
        error = float(found["noise"]) / 400**0.5
        assert abs(float(drawn[first::2].mean() - found["coefficients"][group, 0])) < 4 * error


@pytest.mark.parametrize(("change", "text"), [
    ({"group": None}, "expected a mapping with group for hierarchical_regression"),
    ({"group": torch.zeros(30, dtype=torch.long)}, "expected at least 2 groups for hierarchical_regression; got 1"),
    ({"group": torch.zeros(30)}, "to be a whole number from 0 up for each of 30 rows; got torch.float32"),
    ({"group": torch.arange(30) - 1}, r"got torch.int64 of shape \(30,\) from -1; use torch.int64"),
    ({"group": torch.arange(29)}, r"for each of 30 rows; got torch.int64 of shape \(29,\)"),
    ({"X": torch.ones(30, 2).double()}, r"columns that vary for hierarchical_regression; got constant column\(s\) 0, 1"),
])
def test_data_that_it_cannot_use(change: Rows, text: str) -> None:
    x = {name: value for name, value in {**few(), **change}.items() if value is not None}
    with pytest.raises(zoo.ZooError, match=text):
        zoo.build("hierarchical_regression", x)


@pytest.mark.parametrize("options", [{"scale": 0.0}, {"shape": -1.0}])
def test_priors_are_positive(options: dict[str, float]) -> None:
    with pytest.raises(zoo.ZooError, match=rf"expected a positive, finite {next(iter(options))} of hierarchical_regression"):
        zoo.build("hierarchical_regression", few(), **options)


# -- files with groups ---------------------------------------------------------------------------------------------------

HEAD = "place,floor,radon\n"
LINES = ["Aitkin,1,0.8\n", "Becker,0,1.9\n", "Aitkin,0,1.3\n", "Clay,1,0.2\n"]


def written(folder: Path, text: str) -> str:
    path = folder / "homes.csv"
    path.write_text(text)
    return str(path)


def test_groups_of_a_file_are_its_words_or_the_column_named_so(tmp_path: Path) -> None:
    data = zoo.dataset(written(tmp_path, HEAD + "".join(LINES)), "grouped_regression")
    assert (data.columns, data.groups) == (("floor",), ("Aitkin", "Becker", "Clay"))
    assert data.x["group"].tolist() == [0, 1, 0, 2]
    assert data.x["y"].tolist() == [0.8, 1.9, 1.3, 0.2]
    text = "radon,group,floor\n0.8,10,1\n1.9,9,0\n1.3,10,0\n"
    data = zoo.dataset(written(tmp_path, text), "grouped_regression", target="radon", standardise=True)
    assert (data.columns, data.groups, data.x["group"].tolist()) == (("floor",), ("9", "10"), [1, 0, 1])
    torch.testing.assert_close(data.x["X"][:, 0].std(unbiased=False), torch.ones((), dtype=torch.double))
    assert data.x["y"].tolist() == [0.8, 1.9, 1.3]


@pytest.mark.parametrize(("text", "said"), [
    ("floor,radon\n1,2\n0,3\n", r"a column named group, or one column of words, in homes.csv; got numbers alone \(floor"),
    ("town,street,floor,radon\na,b,1,2\nc,d,0,3\n", r"2 columns of words \(town, street\); name the column of groups 'group'"),
    (HEAD + LINES[0] + ",0,1\n", r"expected a group in every row of column 'place' in homes.csv; got none in row\(s\) 1"),
    ("place,radon\na,1\nb,2\n", "expected a target and at least one other column in homes.csv; got one column"),
    (HEAD + "a,1,low\nb,0,high\n", r"got 2 columns of words \(place, radon\)"),
    (HEAD + "a,1,2\nb,1,3\n", r"got constant column\(s\) floor"),
])
def test_files_whose_groups_are_not_found(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(zoo.ZooError, match=said):
        zoo.dataset(written(tmp_path, text), "grouped_regression")


def test_radon_is_the_known_table() -> None:
    data = zoo.dataset("radon", "grouped_regression")
    assert (len(data.x["y"]), len(data.groups)) == (919, 85)
    assert float(data.x["y"].mean()) == pytest.approx(1.264779, abs=1e-6)
    assert data.x["X"].sum() == 153
    assert (data.groups[0], data.groups[84]) == ("1", "85")
