"""Tracing: a Python function becomes a graph.

Inside a *program* trace (`cr.compile`, a Trainer's step) cells are not constants: reading one makes an input
of the graph, assigning one makes an output. The result is a pure program with its state in and out.
The body of a `scan` or `checkpoint` is traced as a *sub-graph*: whatever it takes from outside becomes an
operand of the node that holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from chainrule.errors import TraceError
from chainrule.graph import ABSTRACT, ACTIVE, OWNED, TRACKED, Graph, Node, substitute
from chainrule.ops import _at_user_line, as_array, as_node
from chainrule.primitive import Primitive
from chainrule.tensor import Cell, Tensor, frame, traces
from chainrule.tree import Structure, flatten, unflatten
from chainrule.types import Type


class Trace:
    """One function being traced; nodes made in it die with it."""

    def __init__(self) -> None:
        self.level = len(traces.get())
        self.open = True
        self.read_cells: dict[Cell, Node] = {}
        self.written_cells: dict[Cell, Node] = {}

    def input(self, type_: Type, label: str = "") -> Node:
        return Node(None, (), {}, type_, status=ABSTRACT, trace=self, label=label)

    def check_open(self, primitive: Primitive) -> None:
        if not self.open:
            raise TraceError(
                f"{primitive.name} was given a traced value that escaped from its function{_at_user_line()}: it has no "
                "value outside. Return it from the traced function instead of storing it, or keep state in a Buffer"
            )

    # A program trace is the frame that answers for every cell.
    def read(self, cell: Cell) -> Node:
        if cell in self.written_cells:
            return self.written_cells[cell]
        if cell not in self.read_cells:
            self.read_cells[cell] = self.input(cell.type, cell.name)
        return self.read_cells[cell]

    def write(self, cell: Cell, node: Node) -> bool:
        self.read(cell)  # so that a cell that is written is an input too
        self.written_cells[cell] = node
        return True


@dataclass(frozen=True, eq=False)
class Program:
    """A traced function: a pure graph and what its inputs and outputs are.

    inputs:  the argument leaves, then `read` cells;
    outputs: the result leaves, then the new values of `written` cells.
    """

    graph: Graph
    arguments: int
    read: tuple[Cell, ...]
    written: tuple[Cell, ...]
    structure: Structure

    def arrays(self, arguments: Sequence[Any]) -> list[Any]:
        """The values of all inputs, cells as they are now."""
        return [*arguments, *(cell.numpy() for cell in self.read)]

    def results(self, values: Sequence[Any]) -> Any:
        """Put the new values into the cells and return what the function returned, as arrays."""
        count = self.structure.leaves
        for cell, value in zip(self.written, values[count:], strict=True):
            cell.assign(value)
        return unflatten(self.structure, values[:count])


def trace_program(function: Callable[..., Any], types: Sequence[Type], labels: Sequence[str] = ()) -> Program:
    """Trace ``function(*tensors)``; the tensors stand for values of the given types."""
    trace = Trace()
    names = [*labels, *[""] * (len(types) - len(labels))]
    inputs = [trace.input(type_, name) for type_, name in zip(types, names, strict=True)]
    token = traces.set((*traces.get(), trace))
    try:
        with frame(trace):
            result = function(*(Tensor(node) for node in inputs))
            leaves, structure = flatten(result)
            outputs = [as_node(leaf) for leaf in leaves]
    finally:
        trace.open = False
        traces.reset(token)
    graph = Graph((*inputs, *trace.read_cells.values()), (*outputs, *trace.written_cells.values()))
    return Program(graph, len(inputs), tuple(trace.read_cells), tuple(trace.written_cells), structure)


@dataclass(frozen=True, eq=False)
class Body:
    """A traced sub-graph: its graph takes the arguments, then the values of `captured` outer nodes."""

    graph: Graph
    captured: tuple[Node, ...]
    structure: Structure


def trace_body(function: Callable[..., Any], types: Sequence[Type]) -> Body:
    """Trace a function of Tensors into a sub-graph."""
    trace = Trace()
    inputs = [trace.input(type_) for type_ in types]
    token = traces.set((*traces.get(), trace))
    try:
        leaves, structure = flatten(function(*(Tensor(node) for node in inputs)))
        outputs = [as_node(leaf) for leaf in leaves]
    finally:
        trace.open = False
        traces.reset(token)
    return close(tuple(inputs), tuple(outputs), trace, structure)


def close(inputs: tuple[Node, ...], outputs: tuple[Node, ...], trace: Trace, structure: Structure) -> Body:
    """Cut the graph behind `outputs` at everything that was not made in `trace`."""
    captured: dict[Node, Node] = {}
    outside = [
        node for node in _frontier(outputs, trace) if node.status in (TRACKED, ACTIVE, OWNED, ABSTRACT)
    ]
    for node in outside:
        captured[node] = trace.input(node.type, node.label)
    whole = Graph((*inputs, *outside), outputs)
    graph = substitute(whole, dict(captured))
    return Body(Graph((*inputs, *captured.values()), graph.outputs), tuple(captured), structure)


def _frontier(outputs: Sequence[Node], trace: Trace) -> list[Node]:
    """The nodes outside of `trace` that its nodes (or its outputs) use directly."""
    seen: dict[Node, None] = {}
    pending, entered = list(outputs), set()
    while pending:
        node = pending.pop()
        if node in entered:
            continue
        entered.add(node)
        if node.trace is trace:
            pending.extend(node.operands)
        else:
            seen[node] = None
    return sorted(seen, key=lambda node: node.serial)


def leaf_types(leaves: Sequence[Any]) -> list[Type]:
    """The types of values, Tensors or nodes."""
    return [node_type(leaf) for leaf in leaves]


def node_type(leaf: Any) -> Type:
    node = getattr(leaf, "node", None)
    if isinstance(node, Node):
        return node.type  # type: ignore[no-any-return]
    array = as_array(leaf)
    return Type(array.shape, array.dtype)
