"""Tracing: a Python function becomes a graph.

Inside a *program* trace (`cr.compile`, a Trainer's step) cells are not constants: reading one makes an input
of the graph, assigning one makes an output. The result is a pure program with its state in and out.
The body of a `scan` or `checkpoint` is traced as a *sub-graph*: whatever it takes from outside becomes an
operand of the node that holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule.errors import TraceError
from chainrule.graph import ABSTRACT, KEEPS_HISTORY, Graph, Node, constant, released, substitute
from chainrule.ops import as_node, recording
from chainrule.origin import at_user_line, layer_origins
from chainrule.tensor import Cell, Tensor, frame
from chainrule.tree import Structure, flatten, unflatten
from chainrule.types import Type
from chainrule.verify import verify

traces: ContextVar[tuple[Trace, ...]] = ContextVar("chainrule_traces", default=())
"""The traces that are running now, outermost first."""


class Trace:
    """One function being traced; nodes made in it die with it."""

    def __init__(self) -> None:
        self.level = len(traces.get())
        self.open = True
        self.read_cells: dict[Cell, Node] = {}
        self.written_cells: dict[Cell, Node] = {}

    def input(self, type_: Type, label: str = "") -> Node:
        """A leaf that stands for a value the graph will be given."""
        return Node(None, (), {}, type_, None, layer_origins(), ABSTRACT, self, label)

    def check_open(self, operation: str) -> None:
        """Raise for a value that is used after its function was traced."""
        if not self.open:
            raise TraceError(
                f"{operation} was given a traced value that escaped from its function{at_user_line()}: it "
                "has no value outside. Return it from the traced function instead of storing it, or keep "
                "state in a Buffer"
            )

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the function runs, this trace is the innermost and answers for cells.

        A graph does not depend on where it was traced, so recording is on, whatever surrounds the block.
        """
        token = traces.set((*traces.get(), self))
        try:
            with frame(self), recording(True):
                yield
        finally:
            self.open = False
            traces.reset(token)

    def read(self, cell: Cell) -> Node | None:
        """What stands for `cell`: what was written here, else whatever surrounds this trace says."""
        return self.written_cells.get(cell)

    def write(self, cell: Cell, node: Node) -> bool:
        """Take note of a new value of `cell`."""
        self.written_cells[cell] = node
        return True


class ProgramTrace(Trace):
    """The trace of a whole program: cells become its inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.assumptions: dict[tuple[int, str], tuple[Any, str, Any]] = {}

    def read(self, cell: Cell) -> Node:
        """The input that stands for `cell`, or what was written."""
        if cell in self.written_cells:
            return self.written_cells[cell]
        if cell not in self.read_cells:
            self.read_cells[cell] = self.input(cell.type, cell.name)
        return self.read_cells[cell]

    def write(self, cell: Cell, node: Node) -> bool:
        """The new value of `cell` becomes an output; a cell that is written is an input too."""
        self.read(cell)
        return super().write(cell, node)


class LoopTrace(Trace):
    """The trace of a function that runs many times (`scan`, `vmap`): its state has to be passed along."""

    def __init__(self, transform: str) -> None:
        super().__init__()
        self.transform = transform

    def write(self, cell: Cell, node: Node) -> bool:
        """Refuse."""
        raise TraceError(
            f"{cell.describe()} is assigned inside the function given to {self.transform}{at_user_line()}: "
            "it stands for all its runs at once. Return the value (from scan, as part of the carry) and "
            "assign it afterwards; for random numbers, open cr.random.stream(key) in the function, with a "
            "key of each run"
        )


def assume(owner: Any, attribute: str) -> Any:
    """``owner.attribute``, a Python fact on which the program that is being traced depends.

    A compiled function checks the facts it was traced under and is traced anew when one has changed: this is
    how ``model.eval()`` reaches a function that was compiled in training mode.
    """
    value = getattr(owner, attribute)
    for trace in traces.get():
        if isinstance(trace, ProgramTrace):
            trace.assumptions[id(owner), attribute] = (owner, attribute, value)
    return value


def inside_trace() -> bool:
    """True while any function is being traced."""
    return bool(traces.get())


def inside_program(since: Sequence[Trace] = ()) -> bool:
    """True while a program is being traced; `since` names traces that do not count."""
    return any(isinstance(trace, ProgramTrace) and trace not in since for trace in traces.get())


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
    assumptions: tuple[tuple[Any, str, Any], ...] = ()

    @property
    def holds(self) -> bool:
        """False once a cell has changed its dtype, or a fact that was assumed in tracing has changed."""
        cells = zip(self.read, self.graph.inputs[self.arguments :], strict=True)
        return all(cell.type == node.type for cell, node in cells) and all(
            getattr(owner, attribute) == value for owner, attribute, value in self.assumptions
        )

    def arrays(self, arguments: Sequence[Any]) -> list[Any]:
        """The values of all inputs, cells as they are now."""
        return [*arguments, *(cell.numpy() for cell in self.read)]

    def results(self, values: Sequence[Any]) -> Any:
        """Put the new values into the cells and return what the function returned, as arrays.

        `values` are what a backend's executable returned: arrays that nobody else holds.
        """
        count = self.structure.leaves
        for cell, value in zip(self.written, values[count:], strict=True):
            cell.assign(constant(np.asarray(value)))
        return unflatten(self.structure, values[:count])


def own(value: Any) -> Any:
    """An array that nobody else writes to, as a read-only NumPy array."""
    array = np.asarray(value)
    array.flags.writeable = False
    return array


def trace_program(function: Callable[..., Any], types: Sequence[Type], labels: Sequence[str] = ()) -> Program:
    """Trace ``function(*tensors)``; the tensors stand for values of the given types."""
    trace = ProgramTrace()
    names = [*labels, *[""] * (len(types) - len(labels))]
    inputs = [trace.input(type_, name) for type_, name in zip(types, names, strict=True)]
    with trace.running():
        result = function(*(Tensor(node) for node in inputs))
        leaves, structure = flatten(result)
        outputs = [as_node(leaf) for leaf in leaves]
    written = trace.written_cells
    graph = Graph((*inputs, *trace.read_cells.values()), (*outputs, *written.values()))
    graph = _set_free(graph, trace)
    verify(graph)
    assumptions = tuple(trace.assumptions.values())
    return Program(graph, len(inputs), tuple(trace.read_cells), tuple(written), structure, assumptions)


def _set_free(graph: Graph, trace: Trace) -> Graph:
    """`graph` set free from `trace`, with the values it took from outside as constants.

    What those were computed from is no part of the program.
    """
    outside = _frontier(graph.outputs, trace)
    replaced = {node: constant(node.value) for node in outside if node.primitive is not None}
    return substitute(graph, replaced | {node: released(node) for node in graph.inputs})


@dataclass(frozen=True, eq=False)
class Body:
    """A traced sub-graph: its graph takes the arguments, then the values of `captured` outer nodes.

    Outputs are the leaves of the result, then the new values of `written` cells.
    """

    graph: Graph
    captured: tuple[Node, ...]
    structure: Structure
    written: tuple[Cell, ...] = ()


def trace_body(function: Callable[..., Any], types: Sequence[Type], trace: Trace | None = None) -> Body:
    """Trace a function of Tensors into a sub-graph."""
    trace = trace or Trace()
    inputs = [trace.input(type_) for type_ in types]
    with trace.running():
        leaves, structure = flatten(function(*(Tensor(node) for node in inputs)))
        outputs = [as_node(leaf) for leaf in leaves]
    graph, captured = close(inputs, [*outputs, *trace.written_cells.values()], trace)
    return Body(graph, captured, structure, tuple(trace.written_cells))


def close(inputs: Sequence[Node], outputs: Sequence[Node], trace: Trace) -> tuple[Graph, tuple[Node, ...]]:
    """The graph behind `outputs`, cut at everything that was not made in `trace`; and what was cut off."""
    outside = _frontier(outputs, trace)
    captured = [node for node in outside if node.status == ABSTRACT or node.status in KEEPS_HISTORY]
    whole = Graph((*inputs, *captured), tuple(outputs))
    return substitute(whole, {node: released(node) for node in whole.inputs}), tuple(captured)


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
            if node.trace is not None:
                node.trace.check_open("the result of a traced function")
            seen[node] = None
    return sorted(seen, key=lambda node: node.serial)
