"""Names of Python, PyTorch and Pyro that are known to be free of effects, and those that change what they are called on.

A program that uses a name which is not listed here is not proved pure.
"""

from __future__ import annotations

import builtins
import inspect
import math
from collections.abc import Iterator, Set
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import reparam
from pyro.ops import indexing, special, tensor_utils
from torch import nn


def words(text: str) -> frozenset[str]:
    """Return the words of ``text``."""
    return frozenset(text.split())


PRINCIPAL = ("__init__", "log_prob", "sample", "rsample", "expand", "support", "_call")  # methods that are watched
_MUTATORS = words(  # a set's `add` and a list's `sort` are tensor methods, too: what is called on is not known
    "add append clear difference_update discard extend insert intersection_update pop popitem remove reverse setdefault sort "
    "symmetric_difference_update update")
_HANDLES = words(  # of a tensor's attributes: hooks, gradients and memory, which lead out of the program
    "backward const_data_ptr data_ptr grad grad_fn module_load numpy record_stream register_hook reinforce resize resize_as "
    "register_post_accumulate_grad_hook retain_grad share_memory storage storage_type untyped_storage volatile")
CHANGING = _MUTATORS | {n for n in dir(torch.Tensor) if n.endswith("_") and n[0] != "_"} - words("set_ share_memory_")
COPYING = words("clone copy new_full new_ones new_tensor new_zeros")  # methods whose result is new
VIEWING = words(  # methods of a tensor that return it, a view of it, or a copy: no memory of another
    "bool contiguous detach double expand flatten float int long permute reshape squeeze t to transpose type unsqueeze view")
_TENSOR = frozenset(n for n in dir(torch.Tensor) if n[0] != "_" and not n.endswith("_")) - _HANDLES


def _kinds(module: ModuleType, *bases: type) -> Iterator[str]:
    for name, value in vars(module).items():
        if isinstance(value, type) and issubclass(value, bases) and not issubclass(value, nn.Module):
            yield name


def _functions(module: ModuleType) -> Iterator[str]:
    for name, value in vars(module).items():
        if isinstance(value, FunctionType | BuiltinFunctionType) and name[0] != "_" and not name.endswith("_"):
            yield name


_DISTRIBUTIONS = (torch.distributions.Distribution,)
ATTRIBUTES = frozenset(  # methods and attributes that may be read of any value
    {name for name in dir(dist.TorchDistribution) if name[0] != "_" and not name.endswith("_")}
    | {name for kind in _kinds(dist, *_DISTRIBUTIONS) if isinstance(named := vars(dist)[kind].arg_constraints, dict)
       for name in named}
    | {name for name in dir(str) if name[0] != "_"} | _TENSOR
    | words("base_dist check copy duration eigenvalues eigenvectors eps filter get inv items keys L logabsdet "
            "log_abs_det_jacobian lower_bound P Q R S sign solution subsample_size tiny transforms U upper_bound V values Vh")
) - {"set_default_validate_args", "conjugate_update"}

_FACTORIES = words("arange eye full full_like linspace logspace ones ones_like rand rand_like randint randn randn_like tensor "
                   "zeros zeros_like")
_TORCH = _FACTORIES | (_TENSOR & set(dir(torch))) | words(
    "Size Tensor as_tensor atleast_1d atleast_2d atleast_3d bilinear block_diag broadcast_shapes broadcast_tensors bucketize "
    "cartesian_prod cat cdist celu column_stack combinations complex concat concatenate conv1d conv2d conv3d conv_transpose1d "
    "conv_transpose2d cosine_similarity cumulative_trapezoid device dropout dstack einsum enable_grad finfo hstack iinfo "
    "is_tensor isin layer_norm meshgrid no_grad normal pdist poisson polar randperm result_type searchsorted selu stack "
    "std_mean tensordot threshold trapezoid trapz tril_indices triu_indices vander var_mean view_as_complex view_as_real vmap "
    "vstack")
_FUNCTIONAL = set(_functions(nn.functional)) - words(
    "assert_int_or_pair batch_norm boolean_dispatch embedding embedding_bag handle_torch_function has_torch_function "
    "has_torch_function_unary has_torch_function_variadic instance_norm multi_head_attention_forward upsample "
    "upsample_bilinear upsample_nearest")  # some of these change running means or the rows of a table
_CONSTRUCTORS = words("bool complex dict float frozenset int len list range set slice sorted str tuple")
_BUILTINS = _CONSTRUCTORS | words("abs all any divmod enumerate filter isinstance map max min pow reversed round sum zip")

_LISTED: tuple[tuple[ModuleType, Set[str]], ...] = (
    (builtins, {*_BUILTINS, *_kinds(builtins, Exception)}),
    (math, set(_functions(math))),
    (torch, _TORCH), (nn, set()), (nn.functional, _FUNCTIONAL), (torch.linalg, set(_functions(torch.linalg))),
    (torch.special, set(_functions(torch.special))), (torch.fft, set(_functions(torch.fft))),
    (torch.func, words("grad grad_and_value hessian jacfwd jacrev jvp vjp vmap")),
    (torch.distributions, {"kl_divergence", *_kinds(torch.distributions, *_DISTRIBUTIONS)}),
    (dist, {*_kinds(dist, *_DISTRIBUTIONS)}),
    *((module, {"cat", "stack", *_kinds(module, torch.distributions.constraints.Constraint)})
      for module in (dist.constraints, torch.distributions.constraints)),
    *((module, {"biject_to", "transform_to", *_kinds(module, torch.distributions.Transform)})
      for module in (dist.transforms, torch.distributions.transforms, torch.distributions)),
    (dist.util, words("broadcast_shape sum_rightmost")),
    (torch.distributions.utils, words("broadcast_all clamp_probs logits_to_probs probs_to_logits")),
    (pyro, words("condition deterministic do factor markov param plate plate_stack sample subsample")),
    (pyro.primitives, words("deterministic factor param plate plate_stack sample subsample")),
    (poutine, words("block broadcast condition do equalize infer_config lift markov mask reparam scale uncondition")),
    (pyro.infer, {"config_enumerate"}), (reparam, set(_kinds(reparam, reparam.reparam.Reparam))), (pyro.ops, set()),
    (indexing, {"Index", "Vindex", "vindex"}), (special, set(_functions(special))),
    (tensor_utils, set(_functions(tensor_utils))),
)
MODULES = {id(module): module for module, _ in _LISTED if module is not builtins}


def own(value: Any) -> bool:
    """Return whether torch, Pyro or Python itself defines ``value``: no user put a function of theirs in its place.

    >>> own(torch.exp), own(dist.Normal), own(lambda: 0)
    (True, True, False)
    """
    if isinstance(value, BuiltinFunctionType):  # a bound method such as `[].append` has its object in `__self__`
        place = value.__self__
        return isinstance(place, ModuleType | None) and _home(place.__name__ if place else value.__module__)
    while isinstance(value, FunctionType):  # what `functools.wraps` copies may lie; where the code looks up its names does not
        if not _home(value.__globals__.get("__name__")):
            return False
        if not hasattr(value, "__wrapped__"):
            return True
        value = inspect.getattr_static(value, "__wrapped__")
    return _home((value if isinstance(value, type) else type(value)).__module__)


def intact(kind: type) -> bool:
    """Return whether every method that ``kind`` defines or inherits is torch's, Pyro's or Python's own.

    >>> intact(dist.Normal), intact(type("Mine", (dist.Normal,), {"log_prob": lambda self, value: 0.0}))
    (True, False)
    """
    members = (getattr(m, "fget", getattr(m, "__func__", m)) for base in kind.__mro__ for m in vars(base).values())
    return own(kind) and all(own(member) or _of_zuko(member) for member in members if isinstance(member, FunctionType))


def _of_zuko(method: FunctionType) -> bool:
    """Return whether zuko defines a method: it adds one to torch's transforms where it is imported."""
    return str(method.__globals__.get("__name__")).partition(".")[0] == "zuko"


def _home(module: object) -> bool:
    return str(module).partition(".")[0] in _HOMES


_HOMES = words("abc builtins collections contextlib functools math pyro torch typing typing_extensions")
_KNOWN_VALUES = {
    id(value): value for module, names in _LISTED for value in map(vars(module).get, names)
    if value is not None and not isinstance(value, ModuleType) and own(value)
    and (module is builtins or getattr(value, "__module__", "") != "builtins")
}
FRESH = {  # what they return is new, or can't be changed: changing it changes nothing else
    id(vars(module)[name]) for module, names in ((builtins, _CONSTRUCTORS), (torch, _FACTORIES), (math, _functions(math)))
    for name in names
}


def known(value: object) -> bool:
    """Return whether ``value`` is a function or class that is listed here, and torch's, Pyro's or Python's own."""
    return _KNOWN_VALUES.get(id(value)) is value
