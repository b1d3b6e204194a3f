"""The semi-supervised VAE: the sum over classes written out, and data with labels of some rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import experiments
import zoo
from zoo.program.enumeration.recovery import probabilities


def digits(rows: int = 40) -> dict[str, Tensor]:
    """Return digits in black and white of which every third has a label."""
    data = zoo.dataset("digits", "labelled_images", binarise="threshold")
    assert data.labels is not None
    label = data.labels[:rows].double()
    return {"x": data.x["x"][:rows], "label": torch.where(torch.arange(rows) % 3 == 0, label, -1.0)}


def by_class(model: Any, x: dict[str, Tensor], z: Tensor) -> Tensor:
    """Return log p(x_i | z_i, class) of each class, (draws, rows, classes), with the network called class by class."""
    each = []
    for k in range(model.classes):
        one_hot = nn.functional.one_hot(torch.tensor(k), model.classes).double().expand(*z.shape[:2], -1)
        output = model.network(torch.cat([z, one_hot], -1).flatten(0, 1)).unflatten(0, z.shape[:2])
        if model.word == "bernoulli":
            sign = 2 * x["x"] - 1
            each.append(nn.functional.logsigmoid(sign * output).sum(-1))
        else:
            scale = model.likelihood.scale
            each.append((-0.5 * ((x["x"] - output) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1))
    return torch.stack(each, -1)


@pytest.mark.parametrize(("likelihood", "network"), [("bernoulli", "mlp"), ("bernoulli", "conv"), ("normal", "mlp")])
def test_classes_are_summed_out_where_unknown_and_observed_where_known(likelihood: str, network: str) -> None:
    x = digits()
    if likelihood == "normal":
        x["x"] = x["x"] + 0.1 * torch.randn(x["x"].shape, generator=torch.Generator().manual_seed(0)).double()
    model = zoo.build(
        "semi_supervised_vae", x, latent=3, likelihood=likelihood, network=network, hidden=(8,), classes=10)
    with torch.no_grad():
        for p in model.network.parameters():  # off the start, where classes hardly differ
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=p.dtype))
        z = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(1), dtype=torch.double)
        each = by_class(model, x, z) - math.log(10)
        known = x["label"] >= 0
        of_label = each.gather(-1, x["label"].clamp(min=0).long().expand(2, -1)[..., None])[..., 0]
        prior = -0.5 * z.square().sum(-1) - 1.5 * math.log(2 * math.pi)
        expected = prior + torch.where(known, of_label, each.logsumexp(-1))
        torch.testing.assert_close(model.log_joint(x, z), expected, rtol=0, atol=1e-8)
        shares = probabilities(model.runner, x, z)["class"]
        of_known = nn.functional.one_hot(x["label"].clamp(min=0).long(), 10).double()
        torch.testing.assert_close(
            shares, torch.where(known[:, None], of_known, each.softmax(-1)), rtol=0, atol=1e-8)


def test_simulated_labels_are_the_classes_and_stay_missing() -> None:
    x = digits()
    model = zoo.build("semi_supervised_vae", x, latent=2, hidden=(8,))
    latent, fresh = model.simulate(x, seed=1)
    assert torch.equal(fresh["label"] < 0, x["label"] < 0)
    known = x["label"] >= 0
    assert torch.equal(fresh["label"][known], latent["class"][known].double())


def test_labels_tell_what_classes_look_like() -> None:
    """Three well-separated kinds of rows, one label in five: the classes of the other rows are recovered."""
    generator = torch.Generator().manual_seed(2)
    truth = torch.randint(3, (150,), generator=generator)
    centres = 4 * torch.eye(3, 6).double()
    rows = centres[truth] + 0.5 * torch.randn(150, 6, generator=generator, dtype=torch.double)
    x = {"x": rows, "label": torch.where(torch.arange(150) % 5 == 0, truth.double(), -1.0)}
    model = zoo.build("semi_supervised_vae", x, latent=1, likelihood="normal", hidden=(8,))
    done = experiments.fit(model, "mean_field:encoder", x, steps=300, progress=False)
    with torch.no_grad():
        z = done.guide.posterior(x).mean[None]
        found = probabilities(model.runner, x, z)["class"][0].argmax(-1)
    assert float((found == truth).double().mean()) > 0.95


# -- data ----------------------------------------------------------------------------------------------------------------


def test_ten_labels_of_each_class_are_kept() -> None:
    data, other = (zoo.dataset("digits", "labelled_images", binarise="static", seed=seed) for seed in (0, 1))
    assert data.labels is not None
    kept = data.x["label"] >= 0
    assert data.x["label"][kept].long().bincount().tolist() == [10] * 10
    assert torch.equal(data.x["label"][kept].long(), data.labels[kept])
    assert not torch.equal(other.x["label"], data.x["label"])
    assert torch.equal(data.x["x"], zoo.dataset("digits", "images", binarise="static").x)
    assert data.remarks[-1] == "labels of 10 rows of each class kept, seed 0; the others are hidden"
    assert zoo.dataset("iris", "labelled", standardise=True).classes == ("setosa", "versicolor", "virginica")
    with pytest.raises(zoo.ZooError, match="expected images alone for binarise='dynamic'; got digits as labelled_images"):
        zoo.dataset("digits", "labelled_images", binarise="dynamic")
    with pytest.raises(zoo.ZooError, match="expected labelled_images of digits as they are; got standardise"):
        zoo.dataset("digits", "labelled_images", standardise=True)


def test_a_files_target_may_be_empty_in_some_rows(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("kind,a,b\nup,1,2\n,3,5\ndown,2,2\n,4,1\n")
    data = zoo.dataset(str(tmp_path / "f.csv"), "labelled", target="kind")
    assert (data.columns, data.classes) == (("a", "b"), ("down", "up"))
    assert data.x["label"].tolist() == [1, -1, 0, -1]


@pytest.mark.parametrize(("text", "expected"), [
    ("a,kind\n1,up\n2,\n", "expected two classes or more in column 'kind' of f.csv; got 1; choose another with --target"),
    ("kind\nup\n", "expected a target and at least one other column in f.csv"),
    ("a,kind\n1,up\nx,down\n", "expected numbers in column 'a' of f.csv; got 'x' in row 1"),
])
def test_bad_files_of_labelled_rows(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(zoo.ZooError, match=expected):
        zoo.dataset(str(tmp_path / "f.csv"), "labelled")


@pytest.mark.parametrize(("change", "options", "expected"), [
    ({"label": torch.full((40,), -1.0)}, {}, "expected at least 2 classes for semi_supervised_vae; got 0; raise --classes"),
    ({"label": torch.full((40,), 0.5)}, {}, "whole numbers from 0 up, −1 where unknown, for semi_supervised_vae; got others"),
    ({}, {"classes": 4}, "expected at least 10 classes for semi_supervised_vae; got 4"),
    ({}, {"latent": 0}, "expected latent as a whole number from 1; got 0"),
    ({}, {"likelihood": "binomial"}, "expected likelihood to be one of bernoulli, normal; got 'binomial'"),
    ({"label": torch.zeros(3)}, {}, "expected entries of one length for semi_supervised_vae; got 40 of x, 3 of label"),
])
def test_bad_labels(change: dict[str, Tensor], options: dict[str, Any], expected: str) -> None:
    with pytest.raises(zoo.ZooError, match=expected):
        zoo.build("semi_supervised_vae", {**digits(), **{k: v.double() for k, v in change.items()}}, **options)
