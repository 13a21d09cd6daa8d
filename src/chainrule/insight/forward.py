"""Forward through the graph of an eager loss: how far a change of one value carries.

Two readings of the same graph. `moved` carries a small change along, by the chain rule, operation by
operation. `evaluated` puts another value in the place of one and computes again what depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from chainrule.control import items
from chainrule.errors import BoundsError
from chainrule.graph import ITEM, Array, Node, describe, reachable
from chainrule.ops import ops
from chainrule.tensor import Tensor
from chainrule.transform import jvp
from chainrule.types import Type

Value = Any
"""An array; a tuple of them for a node with several outputs."""


def moved(loss: Node, start: Node, tangent: Array) -> dict[Node, Value]:
    """How everything between `start` and `loss` moves when `start` moves by `tangent`, to first order."""
    tangents: dict[Node, Value] = {start: tangent}
    for node in _after(loss, start, tangents):
        if node.floating:
            tangents[node] = pushed(node, tangents)
    return tangents


def evaluated(loss: Node, start: Node, value: Array) -> dict[Node, Value]:
    """What everything between `start` and `loss` is when `start` is `value`.

    Raises BoundsError where an index that is computed from it points outside.
    """
    values: dict[Node, Value] = {start: value}
    for node in _after(loss, start, values):
        assert node.primitive is not None
        operands = [values.get(each, each.value) for each in node.operands]
        try:
            found = node.primitive.meaning(np, *operands, **node.attributes)
        except IndexError as error:
            raise BoundsError(f"{describe(node)}: {error}") from None
        values[node] = found if isinstance(found, tuple) else np.asarray(found)
    return values


def pushed(node: Node, tangents: Mapping[Node, Value]) -> Value:
    """How the value of a node moves when operands of it move by `tangents`; the others stay."""
    if node.name == ITEM:
        return tangents[node.operands[0]][node.attributes["index"]]
    primitive = node.primitive
    assert primitive is not None
    moving = [each for each in dict.fromkeys(node.operands) if each in tangents]

    def of_moving(*values: Tensor) -> list[Tensor]:
        known = {each: value.node for each, value in zip(moving, values, strict=True)}
        operands = [known[each] if each in known else _alone(each) for each in node.operands]
        found = ops.apply(primitive, operands, **node.attributes)
        return [Tensor(each) for each in ([found] if isinstance(found.type, Type) else items(found))]

    _, tangent = jvp(of_moving, [Tensor(_alone(each)) for each in moving], [tangents[k] for k in moving])
    outputs = tuple(each.numpy() for each in tangent)
    return outputs[0] if isinstance(node.type, Type) else outputs


def _after(loss: Node, start: Node, found: Mapping[Node, Value]) -> Iterator[Node]:
    """The nodes between `start` and `loss` of which some operand is in `found`, operands first."""
    for node in reachable([loss]):
        if node is not start and any(each in found for each in node.operands):
            yield node


def _alone(node: Node) -> Node:
    """The value of a node without its history, along which derivatives would be looked for in vain."""
    return Node(None, (), {}, node.type, node.value)
