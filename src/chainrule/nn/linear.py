"""Linear layers and the layers that only move elements."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from chainrule.errors import DTypeError, ShapeError
from chainrule.nn import init
from chainrule.nn.module import Module
from chainrule.ops import as_node, ops
from chainrule.origin import at_user_line
from chainrule.tensor import Parameter, Tensor
from chainrule.types import normalise_axis


def linear(input: Any, weight: Any, bias: Any = None) -> Tensor:
    """``input @ weight.T + bias``: input (..., in), weight (out, in), bias (out,), result (..., out)."""
    x, w = as_node(input), as_node(weight)
    if not x.floating:
        raise DTypeError(
            f"linear takes floating-point inputs, but was given {x.type}{at_user_line()}; "
            "convert them with .astype('float32'), or use an Embedding for category numbers"
        )
    if x.ndim == 0 or x.shape[-1] != w.shape[1]:
        raise ShapeError(
            f"linear takes {w.shape[1]} features along the last axis, but was given shape "
            f"{x.shape}{at_user_line()}; its weight has shape {w.shape}"
        )
    # One matrix product over all leading axes: a batched one would make a weight gradient per batch entry.
    rows = x if x.ndim <= 2 else ops.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
    y = ops.matmul(rows, ops.permute_dims(w, (1, 0)))
    y = y if bias is None else ops.add(y, bias)
    return Tensor(y if x.ndim <= 2 else ops.reshape(y, (*x.shape[:-1], w.shape[0])))


class Linear(Module):
    """``y = x @ weight.T + bias``; weight (out_features, in_features), bias (out_features,).

    Both start uniform in ±1/sqrt(in_features), as in PyTorch.

    >>> import chainrule as cr
    >>> cr.nn.Linear(3, 2)(cr.ones((5, 3))).shape
    (5, 2)
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, dtype: Any = np.float32
    ) -> None:
        self.in_features = in_features
        self.out_features = out_features
        self.weight = Parameter(np.zeros((out_features, in_features), dtype))
        self.bias = Parameter(np.zeros(out_features, dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        bound = 1 / math.sqrt(self.in_features) if self.in_features else 0.0
        init.uniform_(self.weight, -bound, bound)  # what kaiming_uniform_ with a = sqrt(5) comes to
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Any) -> Tensor:
        return linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}"


class Identity(Module):
    """Passes its input on; takes and ignores any arguments, so that it can stand in for any layer."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def forward(self, input: Any) -> Any:
        return input


def flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The axes from `start_dim` to `end_dim` as one."""
    x = as_node(input)
    if x.ndim == 0:
        return Tensor(ops.reshape(x, (1,)))
    first, last = normalise_axis(start_dim, x.ndim), normalise_axis(end_dim, x.ndim)
    if first > last:
        raise ShapeError(
            f"flatten: axis {start_dim} comes after axis {end_dim} of shape {x.shape}{at_user_line()}"
        )
    if first == last and isinstance(input, Tensor):
        return input
    return Tensor(
        ops.reshape(x, (*x.shape[:first], math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :]))
    )


class Flatten(Module):
    """Every axis but the first (or those from `start_dim` to `end_dim`) as one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Any) -> Tensor:
        return flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
