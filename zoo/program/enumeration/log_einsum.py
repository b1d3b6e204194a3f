"""Einsum of logarithms, as a backend of ``opt_einsum``: products are sums, and sums are log-sum-exp.

Pyro's own backend, ``pyro.ops.einsum.torch_log``, has no rule for ``vmap``, and loses terms: each operand is divided by its
largest entry, so where one operand favours one value by 750 nats and the other one another, all products underflow, and the sum
is log 0. Here the largest product is found first.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from functools import reduce

import torch
from pyro.ops.einsum.util import Tensordot
from torch import Tensor

#: Entries of a product beyond which it is not written out, but made by a product of matrices of exponentials.
LARGEST = 2**24


def transpose(a: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return ``a`` with its dimensions in another order."""
    return a.permute(axes)


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """Return log Σ exp Σ of the operands' logarithms, by an equation as of :func:`torch.einsum`.

    >>> a, b = torch.tensor([[0.1, 0.9], [0.5, 0.5]]).log(), torch.tensor([0.3, 0.7]).log()
    >>> einsum("ij,i->j", a, b).exp()
    tensor([0.3800, 0.6200])
    """
    names, output, summed = parse(equation)
    sizes = {name: size for dims, operand in zip(names, operands, strict=True)
             for name, size in zip(dims, operand.shape, strict=True)}
    if summed and len(operands) == 2 and torch.Size(sizes[name] for name in output + summed).numel() > LARGEST:
        return _by_matrices(names, output, summed, operands)
    return sum_of_products(equation, operands, log_sum_exp)


def parse(equation: str) -> tuple[list[str], str, str]:
    """Return the names of each operand's dimensions, of the result's, and of those that are summed over."""
    inputs, output = equation.split("->")
    names = inputs.split(",")
    return names, output, "".join(sorted(set("".join(names)) - set(output)))


def sum_of_products(equation: str, operands: Sequence[Tensor], reduction: Callable[[Tensor, list[int]], Tensor]) -> Tensor:
    """Return the reduction, over the dimensions that are summed, of the sum of the operands, all of it written out."""
    names, output, summed = parse(equation)
    order = output + summed
    aligned = [_aligned(operand, dims, order) for dims, operand in zip(names, operands, strict=True)]
    total = reduce(torch.add, aligned)
    # An operand alone is copied: Pyro writes the names of dimensions onto the result.
    return reduction(total, list(range(len(output), len(order)))) if summed else total + 0.0


def log_sum_exp(value: Tensor, dims: list[int]) -> Tensor:
    """Return log Σ exp over dimensions; where all is impossible, log 0 with no gradient, of which torch's own is NaN."""
    top = value.detach().amax(dims, keepdim=True)
    finite = top.clamp(min=torch.finfo(value.dtype).min)
    total = (value - finite).exp().sum(dims).clamp(min=torch.finfo(value.dtype).tiny).log() + finite.squeeze(dims)
    return torch.where(top.squeeze(dims) == -torch.inf, -torch.inf, total)


def _aligned(operand: Tensor, dims: str, order: str) -> Tensor:
    """Return an operand with its dimensions in the given order, of length one where it has none of a name."""
    present = [name for name in order if name in dims]
    moved = operand.permute([dims.index(name) for name in present])
    shape = iter(moved.shape)
    return moved.reshape([next(shape) if name in dims else 1 for name in order])


def _by_matrices(names: list[str], output: str, summed: str, operands: Sequence[Tensor]) -> Tensor:
    """Return the log of a sum of products of two operands by their exponentials, each divided by its largest entry."""
    renamed = str.maketrans(dict(zip(sorted(set("".join(names))), string.ascii_letters, strict=False)))
    shifts = [_largest(operand, dims, summed) for dims, operand in zip(names, operands, strict=True)]
    exponentials = [(operand - shift).exp() for operand, shift in zip(operands, shifts, strict=True)]
    equation = ",".join(names).translate(renamed)
    product = torch.einsum(f"{equation}->{output.translate(renamed)}", *exponentials)
    kept = [
        _aligned(shift.reshape([n for n, name in zip(shift.shape, dims, strict=True) if name not in summed]),
                 "".join(name for name in dims if name not in summed), output)
        for dims, shift in zip(names, shifts, strict=True)]
    return reduce(torch.add, kept) + product.clamp(min=torch.finfo(product.dtype).tiny).log()


def _largest(operand: Tensor, dims: str, summed: str) -> Tensor:
    """Return the largest entries of an operand over the dimensions that are summed, kept with length one."""
    over = [i for i, name in enumerate(dims) if name in summed]
    value = operand.detach()
    return value.amax(over, keepdim=True).clamp(min=torch.finfo(operand.dtype).min) if over else value


tensordot = Tensordot(einsum)
