"""Attention: every query's mean of the values, weighted by how well it matches their keys."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from chainrule.errors import DTypeError, RecipeError, ShapeError
from chainrule.graph import Node
from chainrule.nn.dropout import dropout
from chainrule.ops import as_node, ops
from chainrule.origin import at_user_line
from chainrule.tensor import Tensor

_NAME = "scaled_dot_product_attention"


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(query @ keyᵀ · scale) @ value (Vaswani et al., "Attention is all you need", 2017).

    query      (..., L, E), key (..., S, E), value (..., S, V); the result is (..., L, V). Leading axes,
               such as batch and heads, broadcast
    attn_mask  broadcasts to (..., L, S). Booleans say who may look at what, and a query that may look at
               nothing gets zeros; floats are added to the scores
    dropout_p  share of the weights to drop, in evaluation too: pass 0 there, as in PyTorch
    is_causal  query i sees keys 0 to i alone
    scale      1/sqrt(E) unless given

    >>> import chainrule as cr
    >>> x = cr.asarray([[[1.0], [3.0]]])
    >>> cr.nn.functional.scaled_dot_product_attention(0 * x, x, x, is_causal=True).tolist()
    [[[1.0], [2.0]]]
    """
    q, k, v = as_node(query), as_node(key), as_node(value)
    _check(q, k, v)
    if is_causal and attn_mask is not None:
        raise RecipeError(f"{_NAME} takes attn_mask or is_causal=True, not both{at_user_line()}")
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = ops.multiply(ops.matmul(q, ops.matrix_transpose(k)), scale)
    if is_causal:
        seen = ops.node(np.tri(q.shape[-2], k.shape[-2], dtype=bool))
        weights = ops.softmax(ops.where(seen, scores, _lowest(scores)), axis=-1)
    elif attn_mask is None:
        weights = ops.softmax(scores, axis=-1)
    else:
        weights = _masked_softmax(scores, as_node(attn_mask))
    return Tensor(ops.matmul(dropout(Tensor(weights), dropout_p), v))


def _masked_softmax(scores: Node, mask: Node) -> Node:
    if mask.floating:
        return ops.softmax(ops.add(scores, mask), axis=-1)
    if mask.dtype != np.bool_:
        raise DTypeError(
            f"{_NAME}: attn_mask is {mask.type}{at_user_line()}; it holds booleans (True takes part) or "
            "floats that are added to the scores"
        )
    # The outer choice matters to rows that see nothing: without it they would see everything alike.
    return ops.where(mask, ops.softmax(ops.where(mask, scores, _lowest(scores)), axis=-1), 0)


def _lowest(scores: Node) -> Node:
    """The most negative finite number: its exponential is 0, and no infinity can turn into a NaN."""
    return ops.constant(np.finfo(scores.dtype).min, scores.dtype)


def _check(q: Node, k: Node, v: Node) -> None:
    fits = min(q.ndim, k.ndim, v.ndim) >= 2 and q.shape[-1] == k.shape[-1] > 0 and k.shape[-2] == v.shape[-2]
    if not fits:
        raise ShapeError(
            f"{_NAME} takes query (..., L, E), key (..., S, E) and value (..., S, V), but was given "
            f"{q.shape}, {k.shape} and {v.shape}{at_user_line()}"
        )
    for each in (q, k, v):
        if not each.floating:
            raise DTypeError(
                f"{_NAME} takes floating-point arrays, but was given {each.type}{at_user_line()}"
            )
