"""Loops: a `scan` as kernels that repeat.

What a scan goes through lies in memory as rows, one behind the other, and windows move along them. The body
writes its results into rows. A carry is read from one row and written to the next: two rows take turns,
unless somebody needs the carries of all iterations, as the backward pass does. So nothing is ever copied but
the carry that the loop begins with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from chainrule.graph import Graph, Node
from chainrule.schedule.kernels import Buffer, Repeat, View, Window, Work, read_and_written
from chainrule.schedule.layouts import Layout
from chainrule.schedule.moves import copy
from chainrule.schedule.views import ROW, has_room, span

LowerBody = Callable[[Graph, Sequence[View], Sequence[View]], Sequence[Work]]
"""Makes the kernels of a graph whose inputs lie in some places and whose outputs shall lie in others."""


def lower_scan(
    node: Node, operands: Sequence[View], asked: Mapping[int, Layout], lower_body: LowerBody
) -> tuple[list[Work], dict[int, View]]:
    """The kernels of a scan whose operands lie in some places, and where its outputs lie.

    asked  the outputs that somebody uses, by number, and how these are best laid out
    """
    scan = _Scan(node, asked)
    carries, sequences = node.attributes["carries"], node.attributes["sequences"]
    kernels: list[Work] = [
        copy(initial, scan.carry(number), (node,)) for number, initial in enumerate(operands[:carries])
    ]
    for rows in operands[carries : carries + sequences]:
        scan.sequence(rows)
    for number in sorted(asked.keys() - scan.found.keys()):
        scan.result(number)
    if scan.length and scan.values:
        body = Graph(scan.graph.inputs, tuple(scan.values))
        inside = lower_body(body, [*scan.inputs, *operands[carries + sequences :]], scan.targets)
        touched = set().union(*(each for kernel in inside for each in read_and_written(kernel)))
        windows = tuple(each for each in scan.windows if each.buffer in touched)
        kernels.append(Repeat(scan.length, tuple(inside), windows, (node,)))
    return kernels, scan.found


class _Course(NamedTuple):
    """The rows that a window shows: `first`, `first + step`, …, and again from the first after `period`."""

    first: int
    step: int
    period: int


class _Scan:
    """Where everything lies that a scan goes through.

    inputs   what an iteration sees of carries and sequences
    values   outputs of the body; `targets`: where an iteration puts them
    found    the scan's own outputs, by number
    """

    def __init__(self, node: Node, asked: Mapping[int, Layout]) -> None:
        self.graph: Graph = node.attributes["graph"]
        self.length: int = node.attributes["length"]
        self._reverse, self._asked = node.attributes["reverse"], asked
        self._carries = node.attributes["carries"]
        self._name = node.layer.replace(".", "_") or "scan"
        self._of_rows = (*self.graph.outputs, *self.graph.inputs)
        self.windows: list[Window] = []
        self.inputs: list[View] = []
        self.values: list[Node] = []
        self.targets: list[View] = []
        self.found: dict[int, View] = {}

    def sequence(self, rows: View) -> None:
        """Go through the rows of an operand."""
        self.inputs.append(self._window("row", rows, self._along))

    def result(self, number: int) -> None:
        """Make the rows of an output, and have them filled."""
        value = self._of_rows[number]
        self.found[number] = rows = self._rows(value, self.length, self._asked[number])
        self._put(value, "row", rows, self._along)

    def carry(self, number: int) -> View:
        """Make rows for a carry; returns the one that holds its first value.

        Where all are kept, those results lie there as well that are the carry before or after an iteration.
        """
        old, new = self.graph.inputs[number], self.graph.outputs[number]
        before, after = self._results(old), self._results(new)
        kept = [self._asked[each] for each in (*before, *after)]
        if kept or self.length < 2:
            start, step = (self.length, -1) if self._reverse else (0, 1)
            rows = self._rows(old, self.length + 1, kept[0] if kept else None)
            read, written = (_Course(start + late * step, step, self.length) for late in (0, 1))
            last = start + self.length * step
            self.found.update({each: _part(rows, int(self._reverse), self.length) for each in before})
            self.found.update({each: _part(rows, int(not self._reverse), self.length) for each in after})
        else:
            rows = self._rows(old, 2, None)
            read, written, last = _Course(0, 1, 2), _Course(1, -1, 2), self.length % 2
        self.inputs.append(self._window("before", rows, read))
        self._put(new, "after", rows, written)
        self.found[number] = _row(rows, last)
        return _row(rows, read.first)

    def _results(self, value: Node) -> list[int]:
        """The outputs whose rows are the values of a node of the body, as far as they have no place yet."""
        numbers = [each for each in self._asked if each >= self._carries and each not in self.found]
        return [each for each in numbers if self._of_rows[each] is value]

    @property
    def _along(self) -> _Course:
        if self._reverse:
            return _Course(self.length - 1, -1, self.length)
        return _Course(0, 1, self.length)

    def _rows(self, value: Node, count: int, layout: Layout | None) -> View:
        shape = (count, *value.shape)
        layout = layout or Layout(tuple(range(len(shape))), True)
        strides = layout.strides(shape, value.dtype.itemsize)
        buffer = Buffer(f"{value.name}_{self._name}", value.dtype, shape, strides, span(shape, strides))
        return View(buffer, 0, shape, strides)

    def _put(self, value: Node, name: str, rows: View, course: _Course) -> None:
        self.values.append(value)
        self.targets.append(self._window(name, rows, course, _has_room_between(rows)))

    def _window(self, name: str, rows: View, course: _Course, slack: bool = True) -> View:
        """What an iteration sees of rows. Its buffer begins with the element that comes first in memory."""
        apart, strides, shape = rows.strides[0], rows.strides[1:], rows.shape[1:]
        ends = [max(n - 1, 0) * stride for n, stride in zip(shape, strides, strict=True)]
        low, high = (sum(pick(0, end) for end in ends) for pick in (min, max))
        source, slack = rows.buffer, slack and rows.buffer.slack
        size = -(-(high - low + 1) // ROW) * ROW if slack else high - low + 1
        buffer = Buffer(f"{source.name}_{name}", source.dtype, shape, strides, size, "window", slack=slack)
        offset = rows.offset + low + course.first * apart
        self.windows.append(Window(buffer, source, offset, course.step * apart, course.period))
        return View(buffer, -low, shape, strides)


def _row(rows: View, number: int) -> View:
    return View(rows.buffer, rows.offset + number * rows.strides[0], rows.shape[1:], rows.strides[1:])


def _part(rows: View, start: int, count: int) -> View:
    """`count` rows of an array."""
    offset = rows.offset + start * rows.strides[0]
    return View(rows.buffer, offset, (count, *rows.shape[1:]), rows.strides)


def _has_room_between(rows: View) -> bool:
    """Whether vectors may be stored beyond the end of a row: not into the next, which may be written."""
    inner = zip(rows.shape[1:], rows.strides[1:], strict=True)
    return has_room(rows) and any(extent > 1 and stride == 1 for extent, stride in inner)
