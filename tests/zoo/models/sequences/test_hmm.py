"""The hidden Markov model against the forward algorithm, and its data."""

from __future__ import annotations

import codecs
import contextlib
import io
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm
from torch import Tensor

import experiments
import zoo

LENGTH = torch.tensor([5.0, 1.0, 4.0, 2.0])


def ragged(emission: str, states: int) -> tuple[dict[str, Tensor], zoo.Model]:
    """Return sequences of several lengths, with rubbish behind their ends that a normal would be asked about in vain."""
    generator = torch.Generator().manual_seed(3)
    y = torch.randn(4, 5, 2, generator=generator, dtype=torch.double)
    if emission == "categorical":
        y = torch.randint(4, (4, 5), generator=generator).double()
        y[0, :4] = torch.arange(4)
    x = {"y": y, "length": LENGTH.double()}
    return x, zoo.build("hmm", x, states=states, emission=emission, concentration=0.7)


def emitted(values: dict[str, Tensor], y: np.ndarray) -> np.ndarray:
    """Return log p(y_t | state), (steps, states), of one sequence."""
    if "probs" in values:
        return np.log(values["probs"].numpy()[:, y.astype(int)].T)
    means, scales = values["means"].numpy(), values["scales"].numpy()
    return norm.logpdf(y[:, None], means, scales).sum(-1)


def forward(values: dict[str, Tensor], y: np.ndarray) -> float:
    """Return log p(y) of one sequence by the forward algorithm."""
    each = emitted(values, y)
    alpha = np.log(values["initial"].numpy()) + each[0]
    for t in range(1, len(y)):
        alpha = logsumexp(alpha[:, None] + np.log(values["transition"].numpy()), axis=0) + each[t]
    return float(logsumexp(alpha))


def by_paths(values: dict[str, Tensor], y: np.ndarray) -> float:
    """Return log p(y) of one sequence as a sum over all paths of the states."""
    each, initial, transition = emitted(values, y), values["initial"].numpy(), values["transition"].numpy()
    paths = itertools.product(range(len(initial)), repeat=len(y))
    return float(logsumexp([
        math.log(initial[path[0]]) + sum(math.log(transition[a, b]) for a, b in itertools.pairwise(path))
        + sum(each[t, k] for t, k in enumerate(path)) for path in paths]))


@pytest.mark.parametrize("emission", ["normal", "categorical"])
@pytest.mark.parametrize("states", [2, 3])
def test_the_density_is_the_forward_algorithms(emission: str, states: int) -> None:
    x, model = ragged(emission, states)
    with zoo.seeded(1):
        z = model.sample_prior(x, 3)
    each = model.log_likelihood(x, z)
    [rows] = each.values()
    total = model.log_terms(x, z)[1][:, 0]
    for draw in range(3):
        values = {name: value[draw] for name, value in model.constrain(x, z).items()}
        sequences = [x["y"][i, : int(n)].numpy() for i, n in enumerate(x["length"])]
        expected = [forward(values, y) for y in sequences]
        assert rows[draw].tolist() == pytest.approx(expected, abs=1e-8)
        assert float(total[draw]) == pytest.approx(sum(expected), abs=1e-8)
        assert expected == pytest.approx([by_paths(values, y) for y in sequences], abs=1e-8)


@pytest.mark.parametrize("emission", ["normal", "categorical"])
def test_what_comes_after_a_sequences_end_does_not_matter(emission: str) -> None:
    x, model = ragged(emission, 2)
    z = model.sample_prior(x, 3)
    inside = torch.arange(5) < x["length"][:, None]
    other = {"y": torch.where(inside if emission == "categorical" else inside[..., None], x["y"], 3.0), "length": x["length"]}
    torch.testing.assert_close(model.log_joint(other, z), model.log_joint(x, z), rtol=0, atol=1e-10)


def test_relabelled_states_are_as_likely() -> None:
    x, model = ragged("normal", 3)
    values = model.constrain(x, model.sample_prior(x, 1))
    turned = {name: value[:, [2, 0, 1]] for name, value in values.items()}
    turned["transition"] = turned["transition"][..., [2, 0, 1]]
    # The volume of a simplex's coordinates is the one thing that is not symmetric: likelihoods are compared.
    one, other = (model.log_terms(x, model.unconstrain(x, v))[1] for v in (values, turned))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    assert model.equal_modes == 6


def test_simulated_sequences_keep_their_lengths_and_have_the_states_statistics() -> None:
    """Of 4,000 sequences: the share of long second steps is that of the transitions, within four standard errors."""
    y = torch.zeros(4000, 3, 1).double()
    y[:, :2] = torch.randn(4000, 2, 1, generator=torch.Generator().manual_seed(0)).double()
    x = {"y": y, "length": torch.full((4000,), 2.0).double()}
    model = zoo.build("hmm", x)
    latent, fresh = model.simulate(x, seed=2)
    assert torch.equal(fresh["length"], x["length"])
    assert torch.equal(fresh["y"][:, 2], x["y"][:, 2])
    chance = latent["initial"] @ latent["transition"]
    mean = float(chance @ latent["means"][:, 0])
    variance = float(chance @ (latent["scales"][:, 0] ** 2 + latent["means"][:, 0] ** 2)) - mean**2
    assert abs(float(fresh["y"][:, 1].mean()) - mean) < 4 * math.sqrt(variance / 4000)


def test_states_of_the_geyser_alternate_and_are_recovered() -> None:
    x = zoo.dataset("geyser").x
    model = zoo.build("hmm", x)
    done = experiments.fit(model, "mean_field", x, progress=False)
    assert done.converged
    values = model.constrain(x, done.guide.posterior(x).mean[None].detach())
    short = int(values["means"][0, :, 0].argmin())
    assert float(values["means"][0, short, 0]) == pytest.approx(2.0, abs=0.2)
    assert float(values["transition"][0, short, 1 - short]) > 0.9
    tree = experiments.posterior(model, done.guide, x, draws=3, groups=["posterior"], infer_discrete=True)
    state = tree["posterior"]["state_3"].values[0]
    agree = (state == short) == (x["y"][:, 3, 0].numpy() < 3)
    assert agree.mean() > 0.95


# -- data ----------------------------------------------------------------------------------------------------------------


def test_zen_is_what_python_says() -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        import this
    text = " ".join(codecs.decode(this.s, "rot13").splitlines()[2:]).lower().replace("'", "")
    data = zoo.dataset("zen")
    words = [
        "".join(data.classes[int(k)] for k in row[: int(n)]) for row, n in zip(data.x["y"], data.x["length"], strict=True)]
    assert words == re.findall("[a-z]+", text)
    assert data.rows[0] == "1 beautiful"


def test_the_geyser_is_old_faithful_in_order() -> None:
    x, data = zoo.dataset("faithful").x, zoo.dataset("geyser")
    assert torch.equal(data.x["y"].reshape(-1, 2), x)
    assert data.x["length"].tolist() == [8.0] * 34
    assert data.columns == ("eruptions", "waiting")


@pytest.mark.parametrize(("text", "kind", "expected"), [
    ("a,b\n1,2\n3,4\n", "sequences", "expected a column 'sequence' that names each row's sequence, and numeric columns, in f"),
    ("sequence\n1\n2\n", "symbols", "and one column of symbols, in f.csv; got sequence; name them so"),
    ("sequence,b\n1,2\n,4\n", "sequences", "expected a value in every row of column 'sequence' in f.csv; got none in row 1"),
    ("sequence,b\n1,2\n1,x\n", "sequences", "expected numbers in column 'b' of f.csv; got 'x' in row 1"),
    ("sequence,a,b\n1,2,u\n1,3,v\n", "symbols", "expected one column of symbols beside 'sequence' in f.csv; got a, b; drop"),
    ("sequence,a\n1,u\n1,u\n", "symbols", "expected two symbols or more in column 'a' of f.csv; got 1; add data"),
    ("sequence,a\n", "symbols", "expected rows of data in f.csv; got none"),
])
def test_bad_files_of_sequences(tmp_path: Path, text: str, kind: str, expected: str) -> None:
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(zoo.ZooError, match=expected):
        zoo.dataset(str(tmp_path / "f.csv"), kind)


def test_a_file_of_sequences_is_read_in_order_wherever_its_rows_stand(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("sequence,v\nb,1\na,2\nb,3\nb,4\na,5\n")
    data = zoo.dataset(str(tmp_path / "f.csv"), "sequences")
    assert data.rows == ("b", "a")
    assert data.x["y"][..., 0].tolist() == [[1, 3, 4], [2, 5, 0]]
    assert data.x["length"].tolist() == [3, 2]
    (tmp_path / "f.csv").write_text("sequence,v\nb,up\na,down\nb,up\n")
    data = zoo.dataset(str(tmp_path / "f.csv"), "symbols")
    assert (data.classes, data.x["y"].tolist()) == (("down", "up"), [[1, 1], [0, 0]])


@pytest.mark.parametrize(("change", "options", "expected"), [
    ({"length": torch.tensor([5.0, 0.0, 4.0, 2.0])}, {}, "whole numbers from 1 to 5 for hmm; got 0 in row 1"),
    ({"length": torch.tensor([5.0, 6.0, 4.0, 2.0])}, {}, "got 6 in row 1"),
    ({"y": torch.zeros(4)}, {}, r"expected y of shape \(sequences, steps, columns\)"),
    ({}, {"states": 1}, "expected at least 2 states for hmm; got 1; raise --states"),
    ({}, {"emission": "categorical"}, "expected y of whole numbers from 0 up"),
    ({}, {"emission": "poisson"}, "expected emission to be one of normal, categorical; got 'poisson'"),
    ({"y": torch.ones(4, 5)}, {}, "expected y of shape .* for emission normal; got 2 dimensions"),
    ({"y": torch.ones(4, 5)}, {"emission": "categorical", "states": 3}, "at least as many symbols as states; got 2 and 3"),
    ({}, {"concentration": 0.0}, "expected a positive, finite concentration of hmm"),
])
def test_bad_sequences(change: dict[str, Tensor], options: dict[str, Any], expected: str) -> None:
    x, _ = ragged("normal", 2)
    with pytest.raises(zoo.ZooError, match=expected):
        zoo.build("hmm", {**x, **{k: v.double() for k, v in change.items()}}, **options)
