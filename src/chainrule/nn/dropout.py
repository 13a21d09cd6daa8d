"""Dropout."""

from __future__ import annotations

from typing import Any

from chainrule import random
from chainrule.errors import RecipeError
from chainrule.nn.module import Module
from chainrule.ops import as_node, ops
from chainrule.tensor import Tensor, asarray
from chainrule.trace import assume


def dropout(input: Any, p: float = 0.5, training: bool = True, key: Any = None) -> Tensor:
    """Each element zero with probability `p`, the others scaled by 1 / (1 - p).

    `key` decides which; without one, the place in the model and the step do (see `chainrule.random`).

    >>> import chainrule as cr
    >>> y = cr.nn.functional.dropout(cr.ones(1000), 0.2, key=cr.random.key(0))
    >>> sorted({round(value, 2) for value in y.tolist()})
    [0.0, 1.25]
    """
    _check_probability(p)
    if not training or p == 0:
        return input if isinstance(input, Tensor) else asarray(input)
    x = as_node(input)
    kept = random.bernoulli(random.site_key() if key is None else key, 1 - p, x.shape)
    scale = ops.constant(1 / (1 - p) if p < 1 else 0, x.dtype)
    # One multiplication by a factor that needs no derivative, so that the backward pass is one too.
    return Tensor(ops.multiply(x, ops.where(kept, scale, ops.constant(0, x.dtype))))


def _check_probability(p: float) -> None:
    if not 0 <= p <= 1:
        raise RecipeError(f"Dropout: p = {p!r} is not a probability; it must be between 0 and 1")


class Dropout(Module):
    """In training, each element zero with probability `p` and the others scaled by 1 / (1 - p).

    In evaluation everything passes (Srivastava et al., 2014). Which elements fall depends on the key of the
    step and the layer's path, not on the order of calls.
    """

    def __init__(self, p: float = 0.5) -> None:
        _check_probability(p)
        self.p = p

    def forward(self, input: Any) -> Tensor:
        return dropout(input, self.p, assume(self, "training"))

    def extra_repr(self) -> str:
        return f"p={self.p}"
