"""Einsum of logarithms whose gradient is a draw: backpropagation through it draws all values that were summed over, together.

The gradient of log Σ_k exp a_k is the softmax of a. Here it is one value k, drawn from that softmax, as a vector of zeros and a
one. By the chain rule the values drawn farther back are drawn given those before: backward sampling, of any sum-product.

Source: Rush (2020), Torch-Struct: deep structured prediction library, §4, https://arxiv.org/abs/2002.00876
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.ops.einsum.util import Tensordot
from torch import Tensor

from zoo.program.enumeration.log_einsum import log_sum_exp, sum_of_products, transpose


class _Sampled(torch.autograd.Function):
    """log Σ exp over the last dimensions, with a drawn gradient. Uses torch's generator."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, dims: list[int]) -> Tensor:
        return log_sum_exp(value, dims)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        value, ctx.dims = inputs
        ctx.save_for_backward(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        [value] = ctx.saved_tensors
        flat = value.flatten(-len(ctx.dims))
        gumbel = -torch.empty_like(flat).exponential_().log()
        which = (flat + gumbel).argmax(-1, keepdim=True)
        drawn = torch.arange(flat.shape[-1], device=flat.device) == which
        return (gradient[..., None] * drawn).reshape(value.shape), None


def _log_sum_exp(value: Tensor, dims: list[int]) -> Tensor:
    result: Tensor = _Sampled.apply(value, dims)  # type: ignore[no-untyped-call]
    return result


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """Return log Σ exp Σ of the operands' logarithms, by an equation as of :func:`torch.einsum`; its gradient is a draw.

    >>> logits = torch.tensor([0.2, 0.8]).log().requires_grad_()
    >>> einsum("i->", logits).backward()
    >>> float(logits.grad.sum()), set(logits.grad.tolist())
    (1.0, {0.0, 1.0})
    """
    return sum_of_products(equation, operands, _log_sum_exp)


tensordot = Tensordot(einsum)

__all__ = ["einsum", "tensordot", "transpose"]
