"""Latent Dirichlet allocation: its two forms are one density, and its evidence is a sum that can be written out."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from scipy.special import gammaln
from torch import Tensor
from torch.distributions import Dirichlet

import experiments
import zoo
from zoo.distributions.row_multinomial import RowMultinomial, log_orders
from zoo.models.lda import in_order
from zoo.program.enumeration.recovery import probabilities


def corpus(documents: int = 5, words: int = 7) -> Tensor:
    return zoo.dataset("python_topics", "counts").tensor[:documents, :words]


def twins(x: Tensor, **options: float) -> tuple[zoo.Model, zoo.Model]:
    one, other = (zoo.build("lda", x, marginalised=marginalised, **options) for marginalised in (True, False))
    return one, other


@pytest.mark.parametrize("options", [{}, {"topics": 2, "topic_concentration": 1.5, "document_concentration": 0.9}])
def test_the_formula_and_the_enumeration_are_one_density(options: dict[str, float]) -> None:
    x = corpus()
    one, other = twins(x, **options)
    assert one.latents(x).coordinates() == other.latents(x).coordinates()
    assert [site.name for site in other.latents(x).summed] == ["assignment"]
    z = one.sample_prior(x, 4).requires_grad_()
    values = [model.log_joint(x, z) for model in (one, other)]
    torch.testing.assert_close(values[0], values[1], rtol=1e-8, atol=1e-8)
    gradients = [torch.autograd.grad(value.sum(), z)[0] for value in values]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-7, atol=1e-7)


def test_the_likelihood_is_scipys_multinomial() -> None:
    x = corpus()
    model = zoo.build("lda", x)
    z = model.sample_prior(x, 3)
    found = model.constrain(x, z)
    probs = (found["document_topics"] @ found["topic_words"]).numpy()
    expected = np.stack([stats.multinomial.logpmf(x.numpy(), x.sum(1).numpy(), p / p.sum(-1, keepdims=True)) for p in probs])
    torch.testing.assert_close(model.log_likelihood(x, z)["x"], torch.from_numpy(expected), rtol=1e-8, atol=1e-8)


def test_a_document_at_given_topics_is_one_integral() -> None:
    """∫ Multinomial(x | θ φ₁ + (1 − θ) φ₂) Beta(θ) dθ by SciPy's quad, and by the trapezoid rule on the program."""
    x = torch.tensor([[3.0, 1.0, 0.0, 2.0], [0.0, 1.0, 1.0, 4.0]]).double()
    model = zoo.build("lda", x, topics=2, document_concentration=1.3)
    topics = torch.tensor([[0.5, 0.3, 0.1, 0.1], [0.1, 0.1, 0.2, 0.6]], dtype=torch.double)
    grid = torch.linspace(-30, 30, 2001, dtype=torch.double)
    shares = torch.stack([grid.sigmoid(), (-grid).sigmoid()], -1)[:, None].expand(-1, 2, -1)
    z = model.unconstrain(x, {"topic_words": topics.expand(len(grid), -1, -1), "document_topics": shares})
    slope = shares.log().sum(-1)
    log_prior = Dirichlet(torch.full((2,), 1.3, dtype=torch.double)).log_prob(shares) + slope
    ours = (model.log_likelihood(x, z)["x"] + log_prior).logsumexp(0) + (grid[1] - grid[0]).log()
    for row, counts in enumerate(x.numpy()):
        def density(share: float, counts: np.ndarray = counts) -> float:
            mixed = share * topics[0].numpy() + (1 - share) * topics[1].numpy()
            orders = gammaln(counts.sum() + 1) - gammaln(counts + 1).sum()
            return float(np.exp(orders + counts @ np.log(mixed)) * stats.beta.pdf(share, 1.3, 1.3))

        value, _ = quad(density, 0, 1, epsabs=1e-13)
        assert float(ours[row].exp()) == pytest.approx(value, rel=1e-8)


def exact_evidence(documents: list[list[int]], words: int, topics: int, alpha: float, beta: float) -> float:
    """Return log p(x): the sum over all assignments of the words to topics, each a product of Dirichlet–multinomials."""
    def of_counts(counts: Counter[int], size: int, concentration: float) -> float:
        total = sum(counts.values())
        each = sum(gammaln(concentration + n) - gammaln(concentration) for n in counts.values())
        return float(gammaln(size * concentration) - gammaln(size * concentration + total) + each)

    places = [(document, word) for document, row in enumerate(documents) for word in row]
    terms = []
    for assignment in itertools.product(range(topics), repeat=len(places)):
        labelled = list(zip(places, assignment, strict=True))
        shares = [Counter(k for (d, _), k in labelled if d == i) for i in range(len(documents))]
        chosen = [Counter(word for (_, word), k in labelled if k == j) for j in range(topics)]
        terms.append(sum(of_counts(c, topics, alpha) for c in shares) + sum(of_counts(c, words, beta) for c in chosen))
    counts = torch.tensor([[row.count(word) for word in range(words)] for row in documents]).double()
    return float(np.logaddexp.reduce(terms)) + float(log_orders(counts).sum())


def test_the_evidence_is_the_sum_over_all_assignments() -> None:
    """2^9 assignments written out, against the likelihood's mean over 40,000 draws of the prior: four standard errors."""
    documents = [[0, 0, 1, 2], [2, 2, 0], [1, 1]]
    x = torch.tensor([[row.count(word) for word in range(3)] for row in documents]).double()
    model = zoo.build("lda", x, topics=2, topic_concentration=0.8, document_concentration=1.2)
    with zoo.seeded(0):
        topics = Dirichlet(torch.full((3,), 0.8, dtype=torch.double)).sample((40_000, 2))
        shares = Dirichlet(torch.full((2,), 1.2, dtype=torch.double)).sample((40_000, 3))
    z = model.unconstrain(x, {"topic_words": topics, "document_topics": shares})
    likelihood = model.log_terms(x, z)[1][:, 0].exp()
    error = float(likelihood.std()) / math.sqrt(len(likelihood))
    assert error < 0.02 * float(likelihood.mean())
    assert abs(float(likelihood.mean()) - math.exp(exact_evidence(documents, 3, 2, 1.2, 0.8))) < 4 * error


def test_assignments_are_recovered_by_bayes_rule() -> None:
    x = corpus(3, 5)
    model = zoo.build("lda", x, topics=3, marginalised=False)
    z = model.sample_prior(x, 2)
    found = model.constrain(x, z)
    words, present = in_order(x)
    joint = found["document_topics"] * found["topic_words"].mT[:, words]
    expected = joint / joint.sum(-1, keepdim=True)
    ours = probabilities(model.runner, x, z)["assignment"]
    torch.testing.assert_close(ours[:, present], expected[:, present])


def test_words_in_order_are_those_that_were_counted() -> None:
    x = corpus(4, 6)
    words, present = in_order(x)
    again = torch.stack([torch.bincount(column[here], minlength=6) for column, here in zip(words, present, strict=True)])
    assert torch.equal(again.double(), x)


def test_documents_own_their_shares_and_share_the_topics() -> None:
    from zoo.program.sites.blocks import Blocks

    x = corpus()
    for model in twins(x, topics=3):
        blocks = Blocks.of(model.latents(x))
        assert blocks is not None
        assert (blocks.plate, blocks.rows, len(blocks.shared), tuple(blocks.local.shape)) == ("document", 5, 18, (5, 2))


@pytest.mark.parametrize("marginalised", [True, False])
def test_documents_drawn_are_as_long_as_those_of_x(marginalised: bool) -> None:
    x = corpus()
    model = zoo.build("lda", x, marginalised=marginalised)
    latent, fresh = model.simulate(x, seed=0)
    assert isinstance(fresh, Tensor)
    assert torch.equal(fresh.sum(1), x.sum(1))
    assert not torch.equal(fresh, x)
    z = model.unconstrain(fresh, {name: value[None] for name, value in latent.items()})
    assert bool(model.log_joint(fresh, z).isfinite().all())


def test_multinomials_drawn_have_the_moments_they_say() -> None:
    total, probs = torch.tensor([0.0, 5.0, 200.0]).double(), torch.tensor([0.2, 0.0, 0.5, 0.3]).double()
    rows = RowMultinomial(total, probs)
    with zoo.seeded(0):
        drawn = rows.sample(torch.Size((4000,)))
    assert bool(rows.support.check(drawn).all())
    assert torch.equal(drawn.sum(-1), total.expand(4000, -1))
    mean, variance = total[:, None] * probs, total[:, None] * probs * (1 - probs)
    assert bool(((drawn.mean(0) - mean).abs() <= 4 * (variance / 4000).sqrt()).all())
    spread = (drawn - mean).square()
    assert bool(((spread.mean(0) - variance).abs() <= 4 * spread.std(0) / 4000**0.5).all())


def test_fits_start_at_topics_that_explain_the_words() -> None:
    """The start lies far above the prior's median, at which all topics are alike, and no fit tells them apart."""
    x = corpus(30, 20)
    model = zoo.build("lda", x, topics=3)
    with zoo.seeded(0):
        start = model.start(x)
    assert start is not None
    z = model.unconstrain(x, {name: value[None] for name, value in start.items()})
    assert bool((model.constrain(x, z)["topic_words"] - start["topic_words"]).abs().max() < 1e-6)
    assert float(model.log_joint(x, z)) > float(model.log_joint(x, torch.zeros_like(z))) + 100
    distance = torch.cdist(start["topic_words"], start["topic_words"], p=1)
    assert bool((distance[~torch.eye(3, dtype=torch.bool)] > 0.5).all())


@pytest.mark.parametrize(("x", "options", "text"), [
    (torch.eye(3) / 2, {}, r"expected whole numbers from 0 up for lda; got 0.5 in row 0, column 0 \(from 0\)"),
    (torch.ones(1, 4), {}, "expected at least 2 rows for lda; got 1"),
    (torch.tensor([[1.0], [2]]), {}, "expected at least 2 words for lda; got 1"),
    (torch.eye(3), {"topics": 1}, "expected at least 2 topics for lda; got 1"),
    (torch.eye(3), {"topic_concentration": 0.0}, "expected a positive, finite topic_concentration of lda"),
])
def test_data_and_options_that_it_cannot_use(x: Tensor, options: dict[str, float], text: str) -> None:
    with pytest.raises(zoo.ZooError, match=text):
        zoo.build("lda", x, **options)


def test_topics_of_the_tree_are_labelled_by_words() -> None:
    x = corpus()
    model = zoo.build("lda", x)
    tree = experiments.posterior(model, "prior", x, draws=3, groups=["posterior"], coords={"column": list("abcdefg")})
    assert tree["posterior"]["topic_words"].dims == ("chain", "draw", "topic", "column")
    assert tree["posterior"]["document_topics"].dims == ("chain", "draw", "document", "topic")


def test_python_topics_is_the_table_that_it_says() -> None:
    data = zoo.dataset("python_topics", "counts")
    assert data.columns == tuple(sorted(data.columns))
    assert {"class", "statement", "string"} <= set(data.columns)
    assert len(data.rows) == len(set(data.rows)) == len(data.tensor)
    assert float(data.tensor.sum(1).min()) >= 20
    present = (data.tensor > 0).sum(0)
    assert int(present.max()) <= 40
