"""Reverse mode: the one backward walk.

A cotangent at an output is carried to every operand by that operand's pullback; where a value fans out, the
cotangents that come back are summed. Pullbacks are written with `ops`, so the walk computes on values and
builds on traced nodes, and walking twice gives second derivatives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from chainrule.errors import GradientError, GraphError
from chainrule.graph import CONSTANT, ITEM, PLAIN, Node, reachable
from chainrule.ops import Ops, no_grad, ops
from chainrule.origin import Origin, at_user_line, because
from chainrule.primitive import Primitive
from chainrule.types import Shape, Type


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
        """The cotangent of `node`: what came back over all its uses, summed; None where nothing came back."""
        if isinstance(node.type, Type):
            came_back = parts.pop((node, 0), None)
            return None if came_back is None else self.fan_out(node, came_back)
        slots = [parts.pop((node, index), None) for index in range(len(node.type))]
        if not any(slots):
            return None
        return tuple(self.fan_out(node, each) if each else None for each in slots)

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
        together: Sequence[Node | None] | None = None
        for index, operand in enumerate(node.operands):
            if operand not in needed:
                continue
            with because(reason_of(node, index)):
                if callable(joint := _record(node).pullback):
                    if together is None:
                        together = list(joint(self.ops, total, node, *node.operands, **node.attributes))
                    cotangent = together[index]
                else:
                    rule = _record(node).rule(index)
                    cotangent = rule and rule(self.ops, total, node, *node.operands, **node.attributes)
                fitted = None if cotangent is None else self.fit(node, index, cotangent, operand.type)
            if fitted is not None:
                yield index, fitted

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
        if cotangent.shape != wanted.shape and _broadcasts(wanted.shape, cotangent.shape):
            cotangent = unbroadcast(self.ops, cotangent, wanted.shape)
        if cotangent.type != wanted:
            raise GraphError(
                f"the pullback of {node.name} through operand {index} gave {cotangent.type}, not {wanted}"
            )
        return cotangent


def _record(node: Node) -> Primitive:
    assert node.primitive is not None
    return node.primitive


def _broadcasts(shape: Shape, to: Shape) -> bool:
    """True when NumPy would repeat an array of `shape` to the shape `to`."""
    extra = len(to) - len(shape)
    return extra >= 0 and all(a in (1, b) for a, b in zip(shape, to[extra:], strict=True))


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


def check_backward(node: Node, *, seeded: bool) -> None:
    """Say what to do about a Tensor that has no gradient to give."""
    if not node.floating:
        raise GradientError(
            f"backward() on a Tensor of {node.dtype}{at_user_line()}: integers and booleans have no "
            "derivative. Compute the loss in floating point (x.astype('float32'))"
        )
    if node.value is None:
        raise GradientError(
            f"backward() inside a function that is being traced{at_user_line()}: there is no value to walk "
            "back from yet. Write cr.value_and_grad(loss)(model, ...), which works eagerly and traced"
        )
    if node.shape != () and not seeded:
        raise GradientError(
            f"backward() on a Tensor of shape {node.shape}{at_user_line()}: only a scalar has one gradient. "
            "Reduce it first, for example cr.mean(loss).backward(), or pass gradient= of the same shape"
        )
    if node.status == PLAIN:
        raise GradientError(
            f"backward() on a plain value{at_user_line()}: it was computed from the result of a finished "
            "cr.grad(...), cr.vjp(...) or cr.compile(...), which carries no history. Differentiate the "
            "whole computation with cr.grad, or start a new history with cr.asarray(value)"
        )
    if node.status == CONSTANT:
        raise GradientError(
            f"backward() on a constant{at_user_line()}: nothing it was computed from keeps history (it was "
            "detached, made inside cr.no_grad(), or made from NumPy arrays alone). Wrap the inputs with "
            "cr.asarray(...)"
        )
