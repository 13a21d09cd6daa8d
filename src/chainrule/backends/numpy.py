"""The reference backend: a graph as one straight-line Python function of NumPy calls.

The first run watches what the meanings ask NumPy to do (`recording`), plans where results go (`memory`) and
writes that down as Python (`source`); every further run is that function. Its results are, bit for bit, those
of running the meanings one after the other. NumPy sums in the order of memory, so there is one function for
each memory layout of the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from traceback import walk_tb
from types import TracebackType
from typing import Any

import numpy as np

from chainrule import passes
from chainrule.backends.memory import is_handed_over, plan
from chainrule.backends.recording import Recorder, Watched
from chainrule.backends.source import Source, Writer
from chainrule.control import ITEM_OF
from chainrule.errors import BoundsError, GraphError
from chainrule.graph import Array, Graph, Node, describe

_FILE = "<chainrule program>"
_LAYOUTS = 8
"""Layouts of the inputs for which a function is kept; inputs of any further layout are interpreted."""


class Executable:
    """A graph made ready to run: arrays for its inputs in, fresh read-only arrays for its outputs out.

    May be called from several threads at once: each call has an arena of its own.
    """

    def __init__(self, graph: Graph) -> None:
        self.traced = graph
        self.graph = passes.simplify(graph)
        self._bodies = {each: Body(each) for node in self.graph.nodes for each in _subgraphs(node).values()}
        self._programs: dict[Any, _Program] = {}

    def __call__(self, values: Sequence[Any]) -> list[Array]:
        with np.errstate(all="ignore"):  # NaN and inf are values of a program, as on every backend
            return self.run(values)

    def run(self, values: Sequence[Any]) -> list[Array]:
        """The call itself, for a caller that has told NumPy what to do about NaN and inf."""
        layout = tuple([value.strides for value in values])
        program = self._programs.get(layout)
        return self._first(layout, values) if program is None else program(values)

    def _first(self, layout: Any, values: Sequence[Any]) -> list[Array]:
        """Run by the meanings and keep what was done for the next time."""
        if len(values) != len(self.graph.inputs):
            wanted = len(self.graph.inputs)
            raise GraphError(f"the graph has {wanted} inputs but was given {len(values)} values")
        recorder = Recorder()
        inputs = [recorder.input(np.asarray(value)) for value in values]
        outputs = self._interpreted(recorder, inputs)
        if len(self._programs) < _LAYOUTS:
            self._programs[layout] = _Program(recorder, inputs, outputs)
        return [_own(each) for each in outputs]

    def _interpreted(self, recorder: Recorder, inputs: Sequence[Watched]) -> list[Any]:
        """Run the meanings one after the other on watched arrays."""
        known: dict[Node, Any] = dict(zip(self.graph.inputs, inputs, strict=True))
        for node, dead in self.graph.steps:
            if node.primitive is None:
                known[node] = node.value
            elif node.primitive is ITEM_OF:
                known[node] = known[node.operands[0]][node.attributes["index"]]
            else:
                known[node] = self._computed(recorder, node, [known[each] for each in node.operands])
            for each in dead:
                del known[each]
        return [known[node] for node in self.graph.outputs]

    def _computed(self, recorder: Recorder, node: Node, operands: Sequence[Any]) -> Any:
        assert node.primitive is not None
        bodies = {name: self._bodies[each] for name, each in _subgraphs(node).items()}
        meaning = partial(_applied, node.primitive.meaning, {**node.attributes, **bodies})
        try:
            return (
                recorder.opaque(node, meaning, operands) if bodies else recorder.run(node, meaning, operands)
            )
        except IndexError as error:
            raise BoundsError(f"{describe(node)}: {error}") from None

    def show(self, what: str) -> str:
        """As text: "python" (what runs), "simplified" (the graph after the passes) or "passes"."""
        match what:
            case "python":
                texts = [program.source.text for program in self._programs.values()]
                return "\n\n".join(texts) or "# written in the first run\n"
            case "simplified":
                return str(self.graph)
            case "passes":
                return passes.report(self.traced)
        raise ValueError(
            f"the numpy backend can show only 'graph', 'passes', 'simplified' and 'python', not {what!r}"
        )


class _Program:
    """The function for one layout of the inputs, and the arenas that are not in use."""

    def __init__(self, recorder: Recorder, inputs: Sequence[Watched], outputs: Sequence[Any]) -> None:
        results = [each.symbol if isinstance(each, Watched) else each for each in outputs]
        memory = plan(recorder.calls, results)
        self.source: Source = Writer(memory).write([each.symbol for each in inputs], recorder.calls, results)
        names = dict(self.source.names)
        exec(compile(self.source.text, _FILE, "exec"), names)
        self._run: Callable[..., list[Array]] = names["run"]
        self._arena: Callable[[], Any] = names["arena"]
        self._free: list[Any] = []

    def __call__(self, values: Sequence[Any]) -> list[Array]:
        try:
            arena = self._free.pop()  # atomic, so that threads need no lock
        except IndexError:
            arena = self._arena()
        try:
            return self._run(values, arena)
        except IndexError as error:
            raise BoundsError(f"{self._where(error.__traceback__)}{error}") from None
        finally:
            self._free.append(arena)

    def _where(self, traceback: TracebackType | None) -> str:
        lines = [line for frame, line in walk_tb(traceback) if frame.f_code.co_filename == _FILE]
        node = self.source.nodes.get(lines[-1]) if lines else None
        return "" if node is None else f"{describe(node)}: "


def _subgraphs(node: Node) -> dict[str, Graph]:
    return {name: value for name, value in node.attributes.items() if isinstance(value, Graph)}


def _applied(meaning: Callable[..., Any], attributes: dict[str, Any], xp: Any, *operands: Any) -> Any:
    return meaning(xp, *operands, **attributes)


class Body:
    """A sub-graph that is compiled, in the place of the graph in an attribute of a node such as `scan`."""

    def __init__(self, graph: Graph) -> None:
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self._execute = Executable(graph)

    def evaluate(self, xp: Any, *values: Any) -> tuple[Any, ...]:
        """What `Graph.evaluate` gives."""
        return tuple(self._execute.run(values))


def _own(value: Any) -> Array:
    """An output of the first run, as later runs hand it over."""
    watched = isinstance(value, Watched)
    given = value.array if watched else value
    array = given if watched and is_handed_over(value.symbol) else np.array(given, order="C")
    array.flags.writeable = False
    return array


def compile_graph(graph: Graph) -> Executable:
    """A function from the values of the graph's inputs to the values of its outputs."""
    return Executable(graph)
