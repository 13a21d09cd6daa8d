"""Lowering: a graph as a schedule of kernels.

Groups say what is computed together (`groups`); here they become kernels: values that leave their kernel get
a buffer, operands become accesses with strides, members become expressions of a statement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from chainrule.control import ITEM_OF
from chainrule.graph import Graph, Node, describe
from chainrule.loops import SCAN
from chainrule.nest import Nest, Read, itself, multiplied, nest_of
from chainrule.schedule.choices import lane_of, rows_of, vector_axis
from chainrule.schedule.groups import Grouping, contraction_of
from chainrule.schedule.joining import Group
from chainrule.schedule.kernels import (
    ALWAYS,
    Access,
    Buffer,
    Contraction,
    Expression,
    Loops,
    Schedule,
    Special,
    Statement,
    Unsupported,
    View,
    Work,
    read_and_written,
)
from chainrule.schedule.layouts import Layouts
from chainrule.schedule.looking import replaces
from chainrule.schedule.moves import copy, fill, part_of, total
from chainrule.schedule.products import affine, as_loops, positions
from chainrule.schedule.scans import lower_scan
from chainrule.schedule.statements import Builder
from chainrule.schedule.views import (
    base_of,
    dense_strides,
    itself_of,
    seen_through,
    span,
    strides_along,
)

SPECIAL = frozenset(
    (
        "gather", "scatter", "checked_indices", "argmax", "argmin", "argsort", "cumulative_sum", "fold_in",
        "random_bits", "tally",
    )
)  # fmt: skip
"""Primitives with a kernel of their own."""


def schedule(
    graph: Graph,
    owned: bool = False,
    state: Mapping[int, int] | None = None,
    details: Sequence[int] = (),
) -> Schedule:
    """The kernels that compute `graph`, in the order in which they run.

    owned    the inputs lie in memory of ours, rows padded; otherwise they are dense arrays of the caller, and
             outputs are dense arrays that are handed over
    state    output → input in whose memory it is to end (both by number); needs `owned`
    details  for every output the least detail that a run must be asked for to compute it; 0, if not given.
             Asked for none, a run does just what it would do if outputs of some detail were not there
    """
    return _Lowering(graph, owned, state or {}, details).schedule()


class _Lowering:
    def __init__(
        self, graph: Graph, owned: bool, state: Mapping[int, int], details: Sequence[int] = ()
    ) -> None:
        _check(graph)
        self.graph, self.owned, self.state = graph, owned, state
        self.grouping = Grouping(graph, owned, details)
        self.layouts = Layouts(self.grouping.graph, owned)
        self.kernels: list[Work] = []
        self._details: list[tuple[int, int]] = []  # of every kernel
        self._now = ALWAYS  # of those that are made now
        self._times: dict[int, int] = {}  # second version of a kernel → the first one, by number
        self.stored: dict[Node, View] = {}
        self._looked_at = 0
        self._first_writer: dict[Buffer, int] = {}
        self._last_reader: dict[Buffer, int] = {}
        self._views: dict[tuple[Node, tuple[int, int]], View] = {}
        self._copies: dict[tuple[Node, tuple[int, int]], View] = {}
        self._of_scans: dict[Node, dict[int, View]] = {}
        self._outputs = {base_of(node) for node in graph.outputs}
        self._handed_over: set[Node] = set()

    def schedule(self) -> Schedule:
        if not self.owned:
            self._handed_over = {n for node in self.graph.outputs if (n := itself_of(node))}
        inputs = tuple(self._input(node, k) for k, node in enumerate(self.graph.inputs))
        self._lower_groups()
        outputs = self._in_their_places()
        return Schedule(inputs, outputs, tuple(self.kernels), tuple(self._details))

    def body(self, inputs: Sequence[View], targets: Sequence[View]) -> Sequence[Work]:
        """The kernels of a loop's body: where its inputs lie, and where its outputs have to be put."""
        self.stored.update(zip(self.graph.inputs, inputs, strict=True))
        for node, target in zip(self.graph.outputs, targets, strict=True):
            made = itself_of(node)
            if made is not None and made.primitive is not ITEM_OF:
                self.stored.setdefault(made, target)
        self._lower_groups()
        for node, target in zip(self.graph.outputs, targets, strict=True):
            view = self.view(node)
            if view is not target:
                self.kernels.append(copy(view, target, (node,)))
        return self.kernels

    def _lower_groups(self) -> None:
        most = max((group.detail for group in self.grouping.groups), default=0)
        read = self.grouping.read_elsewhere(most) | self._outputs
        for group in self.grouping.groups:
            for node in group.members:
                here = self.grouping.home.get(node) is group and node not in self.stored
                if here and node.name not in (SCAN.name, ITEM_OF.name) and node in read:
                    self._give_buffer(node)
        always = self.grouping.read_elsewhere(0) | {base_of(node) for node in self.grouping.graph.outputs}
        for group in self.grouping.groups:
            self._lower_for(group, {each for each in group.members if each in self.stored} - always)
        self._now = ALWAYS

    def _lower_for(self, group: Group, told: set[Node]) -> None:
        """The kernels of a group; in two versions where some detail reads what otherwise nobody would store.

        told  those of its members that are only stored for that
        """
        if group.detail:
            self._add(group, (group.detail, ALWAYS[1]))
        elif not told:
            self._add(group, ALWAYS)
        else:
            views = {node: self.stored.pop(node) for node in told}
            first = len(self.kernels)
            self._add(group, (0, 0))
            self.stored.update(views)
            second = len(self.kernels)
            self._add(group, (1, ALWAYS[1]))
            for number in range(second, len(self.kernels)):
                self._times[number] = min(number - second + first, second - 1)

    def _add(self, group: Group, details: tuple[int, int]) -> None:
        self._now = details
        self._lower(group)
        self._details += [details] * (len(self.kernels) - len(self._details))

    # -- memory --------------------------------------------------------------------------------------------
    def _input(self, node: Node, number: int) -> View:
        role = "state" if self.owned else "input"
        strides = dense_strides(node.shape)
        if self.owned:
            strides = self.layouts.of(node).strides(node.shape, node.dtype.itemsize)
        size = span(node.shape, strides)
        buffer = Buffer(
            node.label or f"input{number}", node.dtype, node.shape, strides, size, role, None, self.owned
        )
        view = self.stored[node] = View(buffer, 0, node.shape, strides)
        return view

    def _give_buffer(self, node: Node) -> View:
        given = node in self._handed_over
        layout = self.layouts.of(node)
        strides = dense_strides(node.shape) if given else layout.strides(node.shape, node.dtype.itemsize)
        name = "_".join(part for part in (node.name, node.layer.replace(".", "_")) if part)
        buffer = Buffer(name, node.dtype, node.shape, strides, span(node.shape, strides))
        if given:
            buffer.role, buffer.slack, buffer.size = "output", False, math.prod(node.shape)
        view = self.stored[node] = View(buffer, 0, node.shape, strides)
        return view

    def view(self, node: Node) -> View:
        """Where the value of a node lies; a copy is made where strides cannot express it."""
        if node in self.stored:
            return self.stored[node]
        for now in (ALWAYS, self._now):
            if (node, now) in self._views:
                return self._views[node, now]
        view = self._views[node, self._now] = self._find(node)
        return view

    def _find(self, node: Node) -> View:
        if node.primitive is None:
            assert node.value is not None
            return self._constant(node)
        operand = self.view(node.operands[0])
        seen = seen_through(node, operand)
        if seen is None:
            seen = seen_through(node, self._copied(node.operands[0], operand))
            assert seen is not None, "a reshape of dense memory is a view"
        return seen

    def _constant(self, node: Node) -> View:
        value = np.ascontiguousarray(node.value).reshape(node.shape)
        strides = dense_strides(node.shape)
        size = span(node.shape, strides)
        buffer = Buffer(node.label or "constant", node.dtype, node.shape, strides, size, "constant", value)
        return View(buffer, 0, node.shape, strides)

    def _copied(self, node: Node, source: View) -> View:
        """A dense copy of what a view shows."""
        key = node, self._now  # what is copied in some detail is not there in others
        if key not in self._copies:
            strides = dense_strides(source.shape)
            buffer = Buffer(
                f"{source.buffer.name}_copy",
                node.dtype,
                source.shape,
                strides,
                span(source.shape, strides),
            )
            target = View(buffer, 0, source.shape, strides)
            self.kernels.append(copy(source, target, (node,)))
            self._copies[key] = target
        return self._copies[key]

    def _in_their_places(self) -> tuple[View, ...]:
        """Where the outputs lie: new values of states in the memory of the old ones."""
        homes = {number: self.stored[self.graph.inputs[of]] for number, of in self.state.items()}
        views = [self.view(node) for node in self.graph.outputs]
        replaced = {home.buffer for number, home in homes.items() if views[number] is not home}
        for number, node in enumerate(self.graph.outputs):
            if views[number].buffer in replaced and views[number] is not homes.get(number):
                views[number] = self._copied(node, views[number])  # before that state changes
        for number, home in homes.items():
            views[number] = self._into_state(views[number], home, self.graph.outputs[number])
        self._details += [ALWAYS] * (len(self.kernels) - len(self._details))
        return tuple(views)

    def _into_state(self, view: View, home: View, node: Node) -> View:
        """The new value of a state in the memory of the old one."""
        if view is home:
            return home
        same = view.strides == home.strides and view.offset == 0 and view.buffer.role == "temporary"
        same = same and view.buffer.shape == home.buffer.shape
        if same and view.buffer.home is None and self._nobody_reads_after(view.buffer, home.buffer):
            view.buffer.home = home.buffer
        else:
            self.kernels.append(copy(view, home, (node,)))
        return home

    def _nobody_reads_after(self, written: Buffer, old: Buffer) -> bool:
        """True when the old value is not read once the new one is written, except element by element."""
        self._look_at_kernels()
        time = self._first_writer[written]
        if self._last_reader.get(old, -1) > time or old.home is not None:
            return False
        versions = [time, *(number for number, first in self._times.items() if first == time)]
        return all(replaces(self.kernels[number], written, old) for number in versions)

    def _look_at_kernels(self) -> None:
        """Take note of who reads and writes what, in the kernels that were added since the last time."""
        for number in range(self._looked_at, len(self.kernels)):
            read, written = read_and_written(self.kernels[number])
            time = self._times.get(number, number)
            for buffer in read:
                self._last_reader[buffer] = max(time, self._last_reader.get(buffer, -1))
            for buffer in written:
                self._first_writer.setdefault(buffer, time)
        self._looked_at = len(self.kernels)

    # -- kernels ---------------------------------------------------------------------------------------------
    def _lower(self, group: Group) -> None:
        if group.kind == "single":
            self._single(next(iter(group.members)))
        elif group.kind == "contraction":
            self._contraction(group)
        else:
            self._loops(group)

    def _loops(self, group: Group) -> None:
        rows = rows_of(group)
        order = sorted(rows) + sorted(group.every - rows)
        place = {axis: position for position, axis in enumerate(order)}
        builder = self._builder(group, place)
        statements = builder.statements(rows)
        if not statements:
            return
        extents = tuple(group.extents[axis] for axis in order)
        lane = lane_of(extents, len(rows), statements)
        self.kernels.append(Loops(extents, len(rows), lane, statements, tuple(group.members)))

    def _contraction(self, group: Group) -> None:
        node = group.product
        assert node is not None
        nest = contraction_of(node)
        assert nest is not None
        kept = [axis for dim, axis in enumerate(nest.output) if axis is not None and dim not in group.summed]
        dims = [dim for dim, axis in enumerate(nest.output) if axis is not None and dim not in group.summed]
        summed = [axis for axis in range(len(nest.extents)) if axis not in kept]
        order = kept + summed
        extents = tuple(nest.extents[axis] for axis in order)
        reads = [self._read(read, node, nest, order) for read in nest.reads]
        builder = self._builder(group, {dim: position for position, dim in enumerate(dims)})
        statements = builder.statements(frozenset(group.every))
        if not statements:
            return
        lane, swapped = vector_axis(extents, len(kept), reads, statements)
        left, right = reversed(reads) if swapped else reads
        if lane is None:
            self.kernels.append(
                as_loops(extents, len(kept), reads, statements, node.dtype, tuple(group.members))
            )
            return
        self.kernels.append(
            Contraction(extents, len(kept), lane, left, right, statements, tuple(group.members))
        )
        self.kernels += [total(partial, view, (node,)) for partial, view in builder.partial_sums]

    def _builder(self, group: Group, place: Mapping[int, int]) -> Builder:
        home, stored = self.grouping.home, self.stored
        own = {each: stored[each] for each in group.members if home.get(each) is group and each in stored}
        return Builder(group, place, own, self.view)

    def _read(self, read: Read, node: Node, nest: Nest, order: Sequence[int]) -> Access:
        assert read.operand is not None
        return affine(read, self.view(node.operands[read.operand]), order, nest.extents, node)

    def _single(self, node: Node) -> None:
        assert node.primitive is not None
        if node.name == SCAN.name:
            self._scan(node)
            return
        if node.primitive is ITEM_OF:
            self.stored[node] = self._of_scans[node.operands[0]][node.attributes["index"]]
            return
        target = self.stored.get(node)
        if target is None:
            return
        if node.name in SPECIAL:
            operands = tuple(self.view(each) for each in node.operands)
            self.kernels.append(Special(node.name, node.attributes, operands, target, (node,)))
        elif node.name == "concat":
            at = 0
            for each in node.operands:
                axis = node.attributes["axis"]
                part = part_of(target, axis, at, each.shape)
                self.kernels.append(copy(self.view(each), part, (node,)))
                at += each.shape[axis]
        elif node.name == "place":
            self.kernels.append(fill(target, 0, (node,)))
            names = ("start", "stop", "step")
            start, _, step = (node.attributes[name] for name in names)
            offset = sum(a * s for a, s in zip(start, target.strides, strict=True))
            strides = tuple(a * s for a, s in zip(step, target.strides, strict=True))
            inside = View(target.buffer, target.offset + offset, node.operands[0].shape, strides)
            self.kernels.append(copy(self.view(node.operands[0]), inside, (node,)))
        else:
            self._nest(node, target)

    def _scan(self, node: Node) -> None:
        items = [each for each in self.graph.nodes if each.primitive is ITEM_OF and each.operands[0] is node]
        asked = {each.attributes["index"]: self.layouts.of(each) for each in items}
        operands = [self.view(each) for each in node.operands]
        kernels, self._of_scans[node] = lower_scan(node, operands, asked, self._body)
        self.kernels += kernels

    def _body(self, graph: Graph, inputs: Sequence[View], targets: Sequence[View]) -> Sequence[Work]:
        return _Lowering(graph, self.owned, {}).body(inputs, targets)

    def _nest(self, node: Node, target: View) -> None:
        """Any other nest: products of what is read, combined."""
        assert node.primitive is not None
        nest = nest_of(node.primitive, *(each.type for each in node.operands), **node.attributes)
        if nest is None or nest.body not in (multiplied, itself) or nest.combiner not in ("sum", None):
            raise Unsupported(f"the native backend has no kernel for {describe(node)}")
        kept = [axis for axis in nest.output if axis is not None]
        order = kept + [axis for axis in range(len(nest.extents)) if axis not in kept]
        extents = tuple(nest.extents[axis] for axis in order)
        reads = [self._read(read, node, nest, order) for read in nest.reads]
        strides = strides_along(positions(nest, order), target, extents[: len(kept)])
        stored = Statement(Expression("sum", (), node.dtype), Access(target.buffer, target.offset, strides))
        self.kernels.append(as_loops(extents, len(kept), reads, (stored,), node.dtype, (node,)))


def _check(graph: Graph) -> None:
    """Raise for a node that has no kernel."""
    for node in graph.nodes:
        if node.primitive is None or node.name in (SCAN.name, ITEM_OF.name):
            continue
        assert node.primitive is not None
        known = node.primitive.elementwise or node.primitive.nest is not None or node.name in SPECIAL
        if not known:
            raise Unsupported(f"the native backend has no kernel for {describe(node)}")
