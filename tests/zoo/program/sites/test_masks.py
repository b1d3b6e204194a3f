"""What a mask leaves out counts for nothing: not in the density, not in its gradients, not in what is made of them."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

import experiments
import zoo
from zoo.errors import ZooError
from zoo.program.sites.masks import counting, stand_in

X = torch.tensor([2.0, 3.0, 4.0, 7.0], dtype=torch.double)
ZERO = torch.zeros((), dtype=torch.double)

NAN = math.nan
SEEN = torch.tensor([True, False, True, True, False])
ROWS, COLUMNS = SEEN[:, None], torch.tensor([[True, False, True]] * 4 + [[False, False, True]])

Fn = Callable[[Tensor], dist.Distribution]
ones = torch.ones(5, dtype=torch.double)

#: A likelihood of a positive number s, for five events; a value of its support; and what stands under the mask.
EVENTS: dict[str, tuple[Fn, Tensor, float]] = {
    "normal": (lambda s: dist.Normal(s * ones, 1.0), torch.randn(5, generator=torch.Generator().manual_seed(1)).double(), NAN),
    "normal inf": (lambda s: dist.Normal(s * ones, 1.0), 2 * ones, math.inf),
    "poisson": (lambda s: dist.Poisson(s * ones), 3 * ones, -1.0),
    "bernoulli": (lambda s: dist.Bernoulli(probs=s / (1 + s) * ones), ones, 999.0),
    "categorical": (lambda s: dist.Categorical(logits=s * torch.eye(4).double()[:1].expand(5, 4)), 2 * ones, 999.0),
    "categorical nan": (lambda s: dist.Categorical(logits=s * torch.eye(4).double()[:1].expand(5, 4)), 2 * ones, -1.0),
    "binomial": (lambda s: dist.Binomial(10 * ones, logits=s * ones), 4 * ones, 11.0),
    "zero inflated": (lambda s: dist.ZeroInflatedPoisson(s * ones, gate=torch.tensor(0.5).double()), 4 * ones, NAN),
    "gamma": (lambda s: dist.Gamma(s * ones, 1.0), ones, -2.0),
    "beta": (lambda s: dist.Beta(s * ones, 2.0), 0.3 * ones, 1.5),
    "uniform": (lambda s: dist.Uniform(0.0, 9 + s * ones), 4 * ones, NAN),
    "student": (lambda s: dist.StudentT(s * ones, 0.0, 1.0), ones, NAN),
    "von mises": (lambda s: dist.VonMises(s * ones, 2.0), ones, NAN),
    "expanded": (lambda s: dist.torch_distribution.ExpandedDistribution(dist.Gamma(s, 1.0), [5]), ones, -2.0),
    "mixture": (lambda s: dist.MixtureSameFamily(
        dist.Categorical(logits=torch.zeros(2).double()), dist.Normal(torch.stack([s, -s]).expand(5, 2), 1.0)), ones, NAN),
    "multivariate": (lambda s: dist.MultivariateNormal(s * torch.ones(5, 2).double(), torch.eye(2).double()),
                     torch.ones(5, 2).double(), NAN),
    "dirichlet": (lambda s: dist.Dirichlet(s * torch.ones(5, 3).double()), torch.full((5, 3), 1 / 3).double(), NAN),
    "multinomial": (lambda s: dist.Multinomial(4, logits=s * torch.eye(3).double()[:1].expand(5, 3)),
                    torch.tensor([[1.0, 2.0, 1.0]] * 5).double(), -7.0),
    "one hot": (lambda s: dist.OneHotCategorical(logits=s * torch.eye(3).double()[:1].expand(5, 3)),
                torch.tensor([[0.0, 1.0, 0.0]] * 5).double(), NAN),
    "correlations": (lambda s: dist.LKJCholesky(3, s).expand([5]), torch.eye(3).double().expand(5, 3, 3), NAN),
}

#: Ways to mask them.
WAYS: dict[str, Callable[[Fn, Tensor, Tensor], object]] = {
    "poutine": lambda fn, s, x: _masked(fn(s), x),
    "distribution": lambda fn, s, x: _observe(fn(s).mask(SEEN), x),
    "obs_mask": lambda fn, s, x: _observe(fn(s), x, obs_mask=SEEN),
    "both": lambda fn, s, x: _masked(fn(s).mask(torch.tensor([True, False, True, False, False])), x),
    "event": lambda fn, s, x: pyro.sample("x", fn(s).mask(SEEN).to_event(1), obs=x),
}


def _observe(fn: dist.Distribution, x: Tensor, **how: Tensor) -> None:
    with pyro.plate("rows", 5):
        pyro.sample("x", fn, obs=x, **how)


def _masked(fn: dist.Distribution, x: Tensor) -> None:
    with poutine.mask(mask=SEEN):
        _observe(fn, x)


def derivatives(program: Callable[[Tensor], None], x: Tensor, z: Tensor) -> tuple[Tensor, ...]:
    """Return log p(x, z) and its first and second derivatives in z (draws, 1, d)."""
    model = zoo.as_model(program)
    z = z.clone().requires_grad_()
    value = model.log_joint(x, z).sum()
    [first] = torch.autograd.grad(value, [z], create_graph=True)
    [second] = torch.autograd.grad(first.square().sum(), [z])
    return value.detach(), first.detach(), second


@pytest.mark.filterwarnings("ignore:.*draw by draw.*dynamic shape")  # torch's multinomial
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", EVENTS)
def test_what_stands_under_a_mask_does_not_matter(kind: str, way: str) -> None:
    fn, x, poison = EVENTS[kind]
    if way == "obs_mask" and kind in ("poisson", "bernoulli", "categorical", "categorical nan", "binomial", "zero inflated",
                                      "multinomial", "one hot", "mixture", "student"):
        pytest.skip("obs_mask imputes: a discrete latent, or one that is not reparameterised, is another matter")

    def program(x: Tensor) -> None:
        WAYS[way](fn, pyro.sample("s", dist.Gamma(torch.tensor(2.0).double(), 1.0)), x)

    spoilt = x.clone()
    spoilt[~SEEN] = poison
    size = zoo.as_model(program).latents(spoilt).size
    z = torch.randn(3, 1, size, generator=torch.Generator().manual_seed(0)).double()
    clean, found = derivatives(program, x, z), derivatives(program, spoilt, z)
    for expected, got in zip(clean, found, strict=True):
        assert torch.equal(expected, got)
        assert bool(got.isfinite().all())


@pytest.mark.parametrize("mask", [COLUMNS, ROWS])
def test_a_mask_over_part_of_an_event(mask: Tensor) -> None:
    x = torch.arange(15.0).reshape(5, 3).double()
    spoilt = torch.where(mask, x, NAN)

    def program(x: Tensor) -> None:
        s = pyro.sample("s", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
        with pyro.plate("rows", 5):
            pyro.sample("x", dist.Normal(s, 1.0).mask(mask).to_event(1), obs=x)

    for expected, got in zip(derivatives(program, x, z := torch.ones(2, 1, 3).double()), derivatives(program, spoilt, z),
                             strict=True):
        assert torch.equal(expected, got)


def test_the_program_goes_on_with_the_value_that_it_observed() -> None:
    """Only the density takes another value in the place of a masked one: a chain over time goes on with the one that came."""
    seen = torch.tensor([True, False, True])

    def chain(x: Tensor) -> None:
        before = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
        for t in range(3):
            with poutine.mask(mask=seen[t]):
                before = pyro.sample(f"x{t}", dist.Normal(before, 1.0), obs=x[t])

    x, z = torch.tensor([1.0, 7.0, 5.0]).double(), torch.tensor([[[0.5]]]).double()
    expected = sum(dist.Normal(a, 1.0).log_prob(torch.tensor(b).double()) for a, b in ((0.0, 0.5), (0.5, 1.0), (7.0, 5.0)))
    assert torch.allclose(zoo.as_model(chain).log_joint(x, z), expected)


@pytest.mark.parametrize("lengths", [(4, 2, 1), (4, 4, 4)])
def test_padded_sequences_have_the_evidence_of_their_own_lengths(lengths: tuple[int, ...]) -> None:
    """Latents and observations beyond a sequence's end are masked, as in Pyro's deep Markov model."""
    steps = torch.tensor(lengths)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double()
    padded = torch.where(torch.arange(4) < steps[:, None], x, NAN)

    def walk(d: dict[str, Tensor]) -> None:
        with pyro.plate("sequences", len(d["x"])):
            z = torch.zeros(len(d["x"]), 1).double()
            for t in range(4):
                inside = (t < d["steps"])[:, None]
                z = pyro.sample(f"z{t}", dist.Normal(z, 1.0).mask(inside).to_event(1))
                pyro.sample(f"x{t}", dist.Normal(z, 0.5).mask(inside).to_event(1), obs=d["x"][:, t:t + 1])

    found = experiments.fit(zoo.as_model(walk), "full_rank", {"x": padded, "steps": steps})
    expected = 0.0
    for row, count in zip(x, lengths, strict=True):
        index = torch.arange(1, count + 1).double()
        cov = torch.minimum(index[:, None], index) + 0.25 * torch.eye(count).double()
        expected += float(dist.MultivariateNormal(torch.zeros(count).double(), cov).log_prob(row[:count]))
    assert found.elbo == pytest.approx(expected, abs=1e-4)
    assert found.converged


def test_a_missing_value_under_a_mask_leaves_the_gap_at_nothing() -> None:
    x = torch.tensor([2.0, 3.0, NAN, 2.5], dtype=torch.double)

    def level(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros(()).double(), 3.0))
        with pyro.plate("rows", len(x)), poutine.mask(mask=~x.isnan()):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    [row] = experiments.compare(level, x, guides=["full_rank"]).rows
    cov = torch.eye(3).double() + 9
    expected = float(dist.MultivariateNormal(torch.zeros(3).double(), cov).log_prob(x[~x.isnan()]))
    assert row.evaluation.elbo.value == pytest.approx(expected, abs=1e-6)
    assert row.evaluation.kl_gap.upper < 1e-4
    assert row.fit.steps > 0


def test_missing_values_under_obs_mask_are_imputed() -> None:
    seen = torch.arange(20) >= 6
    y = torch.where(seen, 0.5 * torch.randn(20, generator=torch.Generator().manual_seed(0)).double() + 1, NAN)

    def level(d: dict[str, Tensor]) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros(()).double(), 1.0))
        with pyro.plate("rows", 20):
            pyro.sample("y", dist.Normal(mu, 0.5), obs=d["y"], obs_mask=d["seen"])

    x = {"y": y, "seen": seen}
    found = experiments.fit(level, "full_rank", x)
    cov = 0.25 * torch.eye(14).double() + 1
    expected = dist.MultivariateNormal(torch.zeros(14).double(), cov)
    assert found.elbo == pytest.approx(float(expected.log_prob(y[seen])), abs=1e-4)
    tree = experiments.posterior(found.model, found.guide, x, draws=2000)
    draws = torch.as_tensor(tree["posterior"]["y"].values[0])
    assert torch.equal(draws[:, seen], y[seen].expand(2000, -1))
    centre = float(y[seen].sum() / 0.25 / (14 / 0.25 + 1))
    spread = math.sqrt(0.25 + 1 / (14 / 0.25 + 1))
    assert float(draws[:, ~seen].mean()) == pytest.approx(centre, abs=5 * spread / math.sqrt(2000))
    assert float(draws[:, ~seen].std()) == pytest.approx(spread, rel=0.05)


class TestWhatIsMadeOfADensity:
    x = torch.tensor([2.0, 3.0, NAN, 2.5], dtype=torch.double)

    @staticmethod
    def level(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros(()).double(), 3.0))
        with pyro.plate("rows", len(x)), poutine.mask(mask=~x.isnan()):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    def test_the_log_likelihood_of_a_masked_value_is_nothing(self) -> None:
        model = zoo.as_model(self.level)
        z = torch.randn(6, 1, 1).double()
        assert torch.equal(model.log_likelihood(self.x, z)["x"][:, 2], torch.zeros(6).double())
        assert bool(model.log_likelihood(self.x, z)["x"].isfinite().all())

    def test_predictions_are_of_every_row(self) -> None:
        assert bool(zoo.as_model(self.level).predict(self.x, torch.zeros(3, 1, 1).double())["x"].isfinite().all())

    def test_simulated_data_misses_what_the_data_misses(self) -> None:
        _, x = zoo.as_model(self.level).simulate(self.x, seed=0)
        assert torch.equal(x.isnan(), self.x.isnan())
        assert not torch.equal(x[:2], self.x[:2])

    def test_the_tree(self) -> None:
        fitted = experiments.fit(self.level, "mean_field", self.x)
        tree = experiments.posterior(fitted.model, fitted.guide, self.x, draws=20)
        assert bool((tree["log_likelihood"]["x"].values[..., 2] == 0).all())


class TestWithoutAMask:
    @pytest.mark.parametrize(("x", "text"), [
        (torch.tensor([1.0, NAN, 2.0, NAN]), "at site 'x'; got 2 NaN, the first at row 1; drop or fill them, or mask them"),
        (torch.tensor([[1.0, 2.0], [3.0, NAN]]), "at site 'x'; got 1 NaN, the first at row 1, column 1; drop"),
    ])
    def test_nan_is_refused_with_its_place(self, x: Tensor, text: str) -> None:
        def program(x: Tensor) -> None:
            mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Normal(mu, 1.0).expand(x.shape).to_event(x.ndim - 1), obs=x)

        with pytest.raises(ZooError, match=text):
            experiments.compare(program, x, guides=["mean_field"])

    def test_nan_among_counts_is_called_nan(self) -> None:
        def program(x: Tensor) -> None:
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Poisson(rate), obs=x)

        with pytest.raises(ZooError, match=r"at site 'x'; got 1 NaN, the first at row 2"):
            experiments.fit(program, "mean_field", torch.tensor([1.0, 2.0, NAN]))

    def test_nan_in_a_row_that_no_mask_leaves_out(self) -> None:
        def program(x: Tensor) -> None:
            mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Normal(mu, 1.0).mask(SEEN), obs=x)

        with pytest.raises(ZooError, match=r"got 1 NaN, the first at row 3"):
            zoo.as_model(program).latents(torch.tensor([1.0, NAN, 2.0, NAN, NAN]))

    def test_nan_in_the_last_of_many_rows(self) -> None:
        def program(x: Tensor) -> None:
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

        x = torch.zeros(40_001, 2)
        x[-1, 0] = NAN
        with pytest.raises(ZooError, match=r"got 1 NaN, the first at row 40000"):
            zoo.as_model(program).latents(x)


def test_a_whole_mask_of_a_latent_is_an_improper_prior() -> None:
    def flat(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros(()).double(), 1.0).mask(False))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    x = torch.tensor([1.0, 2.0], dtype=torch.double)
    z = torch.tensor([[[0.3]]], dtype=torch.double)
    assert float(zoo.as_model(flat).log_terms(x, z)[0]) == 0.0


def test_pyro_keeps_the_mask_of_a_distribution_where_it_is_looked_for() -> None:
    fn = dist.Normal(torch.zeros(5), 1.0).mask(SEEN)
    assert torch.equal(counting({"fn": fn, "mask": None}), SEEN)
    assert counting({"fn": dist.Normal(0.0, 1.0).mask(True), "mask": None}) is None
    assert not bool(counting({"fn": dist.Normal(0.0, 1.0), "mask": False}))


@pytest.mark.parametrize("kind", EVENTS)
def test_what_stands_in_lies_in_the_support(kind: str) -> None:
    fn, x, _ = EVENTS[kind]
    made = fn(torch.tensor(1.7).double())
    found = stand_in(made, x)
    assert found is not None
    assert found.shape == x.shape
    assert bool(made.support.check(found).all())
    assert bool(made.log_prob(found).isfinite().all())


@pytest.mark.long
def test_stock_elbo_of_masked_observations_stays_below_the_evidence() -> None:
    mask = torch.tensor([True, False, True, False])

    def masked(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(ZERO, 2.0))
        with pyro.plate("n", len(x)):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x, obs_mask=mask)

    model = zoo.as_model(masked)
    guide = experiments.fit(model, "full_rank", X).guide
    ours = experiments.evaluate(model, guide, X).elbo.value
    with zoo.seeded(0), torch.no_grad():
        stock = -torch.tensor([pyro.infer.Trace_ELBO().loss(model, guide, X) for _ in range(100)]).double()
    assert float(stock.mean()) == pytest.approx(ours, abs=5 * float(stock.std()) / 10 + 1e-4)
