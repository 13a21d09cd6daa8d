"""Algebra that is exact in floating point, and only that.

``x + 0`` is not ``x`` (it turns -0.0 into 0.0), and ``x * 0`` is not 0 (not for NaN or inf): such rules are
not here. Those that are here give the same bits, except that the sign of a NaN may differ.

A rule that drops a node must not change how memory is laid out, because NumPy sums in the order of memory:
`x` takes the place of ``x * 1`` only where `x` was itself computed, so that both are dense arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from chainrule.graph import Graph, Node, rebuilt
from chainrule.ops import ops
from chainrule.origin import because
from chainrule.passes.rewriting import rewrite, united
from chainrule.primitives import REGISTRY
from chainrule.types import broadcast_shapes

ADD, SUBTRACT, MULTIPLY, DIVIDE, NEGATIVE, BROADCAST = (
    REGISTRY[name] for name in ("add", "subtract", "multiply", "divide", "negative", "broadcast_to")
)
PASSED_ON = (REGISTRY["identity"], REGISTRY["stop_gradient"])  # elementwise, but the operand's own memory


def simplify_algebra(graph: Graph) -> Graph:
    """Drop ``* 1``, ``/ 1``, ``- 0`` and double negatives; write ``a + (-b)`` as ``a - b``.

    Elementwise operations broadcast their operands themselves, instead of being given broadcast ones.
    """
    return rewrite(graph, _simplified)


def _simplified(node: Node) -> Node:
    if node.primitive is None:
        return node
    if node.primitive.elementwise and node.primitive not in PASSED_ON:
        node = _without_broadcasts(node)
    rule = _RULES.get(node.primitive)
    return node if rule is None else rule(node)


# -- broadcasting ------------------------------------------------------------------------------------------
def _without_broadcasts(node: Node) -> Node:
    """An elementwise node over what its operands were broadcast from, as far as the shape stays the same."""
    operands = list(node.operands)
    for index, operand in enumerate(operands):
        source = _unbroadcast(operand)
        others = [each.shape for k, each in enumerate(operands) if k != index]
        if source is not operand and others and broadcast_shapes(source.shape, *others) == node.shape:
            operands[index] = source
    if all(a is b for a, b in zip(operands, node.operands, strict=True)):
        return node
    return rebuilt(node, operands)


def _unbroadcast(node: Node) -> Node:
    if node.primitive is BROADCAST:
        return node.operands[0]
    if node.value is not None and node.ndim and node.size and not any(node.value.strides):
        return ops.constant(node.value.flat[0], node.dtype)
    return node


# -- one rule per primitive --------------------------------------------------------------------------------
def _multiply(node: Node) -> Node:
    left, right = node.operands
    if _is_everywhere(right, 1):
        return _instead(node, left)
    return _instead(node, right) if _is_everywhere(left, 1) else node


def _divide(node: Node) -> Node:
    left, right = node.operands
    return _instead(node, left) if _is_everywhere(right, 1) else node


def _add(node: Node) -> Node:
    left, right = node.operands
    if _is_neutral(right):
        return _instead(node, left)
    if _is_neutral(left):
        return _instead(node, right)
    if right.primitive is NEGATIVE:
        return _made("subtract", node, left, right.operands[0])
    if left.primitive is NEGATIVE:
        return _made("subtract", node, right, left.operands[0])
    return node


def _subtract(node: Node) -> Node:
    left, right = node.operands
    if _is_everywhere(right, 0) and not np.signbit(np.float64(right.value.flat[0])):
        return _instead(node, left)
    return _made("add", node, left, right.operands[0]) if right.primitive is NEGATIVE else node


def _negative(node: Node) -> Node:
    (operand,) = node.operands
    return _instead(node, operand.operands[0]) if operand.primitive is NEGATIVE else node


_RULES: dict[Any, Callable[[Node], Node]] = {
    MULTIPLY: _multiply,
    DIVIDE: _divide,
    ADD: _add,
    SUBTRACT: _subtract,
    NEGATIVE: _negative,
}


def _is_everywhere(node: Node, number: float) -> bool:
    """True for a constant that is `number` everywhere (small ones are looked at, large ones are not)."""
    value = node.value
    if value is None or value.size == 0 or (value.size > 64 and any(value.strides)):
        return False
    return bool((value == number).all())


def _is_neutral(node: Node) -> bool:
    """True for what can be added without a trace: -0.0, or the integer 0."""
    if not _is_everywhere(node, 0):
        return False
    return node.dtype.kind != "f" or bool(np.signbit(node.value).all())


def _instead(node: Node, operand: Node) -> Node:
    """`operand` in the place of `node`, where that changes neither type nor layout."""
    computed = operand.primitive is not None and operand.primitive.elementwise
    if operand.type != node.type or not computed or operand.primitive in PASSED_ON:
        return node
    return united(operand, node)


def _made(name: str, node: Node, *operands: Node) -> Node:
    """Another operation for the same reasons."""
    with because(node.origins[0]):
        made: Node = getattr(ops, name)(*operands)
    if made.type != node.type:
        return node
    made.origins = node.origins
    return made
