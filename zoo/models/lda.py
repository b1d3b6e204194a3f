"""Latent Dirichlet allocation: documents as mixtures of topics."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from sklearn.decomposition import LatentDirichletAllocation
from torch import Tensor

from zoo.data import Data, check_positive, check_table, place
from zoo.distributions.row_multinomial import RowMultinomial, log_orders
from zoo.errors import ZooError
from zoo.model import Model

#: Sweeps of scikit-learn's variational fit, at most, at which fits start.
SWEEPS = 50


class LDA(Model):
    """Latent Dirichlet allocation: each word of a document is of a topic, drawn from the document's own shares of topics.

        topic_words_k ~ Dirichlet(β, …, β),  document_topics_i ~ Dirichlet(α, …, α),
        assignment_in ~ Categorical(document_topics_i),  word_in ~ Categorical(topic_words of that topic),

    of which x holds how often each word comes in each document. Its order is not told, so p(x) counts all of them: with the
    assignments summed out, x_i ~ Multinomial(n_i, document_topics_iᵀ topic_words).

    The documents are the unit plate. The model has both kinds of latents: the shares of topics are local to a document, the
    topics' words are shared by all, so that the data set is one unit. Relabelling the topics leaves the density as it is: the
    posterior has K! equal modes, and a guide on one of them has a gap of log K! nats at least.

    Latents: ``topic_words`` (K, V), ``document_topics`` (documents, K); ``assignment`` (documents, words) is summed out, beside
    which ``document_topics`` is (documents, 1, K).

    Args:
        x: (documents, V), whole numbers from 0 up: how often each of V words comes. Fits start at scikit-learn's variational
            fit.
        topics: K ≥ 2.
        marginalised: sum the assignments out by the formula above; else by enumeration, a word at a time: the same density,
            at a far higher cost, with the assignments for ``experiments.posterior(..., infer_discrete=True)``.
        topic_concentration: β.
        document_concentration: α.

    Raises:
        ZooError: not a floating table, not whole, one document, fewer than 2 words or topics, a prior not positive.

    Source: Blei, Ng and Jordan (2003), Latent Dirichlet allocation, https://www.jmlr.org/papers/v3/blei03a.html; Griffiths and
    Steyvers (2004), Finding scientific topics, https://doi.org/10.1073/pnas.0307752101, for the prior of topic_words

    >>> x = torch.tensor([[3.0, 0.0, 1.0], [0.0, 2.0, 2.0]])
    >>> LDA(x, topics=2).latents(x).size                   # 2 topics of 3 words, 2 documents of 2 topics
    6
    """

    pure = True
    dims = {"topic_words": ("column",), "document_topics": ("topic",), "x": ("column",)}

    def __init__(
        self, x: Data, topics: int = 3, marginalised: bool = True, topic_concentration: float = 0.5,
        document_concentration: float = 0.5,
    ):
        super().__init__()
        x = check_table(x, self.label, varying=False)
        bad = (x < 0) | (x != x.round())
        if bool(bad.any()):
            raise ZooError(
                f"expected whole numbers from 0 up for {self.label}; got {float(x[bad][0]):g}{place(bad, ' in ')} (from 0); "
                "round or drop them")
        for what, number in (("words", x.shape[1]), ("topics", topics)):
            if number < 2:
                raise ZooError(f"expected at least 2 {what} for {self.label}; got {number}; there is nothing to mix")
        check_positive(self.label, topic_concentration=topic_concentration, document_concentration=document_concentration)
        self.topics, self.words, self.marginalised = topics, x.shape[1], marginalised
        self.topic_concentration, self.document_concentration = topic_concentration, document_concentration

    def forward(self, x: Tensor) -> None:
        one = x.new_ones(1)
        with pyro.plate("topic", self.topics):
            topic_words = pyro.sample("topic_words", dist.Dirichlet(self.topic_concentration * one.expand(self.words)))
        shares = dist.Dirichlet(self.document_concentration * one.expand(self.topics))
        if self.marginalised:
            with pyro.plate("document", len(x)):
                document_topics = pyro.sample("document_topics", shares)
                pyro.sample("x", RowMultinomial(x.sum(-1), document_topics @ topic_words), obs=x)
            return
        words, present = in_order(x)
        with pyro.plate("document", len(x), dim=-2):
            document_topics = pyro.sample("document_topics", shares)
            pyro.factor("orders", log_orders(x)[:, None])
            with pyro.plate("position", words.shape[1], dim=-1), poutine.mask(mask=present):
                assignment = pyro.sample("assignment", dist.Categorical(document_topics), infer={"enumerate": "parallel"})
                pyro.sample("word", dist.Categorical(topic_words[assignment]), obs=words)

    def start(self, x: Data) -> dict[str, Tensor]:
        """Return the topics and shares that scikit-learn's variational fit finds (torch's generator)."""
        x = check_table(x, self.label, varying=False)
        fitted = LatentDirichletAllocation(
            self.topics, doc_topic_prior=self.document_concentration, topic_word_prior=self.topic_concentration,
            max_iter=SWEEPS, random_state=int(torch.randint(2**31 - 1, ())))
        shares = fitted.fit_transform(x.detach().cpu().numpy())
        topics = fitted.components_ / fitted.components_.sum(1, keepdims=True)
        return self._latents(torch.from_numpy(topics).to(x), torch.from_numpy(shares).to(x))

    def simulate(self, x: Data, seed: int | None = None) -> tuple[dict[str, Tensor], Data]:
        """Draw latents and counts; by the formula also where assignments are enumerated, whose words are in no table."""
        if self.marginalised:
            return super().simulate(x, seed)
        twin = LDA(x, self.topics, True, self.topic_concentration, self.document_concentration)
        latent, fresh = twin.simulate(x, seed)
        return self._latents(latent["topic_words"], latent["document_topics"]), fresh

    def _latents(self, topic_words: Tensor, document_topics: Tensor) -> dict[str, Tensor]:
        """Return the latent values, where documents lie along the first of two dimensions of plates if there are two."""
        return {
            "topic_words": topic_words, "document_topics": document_topics if self.marginalised else document_topics[:, None]}

    @property
    def equal_modes(self) -> int:
        """How many modes the posterior has that differ in the order of the topics alone."""
        return math.factorial(self.topics)

    def extra_repr(self) -> str:
        return f"topics={self.topics}, words={self.words}, marginalised={self.marginalised}"


def in_order(counts: Tensor) -> tuple[Tensor, Any]:
    """Return the words of documents one after the other, (documents, longest), and which of these places hold one.

    >>> words, present = in_order(torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))
    >>> words.tolist(), present.tolist()
    ([[0, 0, 2], [1, 2, 2]], [[True, True, True], [True, False, False]])
    """
    ends = counts.cumsum(-1)
    places = torch.arange(int(ends[:, -1].max())).to(counts)
    words = torch.searchsorted(ends, places.expand(len(ends), -1).contiguous(), right=True)
    return words.clamp(max=counts.shape[-1] - 1), places < ends[:, -1:]
