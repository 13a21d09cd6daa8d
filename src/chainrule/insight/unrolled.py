"""Loops written out: a loss without `scan` and without the calls that `checkpoint` makes.

What stands inside of them is no node of its own until it is written out, step by step, with its values
computed again. Then it opens like everything else, and every node knows the step of the loop it belongs to.
A function with a derivative of its own (`custom_vjp`) stays one node: its inside is not what its derivative
says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chainrule.graph import ITEM, TRACKED, Array, Graph, Node, reachable
from chainrule.origin import Origin
from chainrule.primitive import Primitive
from chainrule.primitives.shape import CONCAT, RESHAPE, SLICE
from chainrule.types import Type

Times = tuple[int, ...]
"""The step of each loop around a node, outermost first."""


@dataclass(frozen=True)
class Unrolled:
    """A value and where it is now.

    output  the value, computed without loops
    known   node of the value that was given → node here, where that is another
    times   node → the steps of the loops around it; nothing outside of loops
    """

    output: Node
    known: dict[Node, Node]
    times: dict[Node, Times]


def unrolled(output: Node, values: bool = False) -> Unrolled:
    """Everything that a value was computed from, loops written out.

    values  it is for values only: a function with a derivative of its own is written out too
    """
    nodes = reachable([output])
    writer = _Writer(values)
    if any(map(writer.opens, nodes)):
        writer.write(nodes, ())
    known = {node: new for node, new in writer.known.items() if isinstance(new, Node) and new is not node}
    return Unrolled(known.get(output, output), known, writer.times)


@dataclass
class _Writer:
    """Nodes written so far, by those they stand for; a list in the place of a loop or a call."""

    values: bool
    known: dict[Node, Any] = field(default_factory=dict)
    times: dict[Node, Times] = field(default_factory=dict)

    def opens(self, node: Node) -> bool:
        """Whether a node holds a graph that computes what it stands for."""
        own = node.name == "call" and node.attributes.get("backward") is not None
        return node.name in ("scan", "call") and (self.values or not own)

    def write(self, nodes: Sequence[Node], time: Times) -> None:
        """Write nodes, operands first, anew where something they are made from is new."""
        for node in nodes:
            if node not in self.known:
                self.known[node] = self._written(node, time)

    def _written(self, node: Node, time: Times) -> Any:
        if node.primitive is None:
            return node
        operands = [self.known[each] for each in node.operands]
        if self.opens(node):
            inside = self._loop if node.name == "scan" else self._call
            return inside(node, operands, time)
        if node.name == ITEM and isinstance(operands[0], list):
            return operands[0][node.attributes["index"]]
        if node.value is not None and all(a is b for a, b in zip(operands, node.operands, strict=True)):
            return node
        return self._made(node.primitive, operands, node.attributes, time, node.origins, node.value)

    def _made(
        self,
        primitive: Primitive,
        operands: Sequence[Node],
        attributes: dict[str, Any],
        time: Times,
        origins: tuple[Origin, ...],
        value: Any = None,
    ) -> Node:
        """A node that keeps what it was made from, whatever that is."""
        if value is None:
            value = primitive.meaning(np, *(each.value for each in operands), **attributes)
            value = value if isinstance(value, tuple) else np.asarray(value)
        type_ = primitive.infer(*(each.type for each in operands), **attributes)
        made = Node(primitive, tuple(operands), attributes, type_, value, origins, TRACKED)
        if time:
            self.times[made] = time
        return made

    # -- what holds a graph --------------------------------------------------------------------------------
    def _inside(self, graph: Graph, given: Sequence[Node], time: Times) -> list[Node]:
        """The outputs of a graph for these inputs."""
        inner = _Writer(self.values, dict(zip(graph.inputs, given, strict=True)), self.times)
        inner.write(graph.nodes, time)
        return [inner.known[node] for node in graph.outputs]

    def _call(self, node: Node, operands: list[Node], time: Times) -> list[Node]:
        return self._inside(node.attributes["graph"], operands, time)

    def _loop(self, node: Node, operands: list[Node], time: Times) -> list[Node]:
        """One step after the other; the results of all steps are stacked, as `scan` does it."""
        known = node.attributes
        carries, length, graph = known["carries"], known["length"], known["graph"]
        ends = carries + known["sequences"]
        carry, series, captured = operands[:carries], operands[carries:ends], operands[ends:]
        rows = np.empty((len(graph.outputs) - carries, length), object)
        for t in reversed(range(length)) if known["reverse"] else range(length):
            now = (*time, t)
            elements = [self._element(each, t, now, node.origins) for each in series]
            outputs = self._inside(graph, [*carry, *elements, *captured], now)
            carry, rows[:, t] = outputs[:carries], outputs[carries:]
        values = node.value[carries:] if node.value else [None] * len(rows)
        types = node.type[carries:]
        results = zip(rows.tolist(), types, values, strict=False)  # without the history, for scan's pullback
        return [*carry, *(self._stacked(*each, time, node.origins) for each in results)]

    def _element(self, series: Node, t: int, time: Times, origins: tuple[Origin, ...]) -> Node:
        """Element t of a sequence."""
        shape = series.shape
        ends = {"start": (t, *(0 for _ in shape[1:])), "stop": (t + 1, *shape[1:]), "step": (1,) * len(shape)}
        cut = self._made(SLICE, [series], ends, time, origins)
        return self._made(RESHAPE, [cut], {"shape": shape[1:]}, time, origins)

    def _stacked(
        self, row: list[Node], type_: Type, value: Array | None, time: Times, origins: tuple[Origin, ...]
    ) -> Node:
        """One result of all steps."""
        if not row:
            return Node(None, (), {}, type_, np.zeros(type_.shape, type_.dtype))
        shape = (1, *type_.shape[1:])
        apart = [self._made(RESHAPE, [each], {"shape": shape}, time, origins) for each in row]
        return self._made(CONCAT, apart, {"axis": 0}, time, origins, value)
