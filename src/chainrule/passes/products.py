"""Passes for backends that make kernels: the same values, said in a form that fuses.

They are not for the reference backend, where NumPy's own functions are quickest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.graph import Graph, Node
from chainrule.ops import ops
from chainrule.origin import because
from chainrule.passes.rewriting import rewrite
from chainrule.primitives import REGISTRY
from chainrule.types import normalise_axes

MATMUL, LOGSUMEXP, RELU, GREATER, CONVOLVE, POW = (
    REGISTRY[name] for name in ("matmul", "logsumexp", "relu", "greater", "convolve", "pow")
)
_SLICE: Any = REGISTRY["slice"]


def multiply_single_products(graph: Graph) -> Graph:
    """A matrix product that sums over one element is an elementwise product: exact."""

    def rule(node: Node) -> Node:
        if node.primitive is not MATMUL or node.operands[0].shape[-1] != 1:
            return node
        with because(node.origins[0]):
            product: Node = ops.multiply(*node.operands)
        return product if product.type == node.type else node

    return rewrite(graph, rule)


def multiply_small_powers(graph: Graph) -> Graph:
    """x to the power of 2 or 3 as a product, of 1 as x, of -1 as 1 / x; any other is two series.

    Each product rounds once, so that two units in the last place bound the difference.
    """

    def rule(node: Node) -> Node:
        exponent = _number(node.operands[1]) if node.primitive is POW else None
        if exponent not in (-1, 1, 2, 3) or (exponent == -1 and not node.floating):
            return node
        x = node.operands[0]
        with because(node.origins[0]):
            made: Node = x
            if exponent == -1:
                made = ops.reciprocal(x)
            elif exponent > 1:
                made = ops.square(x) if exponent == 2 else ops.multiply(x, ops.square(x))
        return made if made.type == node.type else node

    return rewrite(graph, rule)


def _number(node: Node) -> Any:
    """The one element of a constant; None for anything else."""
    return None if node.primitive is not None or node.value is None or node.size != 1 else node.value.item()


def spell_out_logsumexp(graph: Graph) -> Graph:
    """logsumexp as its parts, which are loops: a maximum, a sum of exponentials, a logarithm."""

    def rule(node: Node) -> Node:
        if node.primitive is not LOGSUMEXP:
            return node
        (x,), axis = node.operands, normalise_axes(node.attributes["axis"], node.operands[0].ndim)
        if any(x.shape[each] == 0 for each in axis):
            with because(node.origins[0]):
                return _everywhere(node, -np.inf)
        with because(node.origins[0]):
            largest = ops.max(x, axis=axis, keepdims=True)
            largest = ops.where(ops.isfinite(largest), largest, 0)
            total = ops.sum(ops.exp(ops.subtract(x, largest)), axis=axis, keepdims=True)
            found = ops.reshape(ops.add(ops.log(total), largest), node.shape)
        return found

    return rewrite(graph, rule)


def gate_by_results(graph: Graph) -> Graph:
    """``x > 0`` is ``relu(x) > 0``, where that is computed anyway: x need not be kept for the backward pass.

    Exact, for NaN too.
    """
    gated: dict[Node, Node] = {}

    def rule(node: Node) -> Node:
        if node.primitive is RELU:
            gated[node.operands[0]] = node
        elif node.primitive is GREATER and node.operands[0] in gated and _is_zero(node.operands[1]):
            with because(node.origins[0]):
                made: Node = ops.greater(gated[node.operands[0]], node.operands[1])
            return made
        return node

    return rewrite(graph, rule)


def pad_before_convolving(graph: Graph) -> Graph:
    """A convolution over zeros around or between elements reads an array in which these zeros stand: exact.

    So what is left is a plain sum of products, without edges.
    """

    def rule(node: Node) -> Node:
        if node.primitive is not CONVOLVE:
            return node
        padding, dilation = node.attributes["padding"], node.attributes["input_dilation"]
        if not any(map(any, padding)) and set(dilation) <= {1}:
            return node
        x, w = node.operands
        with because(node.origins[0]):
            padded = _padded(x, padding, dilation)
            plain = {
                **node.attributes,
                "padding": ((0, 0),) * len(padding),
                "input_dilation": (1,) * len(padding),
            }
            made: Node = ops.apply(node.primitive, [padded, w], **plain)
        made.origins = node.origins
        return made

    return rewrite(graph, rule)


def _padded(x: Node, padding: Sequence[tuple[int, int]], dilation: Sequence[int]) -> Node:
    """x with zeros between and around the elements of its last axes; negative padding cuts off."""
    front = x.ndim - len(padding)
    spread = [max(0, (n - 1) * by + 1) for n, by in zip(x.shape[front:], dilation, strict=True)]
    low = [max(0, a) for a, _ in padding]
    shape = [a + n + max(0, b) for a, n, (_, b) in zip(low, spread, padding, strict=True)]
    whole = (0,) * front
    if shape != list(x.shape[front:]):
        x = ops.place(
            x,
            (*x.shape[:front], *shape),
            (*whole, *low),
            (*x.shape[:front], *(a + n for a, n in zip(low, spread, strict=True))),
            (*(1,) * front, *dilation),
        )
    cut = [(max(0, -a), n - max(0, -b)) for n, (a, b) in zip(shape, padding, strict=True)]
    if any(a or b != n for (a, b), n in zip(cut, shape, strict=True)):
        x = ops.apply(
            _SLICE,
            [x],
            start=(*whole, *(a for a, _ in cut)),
            stop=(*x.shape[:front], *(max(a, b) for a, b in cut)),
            step=(1,) * x.ndim,
        )
    return x


def _everywhere(node: Node, number: float) -> Node:
    made: Node = ops.broadcast_to(ops.constant(number, node.dtype), node.shape)
    return made


def _is_zero(node: Node) -> bool:
    value: Any = node.value
    return value is not None and value.size == 1 and value.flat[0] == 0
