"""Reverse mode: the one backward walk.

A cotangent at an output is carried to every operand by that operand's pullback; where a value fans out, the
cotangents that come back are summed. Pullbacks are written with `ops`, so the walk computes on values and
builds on traced nodes, and walking twice gives second derivatives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from chainrule.errors import GraphError
from chainrule.graph import Node, reachable
from chainrule.ops import Ops, no_grad, ops
from chainrule.origin import Origin, because
from chainrule.types import Type

ITEM = "item"  # the primitive that takes one output of a node with several


class ReverseWalk:
    """The walk, with its three steps as methods so that the mutation check can break each of them."""

    def __init__(self, vocabulary: Ops = ops) -> None:
        self.ops = vocabulary

    def __call__(
        self, outputs: Sequence[Node], cotangents: Sequence[Node], wanted: Sequence[Node]
    ) -> list[Node | None]:
        """Cotangents of `wanted`, None for a node on which no output depends."""
        asked = set(wanted)
        order = _on_the_way(outputs, asked)
        needed = set(order)
        parts: dict[tuple[Node, int], list[Node]] = {}
        for output, cotangent in zip(outputs, cotangents, strict=True):
            parts.setdefault((output, 0), []).append(cotangent)
        found: dict[Node, Node] = {}
        for node in reversed(order):
            total = self._collect(node, parts)
            if total is None:
                continue
            if node in asked and isinstance(total, Node):
                found[node] = total
            if node.primitive is not None:
                self._spread(node, total, parts, needed)
        return [found.get(node) for node in wanted]

    def _collect(self, node: Node, parts: dict[tuple[Node, int], list[Node]]) -> Any:
        """The cotangent of `node`: what came back over all its uses, summed."""
        if isinstance(node.type, Type):
            came_back = parts.pop((node, 0), None)
            return None if came_back is None else self.fan_out(node, came_back)
        slots = [parts.pop((node, index), None) for index in range(len(node.type))]
        if not any(slots):
            return None
        return tuple(
            self.fan_out(node, each) if each else self.ops.zeros(node.type[index])
            for index, each in enumerate(slots)
        )

    def _spread(
        self, node: Node, total: Any, parts: dict[tuple[Node, int], list[Node]], needed: set[Node]
    ) -> None:
        """Carry the cotangent of `node` to those of its operands that are on the way."""
        if node.name == ITEM:
            parts.setdefault((node.operands[0], node.attributes["index"]), []).append(total)
            return
        for index, cotangent in self.contributions(node, total, needed):
            parts.setdefault((node.operands[index], 0), []).append(cotangent)

    def contributions(self, node: Node, total: Any, needed: set[Node]) -> Iterator[tuple[int, Node]]:
        """(operand index, cotangent) for every operand in `needed` through which a derivative flows."""
        primitive = node.primitive
        assert primitive is not None
        joint = (
            None
            if isinstance(primitive.pullback, tuple) or primitive.pullback is None
            else primitive.pullback
        )
        together: Sequence[Node | None] | None = None
        for index, operand in enumerate(node.operands):
            if operand not in needed:
                continue
            with because(reason_of(node, index)):
                if joint is not None:
                    if together is None:
                        together = list(joint(self.ops, total, node, *node.operands, **node.attributes))
                    cotangent = together[index]
                else:
                    rule = primitive.rule(index)
                    cotangent = (
                        None
                        if rule is None
                        else rule(self.ops, total, node, *node.operands, **node.attributes)
                    )
                if cotangent is not None:
                    yield index, self.fit(node, index, cotangent, operand.type)

    def fan_out(self, node: Node, came_back: Sequence[Node]) -> Node:
        """The sum over all uses of `node`."""
        total = came_back[0]
        if len(came_back) > 1:
            with because(Origin("fan-out", node.layer, of=node)):
                for each in came_back[1:]:
                    total = self.ops.add(total, each)
        return total

    def fit(self, node: Node, index: int, cotangent: Node, wanted: Type) -> Node:
        """Sum a cotangent over the axes along which the operand was broadcast."""
        if cotangent.shape != wanted.shape:
            cotangent = unbroadcast(self.ops, cotangent, wanted.shape)
        if cotangent.dtype != wanted.dtype:
            raise GraphError(
                f"the pullback of {node.name} through operand {index} gave {cotangent.type}, not {wanted}"
            )
        return cotangent


def unbroadcast(vocabulary: Ops, cotangent: Node, shape: tuple[int, ...]) -> Node:
    """Transpose of broadcasting: sum over the axes that broadcasting added or stretched."""
    extra = cotangent.ndim - len(shape)
    stretched = tuple(
        axis
        for axis in range(cotangent.ndim)
        if axis < extra or (shape[axis - extra] == 1 and cotangent.shape[axis] != 1)
    )
    if stretched:
        cotangent = vocabulary.sum(cotangent, axis=stretched, keepdims=True)
    return cotangent if cotangent.shape == shape else vocabulary.reshape(cotangent, shape)


def reason_of(node: Node, operand: int | None = None) -> Origin:
    """The origin of what the pullback of `node` through `operand` makes."""
    first = node.origins[0] if node.origins else Origin()
    return Origin("pullback", node.layer, first.file, first.line, node, operand)


def _on_the_way(outputs: Sequence[Node], asked: set[Node]) -> list[Node]:
    """Nodes between `asked` and `outputs` through which a derivative can flow, operands first."""
    kept: list[Node] = []
    members: set[Node] = set()
    for node in reachable(outputs):
        if node.floating and (node in asked or any(each in members for each in node.operands)):
            kept.append(node)
            members.add(node)
    return kept


walk = ReverseWalk()


def backward(output: Node, seed: Node) -> list[tuple[Any, Node]]:
    """(owner, cotangent) for every Parameter and every Tensor still held that `output` depends on."""
    owners: dict[Node, Any] = {}
    for node in reachable([output]):
        if node.status and node.floating and isinstance(node.type, Type):
            owner = node.cell if node.cell is not None else node.grad_owner and node.grad_owner()
            if owner is not None:
                owners[node] = owner
    with no_grad():
        cotangents = walk([output], [seed], list(owners))
    return [
        (owner, each) for owner, each in zip(owners.values(), cotangents, strict=True) if each is not None
    ]
