"""The posteriors of posteriordb as bare Pyro programs: ``POSTERIORS[name] = (program, arguments)``. None knows the zoo.

Where a model names no prior the prior is flat, as in Stan: ``ImproperUniform``. With flat priors log p is log ∫ p(y, z) dz,
which is known in closed form for 22 regressions (``test_posteriors.py``). Stan leaves out the constants of priors that it
truncates; here these are distributions of halves, so log p has log 2 more for each.

Sites have the names of Stan's parameters, so draws are compared by name: ``beta`` holds ``beta[1]``, ``beta[2]``, …
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

HERE = Path(__file__).parent
KEPT: dict[str, Any] = json.loads((HERE / "posteriors.json").read_text())
DATA: dict[str, Any] = {**json.loads((HERE / "posteriordb.json").read_text())["data"], **KEPT["data"]}
REFERENCE: dict[str, Any] = KEPT["posteriors"]
POSTERIORS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {}


def column(data: str, name: str) -> Tensor:
    return torch.tensor(DATA[data][name], dtype=torch.double)


def table(*columns: Tensor) -> Tensor:
    """Return a design: ones, then the columns."""
    return torch.stack([torch.ones_like(columns[0]), *columns], 1)


def flat(name: str, constraint: Any, size: tuple[int, ...] = ()) -> Any:
    return pyro.sample(name, dist.ImproperUniform(constraint, (), size))


def regression(x: Tensor, y: Tensor) -> None:
    """Flat priors on the coefficients and on sigma > 0."""
    beta, sigma = flat("beta", constraints.real_vector, (x.shape[1],)), flat("sigma", constraints.positive)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def regression_half_cauchy(x: Tensor, y: Tensor) -> None:
    beta, sigma = flat("beta", constraints.real_vector, (x.shape[1],)), pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def _earnings() -> None:
    earn, height, male = (column("earnings", name) for name in ("earn", "height", "male"))
    z = (height - height.mean()) / height.std()
    for name, x, y in (
            ("earn_height", table(height), earn), ("log10earn_height", table(height), earn.log10()),
            ("logearn_height", table(height), earn.log()), ("logearn_height_male", table(height, male), earn.log()),
            ("logearn_interaction_z", table(z, male, z * male), earn.log()),
            ("logearn_logheight_male", table(height.log(), male), earn.log())):
        POSTERIORS[f"earnings-{name}"] = (regression, (x, y))


def _kidiq() -> None:
    score, hs, iq = (column("kidiq", name) for name in ("kid_score", "mom_hs", "mom_iq"))
    for name, x in (("momhs", table(hs)), ("momhsiq", table(hs, iq)), ("momiq", table(iq))):
        POSTERIORS[f"kidiq-kidscore_{name}"] = (regression_half_cauchy, (x, score))
    work = column("kidiq_with_mom_work", "mom_work")
    centred, halves = (hs - 0.5, iq - 100), [(value - value.mean()) / (2 * value.std()) for value in (hs, iq)]
    for name, x in (
            ("interaction_c2", table(*centred, centred[0] * centred[1])),
            ("interaction_z", table(*halves, halves[0] * halves[1])),
            ("mom_work", table(*((work == kind).double() for kind in (2, 3, 4))))):
        POSTERIORS[f"kidiq_with_mom_work-kidscore_{name}"] = (regression, (x, score))


def _mesquite() -> None:
    names = ("weight", "diam1", "diam2", "canopy_height", "total_height", "density", "group")
    weight, d1, d2, canopy, total, density, group = (column("mesquite", name) for name in names)
    volume, area, shape = (d1 * d2 * canopy).log(), (d1 * d2).log(), (d1 / d2).log()
    logs = [value.log() for value in (d1, d2, canopy, total, density)]
    for name, x in (
            ("logmesquite", table(*logs, group)), ("logmesquite_logvolume", table(volume)),
            ("logmesquite_logva", table(volume, area, group)),
            ("logmesquite_logvash", table(volume, area, shape, total.log(), group))):
        POSTERIORS[f"mesquite-{name}"] = (regression, (x, weight.log()))
    POSTERIORS["mesquite-mesquite"] = (regression, (table(d1, d2, canopy, total, density, group), weight))


def _nes() -> None:
    for year in (1972, 1976, 1984, 1988, 1996):
        names = ("real_ideo", "race_adj", "age_discrete", "educ1", "gender", "income", "partyid7")
        ideology, race, age, education, gender, income, party = (column(f"nes{year}", name) for name in names)
        ages = [(age == kind).double() for kind in (2, 3, 4)]
        POSTERIORS[f"nes{year}-nes"] = (regression, (table(ideology, race, *ages, education, gender, income), party))


def blr(x: Tensor, y: Tensor) -> None:
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0).expand([x.shape[1]]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(10.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def kilpisjarvi(d: Mapping[str, Tensor]) -> None:
    alpha = pyro.sample("alpha", dist.Normal(d["pmualpha"], d["psalpha"]))
    beta = pyro.sample("beta", dist.Normal(d["pmubeta"], d["psbeta"]))
    sigma = flat("sigma", constraints.positive)
    with pyro.plate("years", len(d["x"])):
        pyro.sample("y", dist.Normal(alpha + beta * d["x"], sigma), obs=d["y"])


def ark(y: Tensor) -> None:
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0).expand([5]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    mean = alpha + sum(beta[k] * y[4 - k : len(y) - 1 - k] for k in range(5))
    with pyro.plate("times", len(y) - 5):
        pyro.sample("y", dist.Normal(mean, sigma), obs=y[5:])


def garch(y: Tensor, sigma1: float) -> None:
    """Flat on mu, alpha0 > 0 and the triangle of alpha1 and beta1 < 1 − alpha1."""
    mu, alpha0 = flat("mu", constraints.real), flat("alpha0", constraints.positive)
    alpha1 = pyro.sample("alpha1", dist.Uniform(0.0, 1.0))
    beta1 = pyro.sample("beta1", dist.Uniform(torch.zeros(()), 1 - alpha1))
    pyro.factor("flat", (1 - alpha1).log())
    variances = [torch.full((), sigma1**2)]
    for before in y[:-1]:
        variances.append(alpha0 + alpha1 * (before - mu) ** 2 + beta1 * variances[-1])
    with pyro.plate("times", len(y)):
        pyro.sample("y", dist.Normal(mu, torch.stack(variances).sqrt()), obs=y)


def eight_schools(y: Tensor, sigma: Tensor) -> None:
    mu, tau = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        theta = pyro.deterministic("theta", mu + tau * pyro.sample("theta_trans", dist.Normal(0.0, 1.0)))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def gauss_mix(y: Tensor) -> None:
    mu = flat("mu", constraints.ordered_vector, (2,))
    pyro.factor("prior", dist.Normal(0.0, 2.0).log_prob(mu).sum(-1))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = pyro.sample("theta", dist.Beta(5.0, 5.0))
    with pyro.plate("rows", len(y)):
        kinds = dist.Categorical(torch.stack([theta, 1 - theta], -1))
        pyro.sample("y", dist.MixtureSameFamily(kinds, dist.Normal(mu, sigma)), obs=y)


def forward(log_likelihood: Tensor, log_transition: Tensor) -> Tensor:
    """Return log Σ over all paths of a chain, (), whose first state has weight one; (times, K), (K, K).

    The steps are multiplied in pairs, so a chain of T steps takes log₂ T products.
    """
    steps = log_transition + log_likelihood[1:, None]
    while len(steps) > 1:
        pairs = (steps[: len(steps) // 2 * 2 : 2, :, :, None] + steps[1::2, None]).logsumexp(2)
        steps = torch.cat([pairs, steps[len(steps) // 2 * 2 :]])
    return (log_likelihood[0] + steps[0].T).logsumexp((0, 1))


def hmm(y: Tensor) -> None:
    theta = torch.stack([pyro.sample(f"theta{k}", dist.Dirichlet(torch.ones(2))) for k in (1, 2)])
    mu = flat("mu", constraints.positive_ordered_vector, (2,))
    pyro.factor("prior", dist.Normal(torch.tensor([3.0, 10.0]), 1.0).log_prob(mu).sum(-1))
    pyro.factor("y", forward(dist.Normal(mu, 1.0).log_prob(y[:, None]), theta.log()))


def hmm_drive(u: Tensor, v: Tensor, alpha: Tensor) -> None:
    theta = torch.stack([pyro.sample(f"theta{k + 1}", dist.Dirichlet(alpha[k])) for k in (0, 1)])
    phi, rate = (flat(name, constraints.positive_ordered_vector, (2,)) for name in ("phi", "lambda"))
    for name, value in (("phi_prior", phi), ("lambda_prior", rate)):
        pyro.factor(name, dist.Normal(torch.tensor([0.0, 3.0]), 1.0).log_prob(value).sum(-1))
    likelihood = dist.Exponential(phi).log_prob(u[:, None]) + dist.Exponential(rate).log_prob(v[:, None])
    pyro.factor("uv", forward(likelihood, theta.log()))


def gp_pois(x: Tensor, k: Tensor) -> None:
    rho, alpha = pyro.sample("rho", dist.Gamma(25.0, 4.0)), pyro.sample("alpha", dist.HalfNormal(2.0))
    tilde = pyro.sample("f_tilde", dist.Normal(0.0, 1.0).expand([len(x)]).to_event(1))
    kernel = alpha**2 * (-0.5 * ((x[:, None] - x) / rho) ** 2).exp() + 1e-10 * torch.eye(len(x))
    f = pyro.deterministic("f", torch.linalg.cholesky(kernel) @ tilde, event_dim=1)
    with pyro.plate("rows", len(x)):
        pyro.sample("k", dist.Poisson(f.exp()), obs=k)


def runge_kutta(slope: Callable[[float, Tensor], Tensor], start: Tensor, times: list[float], steps: int) -> Tensor:
    """Return the solution of an ODE at ``times``, of which the first is the start's; so many steps between two."""
    states = [start]
    for begin, end in pairwise(times):
        state, h = states[-1], (end - begin) / steps
        for i in range(steps):
            t = begin + i * h
            a = slope(t, state)
            b = slope(t + h / 2, state + h / 2 * a)
            c = slope(t + h / 2, state + h / 2 * b)
            state = state + h / 6 * (a + 2 * b + 2 * c + slope(t + h, state + h * c))
        states.append(state)
    return torch.stack(states[1:])


def lotka_volterra(ts: list[float], y_init: Tensor, y: Tensor) -> None:
    loc, scale = torch.tensor([1.0, 0.05, 1.0, 0.05]), torch.tensor([0.5, 0.05, 0.5, 0.05])
    theta = flat("theta", constraints.positive, (4,))
    pyro.factor("prior", dist.Normal(loc, scale).log_prob(theta).sum(-1))
    z_init = pyro.sample("z_init", dist.LogNormal(math.log(10), 1.0).expand([2]).to_event(1))
    sigma = pyro.sample("sigma", dist.LogNormal(-1.0, 1.0).expand([2]).to_event(1))

    def slope(t: float, z: Tensor) -> Tensor:
        return torch.stack([(theta[0] - theta[1] * z[1]) * z[0], (-theta[2] + theta[3] * z[0]) * z[1]])

    z = runge_kutta(slope, z_init, [0.0, *ts], steps=8)
    pyro.sample("y_init", dist.LogNormal(z_init.log(), sigma).to_event(1), obs=y_init)
    with pyro.plate("years", len(ts)):
        pyro.sample("y", dist.LogNormal(z.log(), sigma).to_event(1), obs=y)


def one_compartment(times: list[float], c_hat: Tensor, dose: float, volume: float) -> None:
    k_a, k_m, v_m, sigma = (pyro.sample(name, dist.HalfCauchy(1.0)) for name in ("k_a", "K_m", "V_m", "sigma"))

    def slope(t: float, c: Tensor) -> Tensor:
        return (-k_a * t).exp() * dose * k_a / volume - v_m / volume * c / (k_m + c)

    c = runge_kutta(slope, torch.zeros(()), [0.0, *times], steps=8)
    with pyro.plate("times", len(times)):
        pyro.sample("C_hat", dist.LogNormal(c.log(), sigma), obs=c_hat)


def _others() -> None:
    POSTERIORS["sblrc-blr"] = (blr, (column("sblrc", "X"), column("sblrc", "y")))
    pine = {name: column("kilpisjarvi_mod", name) for name in ("x", "y", "pmualpha", "psalpha", "pmubeta", "psbeta")}
    POSTERIORS["kilpisjarvi_mod-kilpisjarvi"] = (kilpisjarvi, (pine,))
    POSTERIORS["arK-arK"] = (ark, (column("arK", "y"),))
    POSTERIORS["garch-garch11"] = (garch, (column("garch", "y"), DATA["garch"]["sigma1"]))
    POSTERIORS["eight_schools-eight_schools_noncentered"] = (
        eight_schools, (column("eight_schools", "y"), column("eight_schools", "sigma")))
    POSTERIORS["low_dim_gauss_mix-low_dim_gauss_mix"] = (gauss_mix, (column("low_dim_gauss_mix", "y"),))
    POSTERIORS["hmm_example-hmm_example"] = (hmm, (column("hmm_example", "y"),))
    POSTERIORS["bball_drive_event_0-hmm_drive_0"] = (
        hmm_drive, tuple(column("bball_drive_event_0", name) for name in ("u", "v", "alpha")))
    POSTERIORS["gp_pois_regr-gp_pois_regr"] = (gp_pois, (column("gp_pois_regr", "x"), column("gp_pois_regr", "k")))
    years = [float(t) for t in DATA["hudson_lynx_hare"]["ts"]]
    hares = column("hudson_lynx_hare", "y_init"), column("hudson_lynx_hare", "y")
    POSTERIORS["hudson_lynx_hare-lotka_volterra"] = (lambda y_init, y: lotka_volterra(years, y_init, y), hares)
    drug = DATA["one_comp_mm_elim_abs"]
    POSTERIORS["one_comp_mm_elim_abs-one_comp_mm_elim_abs"] = (
        lambda c_hat: one_compartment(drug["times"], c_hat, drug["D"], drug["V"]),
        (column("one_comp_mm_elim_abs", "C_hat"),))


for build in (_earnings, _kidiq, _mesquite, _nes, _others):
    build()
