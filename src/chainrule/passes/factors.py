"""Factors: what all terms of a sum have in common is multiplied, or divided by, once.

Equal up to rounding, not bit for bit: the reference backend keeps the order of operations as it was written.
Every rule leaves fewer operations per element, and rounds at most as often as what it replaces.
"""

from __future__ import annotations

import math

from chainrule.graph import Graph, Node
from chainrule.ops import ops
from chainrule.origin import because
from chainrule.passes.rewriting import rewrite_knowing_uses
from chainrule.primitives import REGISTRY
from chainrule.primitives._define import reduced_shape
from chainrule.types import broadcast_shapes, normalise_axes

ADD, SUBTRACT, MULTIPLY, DIVIDE, NEGATIVE, SUM, RESHAPE = (
    REGISTRY[name] for name in ("add", "subtract", "multiply", "divide", "negative", "sum", "reshape")
)

Quotients = dict[tuple[Node, Node], Node]
"""Numerator and divisor → the node that divides them."""


def share_factors(graph: Graph) -> Graph:
    """Take common factors and divisors out of sums, and use quotients that are there anyway.

    ``Σ (a · f)``, f the same for all terms, is ``(Σ a) · f``; ``a/s - b/s`` is ``(a - b)/s``; and
    ``(a/s) · e`` is ``a · (e/s)`` where e/s is computed already. So the pullback of a softmax y, which begins
    as the pullback of a quotient, becomes ``y · (g - Σ g·y)`` and needs nothing but y. Numbers that belong to
    rows are multiplied with each other first, then with a matrix.

    ``Σ (a + f · (x - mean of x))`` is ``Σ a``: the rest is 0, but for rounding. So in the pullback of a
    normalisation no sum waits for another.

    Only what nobody else uses is taken apart.

    >>> import chainrule as cr
    >>> from chainrule import passes
    >>> from chainrule.trace import trace_program
    >>> x = cr.asarray([0.1, 0.2, 0.3])
    >>> graph = trace_program(lambda x, g: cr.vjp(cr.softmax, x)[1](g)[0], [x.node.type, x.node.type]).graph
    >>> [node.name for node in share_factors(passes.simplify(graph)).nodes][8:]
    ['divide', 'multiply', 'sum', 'subtract', 'multiply']
    """
    quotients: Quotients = {}

    def rule(node: Node, alone: set[Node]) -> Node:
        if not node.floating:
            return node
        with because(node.origins[0]):
            if node.primitive is SUM:
                return _of_sum(node, alone)
            if node.primitive in (ADD, SUBTRACT):
                return _of_two_quotients(node, alone)
            if node.primitive is MULTIPLY:
                return _by_known_quotient(_small_first(node, alone), alone, quotients)
        if node.primitive is DIVIDE:
            quotients[node.operands[0], node.operands[1]] = node
        return node

    return rewrite_knowing_uses(graph, rule)


def _of_sum(node: Node, alone: set[Node]) -> Node:
    """Take signs and factors that are the same for all terms out of a sum, and drop what adds up to 0."""
    terms = node.operands[0]
    if terms.primitive is ADD and terms.dtype == node.dtype:
        for part, other in (terms.operands, terms.operands[::-1]):
            if _adds_up_to_zero(part, node) and other.type == terms.type:
                return _summed(node, other, alone)
    if terms not in alone or terms.dtype != node.dtype or terms.size in (node.size, 0):
        return node  # no terms: their sum is 0, also where a factor is NaN
    if terms.primitive is NEGATIVE:
        return ops.negative(_summed(node, terms.operands[0], alone))
    if terms.primitive not in (MULTIPLY, DIVIDE):
        return node
    left, right = terms.operands
    pairs = [(left, right), (right, left)] if terms.primitive is MULTIPLY else [(left, right)]
    for varying, common in pairs:
        factor = _for_result(common, node)
        if varying.type == terms.type and factor is not None:
            return ops.apply(terms.primitive, [_summed(node, varying, alone), factor])
    return node


def _summed(node: Node, terms: Node, alone: set[Node]) -> Node:
    """The same sum over other terms, for one user."""
    total: Node = ops.sum(terms, axis=node.attributes["axis"], keepdims=node.attributes["keepdims"])
    made = _of_sum(total, alone) if total.primitive is SUM else total  # of constants: it is a value already
    alone.add(made)
    return made


def _adds_up_to_zero(part: Node, node: Node) -> bool:
    """True for a factor times values whose mean along the axes of a sum was subtracted."""
    if part.primitive is not MULTIPLY or part.shape != node.operands[0].shape:
        return False
    return any(
        _is_centred(values, node) and _for_result(factor, node) is not None
        for factor, values in (part.operands, part.operands[::-1])
    )


def _is_centred(values: Node, node: Node) -> bool:
    axes = normalise_axes(node.attributes["axis"], node.operands[0].ndim)
    if values.primitive is not SUBTRACT or values.shape != node.operands[0].shape:
        return False
    x, mean = values.operands
    if (1,) * (x.ndim - mean.ndim) + mean.shape != reduced_shape(x.shape, axes, True):
        return False
    while mean.primitive is RESHAPE:
        mean = mean.operands[0]
    if mean.primitive is not DIVIDE:
        return False
    total, count = mean.operands
    while total.primitive is RESHAPE:
        total = total.operands[0]
    return (
        total.primitive is SUM
        and total.operands[0] is x
        and normalise_axes(total.attributes["axis"], x.ndim) == axes
        and count.value is not None
        and count.size == 1
        and int(count.value.flat[0]) * node.size == x.size
    )


def _for_result(factor: Node, node: Node) -> Node | None:
    """A factor of a sum's terms in a shape that fits the result; None where it differs between terms."""
    terms = node.operands[0]
    shape = (1,) * (terms.ndim - factor.ndim) + factor.shape
    axes = normalise_axes(node.attributes["axis"], terms.ndim)
    if any(shape[axis] != 1 for axis in axes) or factor.dtype != node.dtype:
        return None
    if node.attributes["keepdims"] or factor.ndim == 0:
        return factor
    made: Node = ops.reshape(factor, reduced_shape(shape, axes, False))
    return made


def _of_two_quotients(node: Node, alone: set[Node]) -> Node:
    """a/s + b/s with one division; b/s may be negative."""
    left, right = node.operands
    combine = ops.add if node.primitive is ADD else ops.subtract
    if node.primitive is ADD and right.primitive is NEGATIVE and right in alone:
        combine, right = ops.subtract, right.operands[0]
    whole = all(each.primitive is DIVIDE and each in alone for each in (left, right))
    if not whole or left.operands[1] is not right.operands[1]:
        return node
    above: Node = combine(left.operands[0], right.operands[0])
    made: Node = ops.divide(above, left.operands[1])
    return made if made.type == node.type else node


def _small_first(node: Node, alone: set[Node]) -> Node:
    """row · (other row · matrix) as (row · other row) · matrix; likewise for a matrix over another row."""
    for row, inner in (node.operands, node.operands[::-1]):
        if inner.primitive not in (MULTIPLY, DIVIDE) or inner not in alone or row.size == 1:
            continue
        pairs = [inner.operands, inner.operands[::-1]] if inner.primitive is MULTIPLY else [inner.operands]
        for matrix, other in pairs:
            small = broadcast_shapes(row.shape, other.shape)
            if matrix.type == node.type == inner.type and math.prod(small) < node.size:
                combined: Node = (ops.multiply if inner.primitive is MULTIPLY else ops.divide)(row, other)
                made: Node = ops.multiply(combined, matrix)
                return made if combined.dtype == node.dtype else node
    return node


def _by_known_quotient(node: Node, alone: set[Node], quotients: Quotients) -> Node:
    """(a/s) · e as a · (e/s)."""
    for first, other in (node.operands, node.operands[::-1]):
        if first.primitive is not DIVIDE or first not in alone:
            continue
        known = quotients.get((other, first.operands[1]))
        if known is not None and broadcast_shapes(first.operands[0].shape, known.shape) == node.shape:
            made: Node = ops.multiply(first.operands[0], known)
            return made if made.type == node.type else node
    return node
