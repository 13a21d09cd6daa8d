"""Batches of sequences as batches of rows: the first axes of arrays are one axis wherever they can be.

A linear layer makes one row of every position of every sequence; what comes before and after it need not know
that there are two axes. With one shape for all, a product and the elementwise work around it are one kernel.
"""

from __future__ import annotations

import math

from chainrule.graph import Graph, Node
from chainrule.ops import ops
from chainrule.origin import because
from chainrule.passes.rewriting import rewrite, united
from chainrule.primitives import REGISTRY
from chainrule.types import Shape

RESHAPE, PERMUTE = REGISTRY["reshape"], REGISTRY["permute_dims"]
REDUCTIONS = tuple(REGISTRY[name] for name in ("sum", "max", "min", "any", "all"))


def merge_leading_axes(graph: Graph) -> Graph:
    """Compute elementwise operations and reductions on merged first axes, where a reshape merges them anyway.

    Exact, but for the order in which a sum over several axes is taken. Reshapes of reshapes, and permutations
    of permutations, become one, or none.

    >>> import chainrule as cr
    >>> from chainrule.trace import trace_program
    >>> x, w = cr.zeros((2, 3, 4)), cr.zeros((5, 4))
    >>> def layer(x, w):
    ...     return cr.tanh(cr.nn.functional.linear(x, w))
    >>> types = [x.node.type, w.node.type]
    >>> [node.name for node in merge_leading_axes(trace_program(layer, types).graph).nodes][2:]
    ['reshape', 'permute_dims', 'matmul', 'tanh', 'reshape']
    """
    merged = {lead for node in graph.nodes if node.primitive is RESHAPE for lead in _merged_by(node)}

    def rule(node: Node) -> Node:
        if node.primitive is RESHAPE:
            return _same_reason(node, _reshaped(node.operands[0], node.shape))
        if node.primitive is PERMUTE:
            return _same_reason(node, _permuted(node))
        if not merged or node.primitive is None or not node.origins:
            return node
        with because(node.origins[0]):
            if node.primitive.elementwise:
                return _elementwise(node, merged)
            return _reduction(node, merged) if node.primitive in REDUCTIONS else node

    return rewrite(graph, rule)


def _merged_by(node: Node) -> list[Shape]:
    """The first axes that a reshape merges into one, or makes of one."""
    found = []
    for long, short in ((node.operands[0].shape, node.shape), (node.shape, node.operands[0].shape)):
        rest = len(short) - 1
        count = len(long) - rest
        if rest >= 1 and count >= 2 and long[count:] == short[1:] and min(long) > 0:
            found.append(long[:count])
    return found


def _lead(shape: Shape, merged: set[Shape]) -> int:
    """How many first axes of an array become one; at least one other is left."""
    counts = {len(lead) for lead in merged}
    return max((n for n in counts if n < len(shape) and shape[:n] in merged), default=0)


# -- operations on merged axes -------------------------------------------------------------------------------
def _elementwise(node: Node, merged: set[Shape]) -> Node:
    count = _lead(node.shape, merged)
    if not count:
        return node
    operands = [flat for each in node.operands if (flat := _flat(each, node.shape, count)) is not None]
    if len(operands) < len(node.operands) or node.primitive is None:
        return node
    made: Node = ops.apply(node.primitive, operands, **node.attributes)
    made.origins = node.origins
    whole = made.size == node.size
    return _reshaped(made, node.shape) if whole else node


def _reduction(node: Node, merged: set[Shape]) -> Node:
    (x,), axes = node.operands, node.attributes["axis"]
    count = _lead(x.shape, merged)
    first = set(axes) & set(range(count))
    if not count or (first and len(first) < count):
        return node
    flat = _reshaped(x, (math.prod(x.shape[:count]), *x.shape[count:]))
    assert node.primitive is not None
    others = tuple(axis - count + 1 for axis in axes if axis >= count)
    made: Node = ops.apply(
        node.primitive, [flat], axis=(0, *others) if first else others, keepdims=node.attributes["keepdims"]
    )
    made.origins = node.origins
    return _reshaped(made, node.shape)


def _flat(x: Node, shape: Shape, count: int) -> Node | None:
    """An operand of an array of `shape` whose first `count` axes are merged; None where it cannot follow."""
    full = (1,) * (len(shape) - x.ndim) + x.shape
    rest = full[count:]
    if all(extent == 1 for extent in full[:count]):
        return x if x.ndim <= len(rest) else _reshaped(x, rest)
    return _reshaped(x, (math.prod(shape[:count]), *rest)) if full[:count] == shape[:count] else None


# -- views of views ------------------------------------------------------------------------------------------
def _reshaped(x: Node, shape: Shape) -> Node:
    while x.primitive is RESHAPE:
        x = x.operands[0]
    made: Node = ops.reshape(x, shape)
    return made


def _permuted(node: Node) -> Node:
    (inner,), axes = node.operands, node.attributes["axes"]
    if inner.primitive is not PERMUTE:
        return node
    made: Node = ops.permute_dims(inner.operands[0], tuple(inner.attributes["axes"][axis] for axis in axes))
    return made


def _same_reason(node: Node, made: Node) -> Node:
    """`made` in the place of a view, for its reasons; what it shows keeps its own."""
    return united(made, node) if made.primitive in (RESHAPE, PERMUTE) else made
