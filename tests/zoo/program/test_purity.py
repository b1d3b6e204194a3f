"""Which functions are proved pure by reading their code, and which are not: in doubt, no."""

from __future__ import annotations

import builtins
import contextlib
import copy
import functools
import itertools
import math
import os
import random
import time
import types
from collections.abc import Callable, Iterator
from math import *  # noqa: F403
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.distributions import Normal, constraints
from pyro.infer import config_enumerate
from pyro.infer.reparam import LocScaleReparam
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

from zoo.nn.flows import _zuko
from zoo.program.recording.purity import purity

_zuko()  # which adds a method to torch's transforms, as guides that are flows have it do; validation stays as it was

Program = Callable[..., Any]
PURE: dict[str, Program] = {}
IMPURE: dict[str, tuple[Program, str]] = {}


def pure(program: Program) -> Program:
    PURE[getattr(program, "__name__", repr(program))] = program
    return program


def impure(word: str) -> Callable[[Program], Program]:
    def register(program: Program) -> Program:
        name = getattr(program, "__name__", type(program).__name__)
        IMPURE[f"{name}{len(IMPURE)}"] = program, word
        return program

    return register


# What programs read from outside.
N, NAME, SHAPE, DTYPE, NOTHING = 8, "mu", (2, 3), torch.float32, None
SCALES = (0.5, 2.0)
WEIGHT = torch.tensor([1.0, 2.0])
PARAMETER = nn.Parameter(torch.zeros(2))
PRIOR = Normal(0.0, 1.0).expand([2]).to_event(1)
LAZY = dist.Bernoulli(logits=torch.zeros(3))
SETTINGS, CALLS, SEEN, ARRAY, NET = {"scale": 1.0}, [1], {1}, np.ones(2), nn.Linear(1, 1)
COUNTER, ITERATOR = itertools.count(), iter([1.0, 2.0])
HELPERS = types.ModuleType("torch_utils")
HELPERS.half = lambda x: x / 2  # type: ignore[attr-defined]
CACHED = functools.lru_cache(lambda n: torch.zeros(n))
KERNELS = (torch.exp, F.relu)


class Mine(dist.Normal):
    def log_prob(self, value: Tensor) -> Tensor:
        CALLS.append(1)
        return super().log_prob(value)


class Marked(Tensor):
    pass


class Held:
    scale = 1.0

    def program(self, x: Tensor) -> None:
        pyro.sample("z", dist.Normal(0.0, self.scale))

    def __call__(self, x: Tensor) -> None:
        self.program(x)


MARKED, HELD = torch.zeros(2).as_subclass(Marked), Held()


def kernel(x: Tensor, scale: Any) -> Tensor:
    return torch.exp(-0.5 * ((x[:, None] - x) / scale) ** 2)


def factorial(n: int) -> int:
    return 1 if n < 2 else n * factorial(n - 1)


def counted(x: Tensor) -> Tensor:
    CALLS.append(1)
    return x


# Proved.
@pure
def eight_schools(x: dict[str, Tensor]) -> Tensor:
    mu = pyro.sample(NAME, dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", N):
        theta = pyro.sample("theta", Normal(mu, tau))
        pyro.sample("y", Normal(theta, x["sigma"]), obs=x["y"])
    return theta


@pure
def regression(x: Tensor, y: Tensor | None = None, *, scale: float = 2.0) -> Tensor:
    w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[-1]), scale).to_event(1))
    mean = x @ w
    mean += pyro.sample("b", dist.Normal(0.0, 1.0))  # `x @ w` is new: it may be changed
    with pyro.plate("rows", len(x)), poutine.scale(scale=2.0), poutine.mask(mask=torch.isfinite(mean)):
        return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


@pure
def hmm(x: Tensor) -> None:
    theta = pyro.sample("theta", dist.Dirichlet(torch.eye(2) + 0.5).to_event(1))
    z = torch.tensor(0)
    for t in pyro.markov(range(len(x))):
        z = pyro.sample(f"z_{t:d}", dist.Categorical(Vindex(theta)[z]), infer={"enumerate": "parallel"})
        pyro.sample(f"y_{t!s}", dist.Normal(z.float(), 1.0), obs=x[t])


@pure
@config_enumerate(default="parallel")
def mixture(x: Tensor) -> None:
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.5)).long()
        pyro.sample("x", dist.Normal(WEIGHT[z], 1.0), obs=x)


@pure
def garch(x: Tensor) -> None:
    a = pyro.sample("a", dist.Uniform(0.0, 1.0))
    pyro.factor("jacobian", (1 - a).log())
    scales = [torch.full((), 0.5)]
    for t in range(1, len(x)):
        scales.append((a * scales[-1] ** 2 + x[t - 1] ** 2).sqrt())
    pyro.sample("y", dist.Normal(0.0, torch.stack(scales)).to_event(1), obs=x)


@pure
def autoregression(x: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(0.0, 1.0).expand([5]).to_event(1))
    mean = sum(b[k] * x[5 - k:-1 - k] for k in range(5))  # the generator closes over b and x
    pyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=x[6:])


@pure
def containers(x: dict[str, float]) -> dict[str, Any]:
    sites, rows, seen = {}, [0.0 for _ in range(3)], set()
    column = torch.zeros(3)
    for k, (name, value) in enumerate(zip(["a", "b"], x.values(), strict=True)):
        sites[name] = pyro.sample(name, dist.Normal(value, 1.0))
        rows[k], column[k] = value, 1.0
        seen.add(name)
    sites.update({"c": 1.0}), rows.extend([1.0]), column.mul_(2.0), column.clone().add_(1.0)
    del sites["c"], rows[0]
    rows[1:2] = [*rows[2:], 2.0]
    rows += [2.0]
    mine = x.copy()
    mine["a"] = 1.0
    return {**sites, "sum": sum(rows), "most": max(rows), "square": [w * w for w in rows], "n": len(seen)}


@pure
def capture_recapture(x: Tensor) -> None:
    z, seen = torch.ones(len(x)), torch.zeros(len(x)).bool()
    with pyro.plate("animals", len(x), dim=-1):
        for t in pyro.markov(range(3)):
            with poutine.mask(mask=seen):
                z = pyro.sample("z_{}".format(t), dist.Bernoulli(torch.distributions.utils.clamp_probs(0.5 * z)))  # noqa: UP032
            seen |= x[:, t].bool()  # a conversion of a tensor that the call made
    z.new_zeros(3).fill_(1.0)[0] = 2.0


@pure
def vae(x: Tensor) -> None:
    w = pyro.param("w", lambda: torch.randn(2, 8) / math.sqrt(2))
    s = pyro.param("s", torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        h = F.dropout(F.softplus(z @ w), 0.5)
        pyro.sample("x", dist.Normal(F.relu(h), s).to_event(1), obs=x)


@pure
def inner_functions(x: Tensor) -> Tensor:
    scale = pyro.sample("scale", dist.HalfNormal(1.0))

    def halves(n: int, depth: int = 2) -> Any:
        return scale if depth == 0 else halves(n, depth - 1) / 2

    @pyro.markov
    def step(t: int) -> Tensor:
        return pyro.sample(f"z_{t}", dist.Normal(halves(t), 1.0))

    total = [step(t) for t in range(3)]
    return torch.stack(list(filter(lambda z: z.dim() == x.dim() - 1, total)))


@pure
def gaussian_process(x: Tensor) -> None:
    rho = pyro.sample("rho", dist.Gamma(25.0, 4.0))
    cov = kernel(x, scale=rho) + torch.eye(len(x)) * factorial(3)
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), scale_tril=torch.linalg.cholesky(cov)))


@pure
def plain_settings(x: Tensor) -> Any:
    shape = SHAPE if NOTHING is None else (1,)
    return torch.zeros(shape, dtype=DTYPE) + math.pi + SCALES[0] + float("inf") + torch.finfo(DTYPE).eps + len(shape)


@pure
def star_import(x: Tensor) -> float:
    return sqrt(pi) + lgamma(3.0)  # type: ignore[name-defined] # noqa: F405


@pure
def outer_tensors(x: Tensor) -> Tensor:
    return (x @ WEIGHT).exp() + PARAMETER.sum() + PRIOR.log_prob(x).sum()


@pure
def branches(x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        raise ValueError(f"expected a tensor; got {x}")
    squash = torch.exp if len(x) > 2 else torch.sigmoid
    while len(x) > 1 and bool(x[0] > 0):
        x = x[1:]
    return squash(x) if x.ndim else -x


@pure
def reparametrised(x: Tensor) -> Tensor:
    with poutine.reparam(config={"z": LocScaleReparam(0.0)}):
        return pyro.sample("z", dist.Normal(0.0, 1.0))


@pure
def vmapped(x: Tensor) -> Tensor:
    return torch.func.vmap(kernel, in_dims=(0, None))(x, 1.0) + dist.transforms.ExpTransform().inv(x)


@pure
def star_arguments(*rows: Tensor, **columns: Tensor) -> Tensor:
    first, *rest = rows
    return torch.stack([first, *rest, *columns.values()]) + torch.cat(*[[first]]) + kernel(*rows, 1.0)


@pure
def subsampled(x: Tensor) -> None:
    rows = pyro.plate("rows", len(x), subsample_size=2)
    with rows as i, torch.no_grad():
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=x.index_select(0, i))
    for k in pyro.plate("columns", 2):
        pyro.deterministic(f"k_{k}", x[k].clamp(min=0.0).abs())


@pure
def long_constants(x: Tensor) -> Any:
    table = {f"{k}": v for k, v in {"a": 1, "b": 2}.items()}
    return [table[k] for k in sorted(table) if table[k] in (1, 2)], (lambda a, *, b=2: a + b)(1, b=3), x[1:, None, ...]


def nested(scale: float, net: Tensor) -> Program:
    def closure(x: Tensor) -> Tensor:
        return pyro.sample("z", dist.Normal(net.sum(), scale))

    return closure


PURE["closure"] = nested(2.0, WEIGHT)
PURE["partial"] = functools.partial(regression, scale=3.0)
PURE["lambda"] = lambda x: pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)
exec("def asserts(x):\n    assert x.dim() == 1, 'one dimension'", {}, PURE)  # pytest writes asserts of its own into this file
PURE["own function"] = pyro.sample


# Not proved.
@impure("global `N_CALLS`")
def stores_global(x: Tensor) -> None:
    global N_CALLS
    N_CALLS = 1


def with_counter() -> Program:
    n = 0

    def counts(x: Tensor) -> int:
        nonlocal n
        n += 1
        return n

    return counts


impure("nonlocal `n`")(with_counter())


@impure("`random` is the module random")
def random_module(x: Tensor) -> float:
    return random.random()


@impure("`np` is the module numpy")
def numpy_module(x: Tensor) -> Any:
    return np.sqrt(2.0)


@impure("`time` is the module time")
def clock(x: Tensor) -> float:
    return time.time()


@impure("`os` is the module os")
def environment(x: Tensor) -> str:
    return os.environ["HOME"]


@impure("`SETTINGS` is a dict")
def outer_dict(x: Tensor) -> Any:
    return dist.Normal(0.0, SETTINGS["scale"])


@impure("`CALLS` is a list")
def alias_of_outer_list(x: Tensor) -> None:
    mine = CALLS
    mine.append(1)


@impure("`SEEN` is a set")
def outer_set(x: Tensor) -> bool:
    return 1 in SEEN


@impure("`CALLS` is a list")
def comprehension_over_outer_list(x: Tensor) -> list[int]:
    return [c + 1 for c in CALLS]


@impure("`ARRAY` is an object of type ndarray")
def outer_array(x: Tensor) -> Any:
    return x * ARRAY


@impure("`NET` is an object of type Linear")
def outer_network(x: Tensor) -> Any:
    return NET(x)


@impure("`HELD` is an object of type Held")
def outer_object(x: Tensor) -> float:
    return HELD.scale


@impure("`HELPERS` is the module torch_utils")
def module_with_a_like_name(x: Tensor) -> Any:
    return HELPERS.half(x)


@impure("`COUNTER` is an object of type count")
def outer_iterator(x: Tensor) -> float:
    return sum(c for c in COUNTER)


@impure("`next` is")
def advances(x: Tensor) -> float:
    return next(ITERATOR)


@impure("`CACHED` is a _lru_cache_wrapper")
def outer_cache(x: Tensor) -> Tensor:
    return CACHED(3)


@impure("`Mine` is a class")
def users_distribution(x: Tensor) -> None:
    pyro.sample("x", Mine(0.0, 1.0), obs=x)


@impure("`MARKED` is an object of type Marked")
def tensor_subclass(x: Tensor) -> Tensor:
    return x + MARKED


@impure("`LAZY` is a distribution that keeps what it computes")
def outer_distribution_with_a_cache(x: Tensor) -> Tensor:
    return LAZY.probs


@impure("sets the attribute `scale`")
def sets_attribute(x: Any) -> None:
    x.scale = 1.0


@impure("stores to an item")
def stores_to_argument(x: dict[str, int]) -> None:
    x["n"] = 1


@impure("stores to")
def stores_to_a_slice(x: dict[str, list[int]]) -> None:
    x["n"][1:] = [1]


@impure("stores to an item")
def stores_through_a_view(x: Tensor) -> None:
    own = [x]
    own[0][0] = 1.0


@impure("stores to an item")
def stores_on_one_path(x: dict[str, int]) -> None:
    target = {} if len(x) else x
    target["n"] = 1


@impure("stores to an item")
def stores_in_a_later_round(x: Tensor) -> None:
    own = torch.zeros(2)
    while len(x):
        own[0] = 1.0
        own = x


@impure("stores to an item")
def stores_through_a_closure(x: dict[str, int]) -> None:
    target: dict[str, int] = {}

    def store() -> None:
        target["n"] = 1

    target = x
    store()


@impure("calls `append`")
def maps_a_method(x: list[int]) -> list[None]:
    return list(map(x.append, [1]))


@impure("deletes an item")
def deletes_from_argument(x: dict[str, int]) -> None:
    del x["n"]


@impure("calls `add_`")
def changes_item_in_place(x: dict[str, Tensor]) -> None:
    x["y"].add_(1)


@impure("calls `fill_`")
def changes_outer_tensor(x: Tensor) -> None:
    WEIGHT.data.fill_(1.0)


@impure("changes by `+=`")
def adds_to_argument(x: Tensor) -> Tensor:
    x += 1
    return x


@impure("changes by `|=`")
def joins_to_a_conversion(x: Tensor) -> None:
    seen = x.bool()  # `x` itself where it holds booleans
    seen |= True


@impure("changes by `+=`")
def adds_to_sample(x: Tensor) -> Tensor:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    z += 1
    return z


@impure("calls `append`")
def appends_to_argument(x: dict[str, list[int]]) -> None:
    x.get("log", []).append(1)


@impure("calls `setdefault`")
def appends_to_default(x: dict[str, list[int]]) -> None:
    x.setdefault("log", []).append(1)


@impure("`set_`")
def points_elsewhere(x: Tensor) -> None:
    own = torch.zeros(3)
    own.set_(x)
    own.fill_(1.0)


@impure("`out` or `inplace`")
def writes_out(x: Tensor) -> None:
    torch.exp(WEIGHT, out=x)


@impure("`out` or `inplace`")
def writes_out_by_keywords(x: Tensor) -> None:
    torch.exp(WEIGHT, **{"out": x})


@impure("`out` or `inplace`")
def writes_out_under_vmap(x: Tensor) -> None:
    torch.func.vmap(torch.exp)(WEIGHT, out=x)


@impure("`out` or `inplace`")
def rectifies_in_place(x: Tensor) -> Tensor:
    return F.relu(x, inplace=True)


@impure("may call `relu` in place")
def rectifies_in_place_by_position(x: Tensor) -> Tensor:
    return F.relu(x, True)


@impure("can work in place")
def rectifies_in_place_by_map(x: Tensor) -> list[Tensor]:
    return list(map(F.relu, [x], [True]))


@impure("`KERNELS` holds a function that can work in place")
def rectifies_in_place_by_item(x: Tensor) -> list[Tensor]:
    return list(map(KERNELS[1], [x], [True]))


@impure("may call `normalize` in place")
def normalises_in_place_by_position(x: Tensor) -> Tensor:
    return F.normalize(WEIGHT, 2.0, 0, 1e-12, x)


@impure("attribute `add_` of a function or a class")
def unbound_method(x: Tensor) -> None:
    torch.Tensor.add_(x, 1)


@impure("`CALLS` is a list")
def calls_impure_helper(x: Tensor) -> Tensor:
    return counted(x)


@impure("`CALLS` is a list")
def maps_impure_helper(x: Tensor) -> Tensor:
    return torch.func.vmap(counted)(x)


@impure("`CALLS` is a list")
def impure_only_inside(x: Tensor) -> Any:
    return pyro.param("w", lambda: torch.zeros(len(CALLS)))


@impure("attribute `calls` of a function")
def function_attribute(x: Tensor) -> Any:
    return function_attribute.calls  # type: ignore[attr-defined]


@impure("attribute `__globals__` of a function")
def through_globals(x: Tensor) -> Any:
    return (lambda: 0).__globals__["CALLS"].append(1)


@impure("attribute `__class__`")
def through_class(x: Tensor) -> Any:
    return x.__class__(2)


@impure("`type` is")
def through_type(x: Tensor) -> Any:
    return type(x)(2)


@impure("`locals` is")
def reads_locals(x: Tensor) -> Any:
    return locals()["x"]


@impure("`vars` is")
def reads_vars(x: Tensor) -> Any:
    return vars(torch)


@impure("`globals` is")
def reads_globals(x: Tensor) -> Any:
    return globals()["CALLS"]


@impure("`__builtins__` is")
def reads_builtins(x: Tensor) -> Any:
    return __builtins__["print"]  # type: ignore[index]


@impure("`getattr` is")
def reads_by_name(x: Tensor) -> Any:
    return getattr(x, "add_")(1)  # noqa: B009


@impure("`setattr` is")
def sets_by_name(x: Tensor) -> Any:
    setattr(x, "n", 1)  # noqa: B010


@impure("`exec` is")
def executes(x: Tensor) -> None:
    exec("CALLS.append(1)")


@impure("`eval` is")
def evaluates(x: Tensor) -> Any:
    return eval("len(CALLS)")


@impure("`open` is")
def opens(x: Tensor) -> Any:
    return open("x")


@impure("`print` is")
def prints(x: Tensor) -> None:
    print(x)


@impure("imports `random`")
def imports(x: Tensor) -> float:
    import random as r
    return r.random()


@impure("calls a value that reading can't follow")
def calls_argument(x: Any, act: Any = None) -> Any:
    return act(x)


@impure("calls a value that reading can't follow")
def calls_what_a_helper_made(x: Tensor) -> Any:
    return nested(1.0, x)(x)


@impure("enters with `with`")
def enters_argument(x: Any) -> None:
    with x:
        pass


@impure("`contextlib` is the module contextlib")
def enters_unknown_context(x: Tensor) -> None:
    with contextlib.suppress(ValueError):
        pass


@impure("catches exceptions")
def catches(x: Tensor) -> Tensor:
    try:
        return torch.linalg.cholesky(x)
    except RuntimeError:
        return x


@impure("is a generator")
def generates(x: Tensor) -> Iterator[Tensor]:
    yield x


@impure("is a generator")
async def waits(x: Tensor) -> Tensor:
    return x


@impure("defines a class")
def defines_class(x: Tensor) -> Any:
    class Inner:
        n = 0

    return Inner


@impure("`torch.manual_seed` is")
def seeds(x: Tensor) -> None:
    torch.manual_seed(0)


@impure("`torch.set_default_dtype` is")
def sets_dtype(x: Tensor) -> None:
    torch.set_default_dtype(torch.float64)


@impure("`torch.save` is")
def saves(x: Tensor) -> None:
    torch.save(x, "x")


@impure("`torch.get_num_threads` is")
def asks_threads(x: Tensor) -> int:
    return torch.get_num_threads()


@impure("`torch.Generator` is a class")
def makes_generator(x: Tensor) -> Tensor:
    return torch.randn(2, generator=torch.Generator())


@impure("`torch.utils` is the module")
def loads_data(x: Tensor) -> Any:
    return torch.utils.data.DataLoader(x)


@impure("`torch.nn.Linear` is a class")
def makes_module(x: Tensor) -> Any:
    return nn.Linear(1, 1)(x)


@impure("`torch.nn.functional.batch_norm` is")
def running_means(x: Tensor) -> Tensor:
    return F.batch_norm(x, WEIGHT, WEIGHT, training=True)


@impure("`pyro.get_param_store` is")
def reads_store(x: Tensor) -> Any:
    return pyro.get_param_store()["w"]


@impure("`pyro.clear_param_store` is")
def clears_store(x: Tensor) -> None:
    pyro.clear_param_store()


@impure("`pyro.set_rng_seed` is")
def seeds_pyro(x: Tensor) -> None:
    pyro.set_rng_seed(0)


@impure("`pyro.module` is")
def registers(x: Tensor) -> None:
    pyro.module("net", x)


@impure("`pyro.enable_validation` is")
def switches_validation(x: Tensor) -> None:
    pyro.enable_validation(False)


@impure("attribute `set_default_validate_args`")
def switches_validation_of_all(x: Tensor) -> None:
    dist.Normal(0.0, 1.0).set_default_validate_args(False)


@impure("attribute `register_hook`")
def hooks(x: Tensor) -> None:
    (x * 2).register_hook(counted)


@impure("attribute `numpy`")
def leaves_torch(x: Tensor) -> Any:
    return x.numpy().sort()


@impure("attribute `grad`")
def reads_gradient(x: Tensor) -> Any:
    return WEIGHT.grad


@impure("`undefined_name` is not defined yet")
def undefined(x: Tensor) -> Any:
    return undefined_name  # type: ignore[name-defined] # noqa: F405


@impure("`calls` is a dict")
def counts_in_default(x: Tensor, calls: dict[str, int] = {}) -> None:  # noqa: B006
    calls["n"] = 1


@impure("`log` is a list")
def counts_in_keyword_default(x: Tensor, *, log: list[int] = []) -> None:  # noqa: B006
    log.append(1)


def wrapped(function: Program) -> Program:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        CALLS.append(1)
        return function(*args)

    return wrapper


impure("`CALLS` is a list")(wrapped(eight_schools))
impure("`CALLS` is a list")(config_enumerate(counted))
impure("is a _bound_partial")(poutine.infer_config(eight_schools, config_fn=counted))
impure("`ctx_factory` is")(torch.no_grad()(counted))
impure("`CALLS` is a list")(functools.partial(regression, scale=counted))
impure("is a method")(HELD.program)
impure("is an object of type Held")(HELD)
impure("is an object of type Linear")(NET)
impure("is a class")(Held)
impure("is a builtin_function_or_method")(CALLS.append)
impure("is a ReparamHandler")(poutine.reparam(eight_schools, config={}))


@pytest.mark.parametrize("name", PURE)
def test_proved(name: str) -> None:
    found = purity(PURE[name])
    assert found.reason == ""
    assert found.proved
    assert found.holds()


@pytest.mark.parametrize("name", IMPURE)
def test_not_proved(name: str) -> None:
    program, word = IMPURE[name]
    found = purity(program)
    assert word in found.reason
    assert "\n" not in found.reason
    assert not found.proved
    assert not found.holds()
    assert found.tensors == found.settings == ()


def test_both_sorts_are_many() -> None:
    assert len(PURE) >= 20
    assert len(IMPURE) >= 80


def test_a_reason_names_the_line() -> None:
    line = numpy_module.__code__.co_firstlineno + 2
    assert purity(numpy_module).reason == f"`np` is the module numpy, whose effects are not known (line {line} of numpy_module)"


def test_what_is_read_from_outside_is_listed() -> None:
    found = purity(outer_tensors)
    assert {id(t) for t in (WEIGHT, PARAMETER)} <= {id(t) for t in found.tensors}
    assert len(found.tensors) == 4  # the prior's loc and scale, too
    plain = {"SHAPE": (2, 3), "NOTHING": None, "SCALES": (0.5, 2.0), "DTYPE": torch.float32}
    assert dict(purity(plain_settings).settings) == plain
    assert purity(PURE["closure"]).settings == (("scale", 2.0),)
    assert dict(purity(regression).settings) == {"y": None, "scale": 2.0}


def outside() -> tuple[dict[str, Any], Program]:
    """A program with names of its own, so that they can be rebound."""
    names: dict[str, Any] = {"torch": torch, "math": math, "pyro": pyro, "dist": dist, "weight": torch.ones(2), "scale": 1.0,
                             "sizes": (1, 2.0), "helper": nested(1.0, WEIGHT), "prior": dist.Normal(torch.zeros(()), 1.0)}
    exec("def other(x): return x\n"
         "def program(x, depth=3, *, width=2.0):\n"
         "    z = pyro.sample('z', dist.Normal(0.0, scale)) + math.log(sizes[1]) + len(x)\n"
         "    return helper(x) + other(z).exp() * weight + prior.log_prob(z) + torch.zeros(2)\n", names)
    return names, names["program"]


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a number": lambda names: names.update(scale=2.0),
    "a number's type": lambda names: names.update(scale=1),
    "a sign of zero in a tuple": lambda names: names.update(sizes=(1, -2.0)),
    "a tuple's type": lambda names: names.update(sizes=(True, 2.0)),
    "a tuple to a list": lambda names: names.update(sizes=[1, 2.0]),
    "a tensor's values": lambda names: names["weight"].add_(1),
    "another tensor": lambda names: names.update(weight=torch.ones(2)),
    "a module": lambda names: names.update(math=torch),
    "a name that goes": lambda names: names.pop("weight"),
    "a name that hides a built-in one": lambda names: names.update(len=lambda x: 1),
    "a helper": lambda names: names.update(other=lambda x: x),
    "a helper's code": lambda names: setattr(names["other"], "__code__", counted.__code__),
    "a default": lambda names: setattr(names["program"], "__defaults__", (4,)),
    "a keyword's default": lambda names: names["program"].__kwdefaults__.update(width=3.0),
    "a closure's cell": lambda names: setattr(names["helper"].__closure__[1], "cell_contents", 3.0),
    "a distribution's parameter": lambda names: names["prior"].loc.fill_(1.0),
    "a distribution's attribute": lambda names: setattr(names["prior"], "scale", torch.tensor(2.0)),
    "a distribution's method": lambda names: setattr(names["prior"], "log_prob", counted),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_outside_ends_the_proof(change: str) -> None:
    names, program = outside()
    found = purity(program)
    assert found.proved
    assert found.holds()
    assert found.holds()
    CHANGES[change](names)
    assert found.proved
    assert not found.holds()


def test_an_emptied_cell_ends_the_proof() -> None:
    names, program = outside()
    found = purity(program)
    del names["helper"].__closure__[1].cell_contents
    assert not found.holds()


def test_equal_values_hold() -> None:
    names, program = outside()
    names["scale"] = float("nan")
    found = purity(program)
    names.update(scale=float("nan"), sizes=(int("1"), 2.0), unread=[1])
    program.__defaults__ = (3,)
    assert found.holds()


PATCHES: dict[str, tuple[object, str]] = {
    "math.log": (math, "log"), "torch.zeros": (torch, "zeros"), "pyro.sample": (pyro, "sample"),
    "dist.Normal": (dist, "Normal"),
    "a distribution's method": (dist.Normal, "log_prob"), "an inherited method": (torch.distributions.Normal, "log_prob"),
    "a tensor's method": (Tensor, "exp"), "a tensor's operator": (Tensor, "__add__"), "a built-in function": (builtins, "len"),
}


@pytest.mark.parametrize("patch", PATCHES)
def test_patched_libraries_are_seen(patch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name = PATCHES[patch]
    _, program = outside()
    before = purity(program)
    assert before.holds()
    original = getattr(owner, name)

    @functools.wraps(original, updated=())
    def patched(*args: Any, **kwargs: Any) -> Any:
        CALLS.append(1)
        return original(*args, **kwargs)

    with monkeypatch.context() as patches:
        patches.setattr(owner, name, patched)
        held, after = before.holds(), purity(program)
    assert not held or name == "__add__"  # operators are looked at when the code is read, not before each call
    assert not after.proved
    assert before.holds()


def test_default_dtype_is_watched() -> None:
    found = purity(eight_schools)
    dtype = torch.get_default_dtype()
    other = torch.float32 if dtype == torch.float64 else torch.float64
    try:
        torch.set_default_dtype(other)
        assert not found.holds()
    finally:
        torch.set_default_dtype(dtype)
    assert found.holds()


def test_reading_has_no_effect() -> None:
    before = list(CALLS), torch.get_rng_state()
    for program in [*PURE.values(), *(program for program, _ in IMPURE.values())]:
        purity(program)
    assert before[0] == CALLS
    assert torch.equal(before[1], torch.get_rng_state())
    assert next(COUNTER) == 0


INPUTS: dict[str, Any] = {
    "eight_schools": {"y": torch.zeros(N), "sigma": torch.ones(N)}, "regression": torch.ones(4, 2), "hmm": torch.zeros(3),
    "garch": torch.ones(5), "autoregression": torch.arange(9.0), "capture_recapture": torch.eye(4), "vae": torch.ones(4, 8),
    "containers": {"a": 1.0, "b": 2.0}, "inner_functions": torch.ones(2), "gaussian_process": torch.arange(3.0),
    "plain_settings": None, "star_import": None, "outer_tensors": torch.ones(2), "branches": torch.ones(3),
    "reparametrised": None, "vmapped": torch.ones(3, 3), "star_arguments": torch.ones(2), "subsampled": torch.ones(4),
    "closure": None, "partial": torch.ones(4, 2), "lambda": torch.ones(()), "asserts": torch.ones(2), "mixture": torch.ones(3),
}


@pytest.mark.parametrize("name", INPUTS)
def test_a_proved_program_repeats_itself(name: str) -> None:
    """Python says the same of the same argument, which the program leaves as it was."""
    argument, states = INPUTS[name], []
    before = copy.deepcopy(argument)
    found = purity(PURE[name])
    for _ in range(2):
        with pyro.get_param_store().scope():
            trace = poutine.trace(poutine.seed(PURE[name], 1)).get_trace(argument)
        states.append((list(trace.nodes), trace.log_prob_sum()))
    assert states[0] == states[1]
    assert str(argument) == str(before)
    assert found.holds()


def test_an_unknown_instruction_is_not_proved() -> None:
    def matches(x: Any) -> int:
        match x:
            case {"a": 1}:
                return 1
        return 0

    assert "has an instruction MATCH_MAPPING whose effect is not known" in purity(matches).reason


def test_private_names_of_pyro_that_are_relied_on() -> None:
    """`config_enumerate(f)` is a partial of a private class around partial(_, messenger, f); what configures is Pyro's."""
    messenger, program = config_enumerate(eight_schools).func.args
    assert type(messenger) is poutine.infer_config_messenger.InferConfigMessenger
    assert messenger.config_fn.func.__globals__ is vars(pyro.infer.enum)
    assert program is eight_schools
