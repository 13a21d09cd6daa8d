"""Which operation made the first NaN or infinity: a graph run node by node, on the reference.

An operation is to blame that gives NaN where nothing it reads is NaN, or an infinity where nothing it reads
is infinite. What comes in, as data or as a constant such as the -inf of a mask, is nobody's fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, repeat
from typing import Any

import numpy as np

from chainrule.backends import numpy as reference
from chainrule.errors import NumericalError
from chainrule.graph import Array, Graph, Node, format_type
from chainrule.loops import SCAN
from chainrule.schedule.reasons import line_of

NAN, INFINITE = 1, 2
"""Bits that say what there is among some numbers."""
NAMES = {NAN: "nan", INFINITE: "inf", NAN | INFINITE: "nan and inf"}
_LISTED = 4  # operands whose values are told

_CURES = {
    "log": "A logarithm needs numbers above 0: clip them, or stay with logarithms (log_softmax, logaddexp).",
    "exp": "float32 holds numbers up to 3.4e38, which is exp(88.7): subtract the largest first, as softmax "
    "and logsumexp do.",
    "sqrt": "A root needs numbers from 0 on, and its derivative at 0 is infinite: add a small number inside.",
    "divide": "Divide by max(x, epsilon), or choose both branches with where before dividing.",
    "pow": "A power of a number below 0 needs a whole exponent, and one of 0 a positive exponent.",
}
_ANY_CURE = "A smaller learning rate, clip_norm or scaled inputs keep numbers in range."


def cure_of(operation: str) -> str:
    """What keeps an operation from making NaN or infinity."""
    return _CURES.get(operation, _ANY_CURE)


@dataclass(frozen=True)
class Fault:
    """An operation that made NaN or infinity.

    kind       NAN, INFINITE or both, none of which its operands have
    position   of the first such element
    operands   the values it read
    iteration  which run of a loop's body, None outside of loops
    """

    node: Node
    kind: int
    position: tuple[int, ...]
    operands: tuple[Array, ...]
    iteration: int | None = None

    def error(self, also: str = "") -> NumericalError:
        """What to tell the user: the operation, the line, the layer, the element, the operands, a cure."""
        node = self.node
        turn = "" if self.iteration is None else f" in iteration {self.iteration} of the loop"
        where = f"element {self.position} of {format_type(node.type)}" if self.position else "its result"
        return NumericalError(
            f"{node.name} made {NAMES[self.kind]}{place_of([node])}: {where}{turn}, where it reads "
            f"{self._read()}. None of that is {NAMES[self.kind].replace('and', 'or')}.{also} "
            f"{cure_of(node.name)}"
        )

    def _read(self) -> str:
        """The operands at the position; where an element is made of many, their range."""
        primitive = self.node.primitive
        told = []
        for value in self.operands[:_LISTED]:
            if primitive is not None and primitive.elementwise:
                told.append(f"{np.broadcast_to(value, self.node.shape)[self.position]!s}")
            elif value.dtype.kind == "f" and value.size:
                told.append(f"numbers from {np.nanmin(value):.4g} to {np.nanmax(value):.4g}")
        return " and ".join(told) or "nothing"


def place_of(nodes: Iterable[Node]) -> str:
    """`` at train.py:12, in layer head, in the pullback of log``: what is known of where nodes come from."""
    found: dict[str, None] = {}
    for node in nodes:
        line = line_of(node, whole_path=True)
        if line:
            found[f"at {line}"] = None
        if node.layer:
            found[f"in layer {node.layer}"] = None
        for origin in node.origins[:1]:
            if origin.of is not None:
                found[f"in the {origin.role} of {origin.of.name}"] = None
    return f" {', '.join(found)}" if found else ""


def kinds(value: Any) -> int:
    """What there is in an array, or in a tuple of them, of NaN and infinity."""
    if isinstance(value, tuple | list):
        found = 0
        for each in value:
            found |= kinds(each)
        return found
    array = np.asarray(value)
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return 0
    return (NAN if np.isnan(array).any() else 0) | (INFINITE if np.isinf(array).any() else 0)


def first_fault(graph: Graph, values: Sequence[Any], kernels: Iterable[Iterable[Node]]) -> Fault | None:
    """The first operation of `graph` whose NaN or infinity is seen outside of its kernel.

    kernels  the nodes of each. What is made in one and selected away again there does not count
    None if there is no such thing when the graph is run on `values` by the reference.
    """
    homes: dict[Node, set[int]] = {}
    for number, nodes in enumerate(kernels):
        for node in nodes:
            homes.setdefault(node, set()).add(number)
    return _found(_Search(homes), graph, values)


def fault_of(graph: Graph, values: Sequence[Any]) -> Fault | None:
    """The first operation to blame when `graph` is run on `values`, every node seen by itself."""
    return _found(_Search(None), graph, values)


def _found(search: _Search, graph: Graph, values: Sequence[Any]) -> Fault | None:
    try:
        with np.errstate(all="ignore"):
            search.run(graph, values)
    except _FoundError as found:
        return found.fault
    return None


def run_checked(graph: Graph, values: Sequence[Any]) -> list[Array]:
    """The outputs of a graph, as arrays of their own; `NumericalError` at the first operation to blame."""
    try:
        with np.errstate(all="ignore"):
            outputs = _Search(None).run(graph, values)
    except _FoundError as found:
        raise found.fault.error() from None
    arrays = [np.array(each, order="C") for each in outputs]
    for each in arrays:
        each.setflags(write=False)
    return arrays


class CheckedReference(reference.Executable):
    """The reference backend, node by node; raises `NumericalError` at the first operation to blame."""

    def __call__(self, values: Sequence[Any]) -> list[Array]:
        return run_checked(self.traced, values)

    def run(self, values: Sequence[Any]) -> list[Array]:
        return run_checked(self.traced, values)


class _FoundError(Exception):
    def __init__(self, fault: Fault) -> None:
        self.fault = fault


class _Search:
    """Runs graphs; `homes`: the kernels that compute each node. None: every node is seen from outside."""

    def __init__(self, homes: Mapping[Node, set[int]] | None) -> None:
        self._homes = homes

    def run(self, graph: Graph, values: Sequence[Any], iteration: int | None = None) -> tuple[Any, ...]:
        known: dict[Node, Any] = dict(zip(graph.inputs, map(np.asarray, values), strict=True))
        kinds_: dict[Node, int] = {node: kinds(value) for node, value in known.items()}
        faults: dict[Node, Fault] = {}
        seen = self._seen_outside(graph)
        for node in graph.nodes:
            if node in known:
                continue
            if node.primitive is None:
                known[node], kinds_[node] = node.value, kinds(node.value)
                continue
            known[node] = self._computed(node, [known[each] for each in node.operands])
            kinds_[node] = kinds(known[node])
            fault = self._fault(node, known, kinds_, faults, iteration)
            if fault is not None:
                faults[node] = fault
                if node in seen and self._together(fault.node, node):
                    raise _FoundError(fault)
        return tuple(known[node] for node in graph.outputs)

    def _together(self, one: Node, other: Node) -> bool:
        """True for a node and itself, and for two of the same kernel."""
        if self._homes is None or one is other:
            return one is other
        return not self._homes.get(one, set()).isdisjoint(self._homes.get(other, set()))

    def _seen_outside(self, graph: Graph) -> set[Node]:
        """The nodes whose values leave their kernel."""
        if self._homes is None:
            return set(graph.nodes)
        found = {node for node in graph.outputs if node in self._homes}
        for node in graph.nodes:
            found.update(
                each for each in node.operands if each in self._homes and not self._together(each, node)
            )
        return found

    def _computed(self, node: Node, operands: Sequence[Any]) -> Any:
        assert node.primitive is not None
        attributes = {
            name: _Body(value, self, node.name == SCAN.name) if isinstance(value, Graph) else value
            for name, value in node.attributes.items()
        }
        return node.primitive.meaning(np, *operands, **attributes)

    @staticmethod
    def _fault(
        node: Node, known: Mapping[Node, Any], kinds_: Mapping[Node, int], faults: Mapping[Node, Fault],
        iteration: int | None,
    ) -> Fault | None:  # fmt: skip
        """Who is to blame for what is wrong with a node: itself, or somebody before it."""
        wrong = kinds_[node]
        if not wrong:
            return None
        read = kinds([each for each in node.attributes.values() if isinstance(each, float)])
        for each in node.operands:
            read |= kinds_[each]
        if wrong & ~read and not isinstance(known[node], tuple):
            operands = tuple(np.asarray(known[each]) for each in node.operands)
            position = first_place(np.asarray(known[node]), wrong & ~read)
            return Fault(node, wrong & ~read, position, operands, iteration)
        return next((faults[each] for each in node.operands if each in faults), None)


class _Body:
    """A sub-graph in the place of the one in an attribute of a node such as `scan`."""

    def __init__(self, graph: Graph, search: _Search, repeats: bool) -> None:
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self._graph, self._search = graph, search
        self._runs = count() if repeats else repeat(None)

    def evaluate(self, xp: Any, *values: Any) -> tuple[Any, ...]:
        """What `Graph.evaluate` gives."""
        return self._search.run(self._graph, values, next(self._runs))


def first_place(value: Array, kind: int) -> tuple[int, ...]:
    """The indices of the first element of a kind."""
    wrong = np.zeros(value.shape, bool)
    if kind & NAN:
        wrong |= np.isnan(value)
    if kind & INFINITE:
        wrong |= np.isinf(value)
    return tuple(int(each) for each in np.argwhere(wrong)[0])
