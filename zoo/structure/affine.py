"""Proof that a computation is affine in its input: the tensor operations that it does are followed one by one.

A tensor that depends on the input is a :class:`Dependent`. PyTorch hands every operation to :class:`Following`, below
autograd and vmap. A result counts as affine in the input only if a table says that the operation keeps it affine. A dependent
tensor has no memory of its own, so Python can't look at its numbers unseen: ``if``, ``.item()``, ``.tolist()`` and ``.numpy()``
raise. So the proof holds for every input, not only for the input of the run. A proof costs one run of the computation.
PyTorch's ``make_fx`` sees the same operations, but first imports PyTorch's compiler, which takes longer than most fits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

#: Types of numbers that may be affine: coarser ones round, and whole numbers are steps.
FLOATING = (torch.float32, torch.float64)


def _table(jointly: tuple[int, ...], either: tuple[int, ...], names: str) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    return {f"aten.{name}": (jointly, either) for name in names.split()}


#: Operations that keep tensors affine. By place: the arguments in which an operation is affine jointly, and the arguments that
#: are factors of each other, of which only one may depend on the input. All other arguments must not.
AFFINE = {
    **_table((0,), (), """
        alias.default clone.default _to_copy.default lift_fresh.default view.default _unsafe_view.default expand.default
        permute.default transpose.int transpose_.default t.default t_.default select.int slice.Tensor squeeze.default
        squeeze.dim squeeze.dims squeeze_.default squeeze_.dim squeeze_.dims unsqueeze.default unsqueeze_.default unbind.int
        split.Tensor split_with_sizes.default diagonal.default index.Tensor index_select.default gather.default
        embedding.default take.default repeat.default flip.default roll.default tril.default triu.default
        constant_pad_nd.default neg.default sum.default sum.dim_IntList mean.default mean.dim cumsum.default trace.default
        add.Scalar sub.Scalar rsub.Scalar mul.Scalar div.Scalar div.Tensor cat.default stack.default
        cholesky_solve.default"""),
    **_table((1,), (), "linalg_solve_triangular.default"),
    **_table((0, 1), (), "add.Tensor sub.Tensor rsub.Tensor slice_scatter.default select_scatter.default"),
    **_table((0, 2), (), "index_put.default"),
    **_table((0, 3), (), "index_add.default index_copy.default scatter.src scatter_add.default"),
    **_table((), (0, 1), "mul.Tensor mm.default mv.default bmm.default dot.default"),
    **_table((0,), (1, 2), "addmm.default addmv.default addr.default baddbmm.default addbmm.default addcmul.default"),
    **_table((2,), (0, 1), "linear.default convolution.default"),
}
#: Operations whose result depends on the shape of their argument alone.
SHAPE_ONLY = {
    f"aten.{name}.default" for name in ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")}
#: Marks of operations whose results' shapes or Python numbers depend on the numbers of their arguments.
LOOKS = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}


class Unfollowed(RuntimeError):
    """A computation does what can't be followed: Python looks at a number, or a tensor is changed in place."""


class Dependent(Tensor):
    """A tensor that depends on the input of a computation, under :class:`Following`.

    Args:
        value: its numbers at the input of this run.
        affine: whether it is proved affine in the input.
    """

    value: Tensor
    affine: bool

    # As parameters have it: operations alone are handled, not the Python functions around them.
    __torch_function__ = nn.Parameter.__torch_function__

    @staticmethod
    def __new__(cls, value: Tensor, affine: bool) -> Dependent:
        # PyTorch's way to a tensor without memory.
        made: Dependent = Tensor._make_wrapper_subclass(
            cls, value.shape, strides=value.stride(), dtype=value.dtype, device=value.device)
        return made

    def __init__(self, value: Tensor, affine: bool):
        self.value, self.affine = value, affine

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None,
    ) -> Any:
        raise Unfollowed(f"{func} is done where nobody follows")


class Following(TorchDispatchMode):
    """Follows a computation from its :class:`Dependent` input; see :mod:`zoo.structure.affine`.

    Attributes:
        reason: why the computation could not be followed to its end; otherwise empty. The computation may have caught the
        error.

    Raises:
        Unfollowed: the computation draws random numbers, changes a tensor in place by a dependent one, or looks at numbers.

    >>> z = Dependent(torch.tensor([1.0, 2.0]), affine=True)
    >>> with Following():
    ...     (3 * z.flip(0) - z.sum()).affine, (z * z).affine, z.clamp(max=5.0).affine
    (True, False, False)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reason = ""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else PyTorch imports its compiler first, to keep it from this mode.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags:
            self._refuse(f"{func} draws random numbers")
        if not _dependent([*args, *kwargs.values()]):
            return func(*args, **kwargs)
        return self._followed(func, args, kwargs)

    def _followed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do an operation on dependent tensors and mark what depends on them, or refuse the operation."""
        reshapes = _reshapes_in_place(func)
        if str(func).split(".")[1].endswith("_") and not reshapes:
            self._refuse(f"{func} changes a tensor in place")
        if _looks(func, args):
            self._refuse(f"Python looks at the outcome of {func}")
        given, named = _values(args), _values(kwargs)
        before = [each._version for each in _tensors([*given, *named.values()])]
        result = func(*given, **named)
        if before != [each._version for each in _tensors([*given, *named.values()])] and not reshapes:
            self._refuse(f"{func} changes a tensor in place")
        if reshapes:
            return Tensor.__torch_dispatch__(func, (), args, kwargs)
        if str(func) in SHAPE_ONLY:
            return result
        if not all(isinstance(each, Tensor) for each in _flat([result])):
            self._refuse(f"Python looks at the outcome of {func}")
        return _wrapped(result, _stays_affine(func, args, kwargs))

    def _refuse(self, reason: str) -> NoReturn:
        self.reason = reason
        raise Unfollowed(reason)


def _reshapes_in_place(func: Any) -> bool:
    """Return whether an operation changes a tensor's shape alone in place: ``squeeze_``, with which PyTorch ends a product."""
    return torch.Tag.inplace_view in func.tags and str(func) in AFFINE


def _looks(func: Any, args: tuple[Any, ...]) -> bool:
    """Return whether the shape of an operation's result, or a Python number in it, tells of a dependent tensor's numbers."""
    if LOOKS.isdisjoint(func.tags):
        return False
    return func is not torch.ops.aten.index.Tensor or bool(_dependent(args[1]))  # the shape tells of the indices alone


def _stays_affine(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether the table says that an operation is affine in the input, where its arguments are what they are."""
    jointly, either = AFFINE.get(str(func), ((), ()))
    met = {place for place, value in enumerate(args) if _dependent([value])}
    factors = met.intersection(either)
    allowed = met <= {*jointly, *either} and len(factors) <= 1 and not _dependent(kwargs.values())
    return allowed and all(each.affine for each in _dependent(args))


def _wrapped(result: Any, affine: bool) -> Any:
    if isinstance(result, list | tuple):
        return type(result)(_wrapped(each, affine) for each in result)
    return Dependent(result, affine and result.dtype in FLOATING)


def _values(value: Any) -> Any:
    """Return arguments with numbers in place of dependent tensors."""
    if isinstance(value, list | tuple):
        return type(value)(map(_values, value))
    if isinstance(value, dict):
        return {name: _values(each) for name, each in value.items()}
    return value.value if isinstance(value, Dependent) else value


def _dependent(values: Iterable[Any]) -> list[Dependent]:
    return [each for each in _flat(values) if isinstance(each, Dependent)]


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    return [each for each in _flat(values) if isinstance(each, Tensor)]


def _flat(values: Iterable[Any]) -> list[Any]:
    found = []
    for value in values:
        found += _flat(value) if isinstance(value, list | tuple) else [value]
    return found
