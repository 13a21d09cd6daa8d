"""Lowering: a graph as a schedule of kernels.

Groups say what is computed together (`groups`); here they become kernels: values that leave their kernel get
a buffer, operands become accesses with strides, members become expressions of a statement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.graph import Graph, Node, describe
from chainrule.nest import Index, Nest, Read, itself, multiplied, nest_of
from chainrule.schedule.groups import Group, Grouping, contraction_of
from chainrule.schedule.keeping import REDUCTIONS
from chainrule.schedule.kernels import (
    Access,
    Buffer,
    Contraction,
    Expression,
    Kernel,
    Loops,
    Schedule,
    Special,
    Statement,
    Unsupported,
    View,
    expressions,
)
from chainrule.schedule.layouts import Layouts
from chainrule.schedule.views import (
    ALIASES,
    ROW,
    Axes,
    aligned,
    base_of,
    dense_strides,
    has_room,
    is_view,
    seen_through,
    span,
    strides_along,
)
from chainrule.types import Shape, Type

SPECIAL = frozenset(
    (
        "gather", "scatter", "checked_indices", "argmax", "argmin", "argsort", "cumulative_sum", "fold_in",
        "random_bits",
    )
)  # fmt: skip
"""Primitives with a kernel of their own."""
_FEW = 8
INT64 = np.dtype(np.int64)


def schedule(graph: Graph, owned: bool = False, state: Mapping[int, int] | None = None) -> Schedule:
    """The kernels that compute `graph`, in the order in which they run.

    owned  the inputs lie in memory of ours, rows padded; otherwise they are dense arrays of the caller, and
           outputs are dense arrays that are handed over
    state  output → input in whose memory it is to end (both by number); needs `owned`
    """
    return _Lowering(graph, owned, state or {}).schedule()


class _Lowering:
    def __init__(self, graph: Graph, owned: bool, state: Mapping[int, int]) -> None:
        _check(graph)
        self.graph, self.owned, self.state = graph, owned, state
        self.grouping = Grouping(graph, owned)
        self.layouts = Layouts(graph)
        self.kernels: list[Kernel] = []
        self.stored: dict[Node, View] = {}
        self._looked_at = 0
        self._first_writer: dict[Buffer, int] = {}
        self._last_reader: dict[Buffer, int] = {}
        self._views: dict[Node, View] = {}
        self._copies: dict[Node, View] = {}
        self._outputs = {base_of(node) for node in graph.outputs}
        self._handed_over = set() if owned else {n for node in graph.outputs if (n := _itself(node))}

    def schedule(self) -> Schedule:
        inputs = tuple(self._input(node, k) for k, node in enumerate(self.graph.inputs))
        read = self.grouping.read_elsewhere()
        for group in self.grouping.groups:
            for node in group.members:
                if self.grouping.home.get(node) is group and (node in read or node in self._outputs):
                    self._give_buffer(node)
        for group in self.grouping.groups:
            self._lower(group)
        outputs = tuple(self._output(node, k) for k, node in enumerate(self.graph.outputs))
        return Schedule(inputs, outputs, tuple(self.kernels))

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
        if node not in self._views:
            self._views[node] = self._find(node)
        return self._views[node]

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
        if node not in self._copies:
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
            self._copies[node] = target
        return self._copies[node]

    def _output(self, node: Node, number: int) -> View:
        view = self.view(node)
        if number in self.state:
            return self._into_state(view, self.stored[self.graph.inputs[self.state[number]]], node)
        return view

    def _into_state(self, view: View, home: View, node: Node) -> View:
        """The new value of a state in the memory of the old one."""
        if view.buffer is home.buffer:
            return home
        same = view.strides == home.strides and view.offset == 0 and view.buffer.role == "temporary"
        if same and view.buffer.home is None and self._nobody_reads_after(view.buffer, home.buffer):
            view.buffer.home = home.buffer
        else:
            self.kernels.append(copy(view, home, (node,)))
        return home

    def _nobody_reads_after(self, written: Buffer, old: Buffer) -> bool:
        """True when the old value is not read once the new one is written, except element by element."""
        self._look_at_kernels()
        writer = self._first_writer[written]
        kernel = self.kernels[writer]
        if self._last_reader.get(old, -1) > writer or old.home is not None:
            return False
        if old not in _read(kernel):
            return True
        if isinstance(kernel, Special) or (
            isinstance(kernel, Contraction) and old in (kernel.left.buffer, kernel.right.buffer)
        ):
            return False
        mine = {each.strides for each in _accesses(kernel) if each.buffer is written}
        theirs = {(each.strides, each.offset) for each in _accesses(kernel) if each.buffer is old}
        touching = [
            each for each in kernel.statements if {written, old} & {a.buffer for a in _of_statements([each])}
        ]
        stages = {(each.per_row, _stage(each)) for each in touching}
        return len(mine) == 1 and theirs == {(next(iter(mine)), 0)} and len(stages) == 1

    def _look_at_kernels(self) -> None:
        """Take note of who reads and writes what, in the kernels that were added since the last time."""
        for number in range(self._looked_at, len(self.kernels)):
            kernel = self.kernels[number]
            self._last_reader.update(dict.fromkeys(_read(kernel), number))
            for buffer in _written(kernel):
                self._first_writer.setdefault(buffer, number)
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
        rows = _rows(group)
        order = sorted(rows) + sorted(group.every - rows)
        place = {axis: position for position, axis in enumerate(order)}
        builder = _Builder(self, group, place)
        statements = builder.statements(rows)
        if not statements:
            return
        extents = tuple(group.extents[axis] for axis in order)
        lane = _lane(extents, len(rows), statements)
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
        builder = _Builder(self, group, {dim: position for position, dim in enumerate(dims)})
        statements = builder.statements(frozenset(group.every))
        if not statements:
            return
        lane, swapped = _vector_axis(extents, len(kept), reads, statements)
        left, right = reversed(reads) if swapped else reads
        if lane is None:
            self.kernels.append(
                _as_loops(extents, len(kept), reads, statements, node.dtype, tuple(group.members))
            )
            return
        self.kernels.append(
            Contraction(extents, len(kept), lane, left, right, statements, tuple(group.members))
        )
        self.kernels += [total(partial, view, (node,)) for partial, view in builder.partial_sums]

    def _read(self, read: Read, node: Node, nest: Nest, order: Sequence[int]) -> Access:
        assert read.operand is not None
        return affine(read, self.view(node.operands[read.operand]), order, nest.extents, node)

    def _single(self, node: Node) -> None:
        assert node.primitive is not None
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
                part = _part(target, axis, at, each.shape)
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
        strides = strides_along(_positions(nest, order), target, extents[: len(kept)])
        stored = Statement(Expression("sum", (), node.dtype), Access(target.buffer, target.offset, strides))
        self.kernels.append(_as_loops(extents, len(kept), reads, (stored,), node.dtype, (node,)))


class _Builder:
    """Statements and expressions of one group. `place`: axis of the group → axis of the kernel."""

    def __init__(self, lowering: _Lowering, group: Group, place: Mapping[int, int]) -> None:
        self.lowering, self.group, self.place = lowering, group, place
        self.extents = [0] * len(place)
        for axis, position in place.items():
            self.extents[position] = group.extents[axis]
        self._known: dict[Any, Expression] = {}
        self._results: dict[Node, Statement] = {}
        self.partial_sums: list[tuple[View, View]] = []

    def statements(self, rows: frozenset[int]) -> tuple[Statement, ...]:
        made = []
        for node in self.group.members:
            over = self.group.over.get(node)
            view = self.lowering.stored.get(node)
            if self.lowering.grouping.home.get(node) is not self.group:
                view = None
            if over:
                inside = self.group.inside[node]
                value = self._converted(self._value(node.operands[0], inside), node.dtype)
                per_row = self._belongs_to_row(inside, rows)
                axes = tuple(sorted(self.place[axis] for axis in over))
                target = None if view is None else self._target(node, view)
                if view is not None and self.group.kind == "contraction":
                    target = self._partial(node, view)
                statement = Statement(value, target, node.name, axes, per_row)
                self._results[node] = statement
                made.append(statement)
            elif view is not None:
                axes_here = self.group.axes[node]
                per_row = self.group.kind == "loops" and self._belongs_to_row(axes_here, rows)
                made.append(
                    Statement(self._value(node, axes_here), self._target(node, view), None, (), per_row)
                )
        return tuple(made)

    def _partial(self, node: Node, view: View) -> Access:
        """Where partial sums go: a place per vector at most, which are 0 from the start, or never touched."""
        count = math.prod(self.group.extents[:-1]) * -(-self.group.extents[-1] // ROW)
        buffer = Buffer(
            f"{view.buffer.name}_parts", node.dtype, (count,), (1,), span((count,), (1,)), "state"
        )
        self.partial_sums.append((View(buffer, 0, (count,), (1,)), view))
        return Access(buffer, 0, (0,) * len(self.place))

    def _belongs_to_row(self, axes: Axes, rows: frozenset[int]) -> bool:
        return rows != self.group.every and all(axis in rows for along in axes for axis in along)

    def _target(self, node: Node, view: View) -> Access:
        strides = strides_along(self._placed(self.group.axes[node]), view, self.extents)
        return Access(view.buffer, view.offset, strides, has_room(view))

    def _placed(self, axes: Axes) -> Axes:
        return tuple(tuple(self.place[axis] for axis in along) for along in axes)

    def _value(self, node: Node, axes: Axes) -> Expression:
        """The expression for a node at a point of the loop; `axes` are those along which it runs here."""
        base = base_of(node)
        if base in self.group.axes:
            if base in self._results:
                return self._cached(
                    base, lambda: Expression("result", (), base.dtype, {"statement": self._results[base]})
                )
            return self._cached(base, lambda: self._member(base))
        if base.value is not None and (base.size == 1 or not any(base.value.strides)):
            number = base.value.flat[0] if base.size else base.dtype.type(0)
            return self._cached(
                (base, "constant"), lambda: Expression("constant", (), base.dtype, {"value": number})
            )
        return self._cached((node, axes), lambda: self._load(node, axes))

    def _cached(self, key: Any, make: Any) -> Expression:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def _member(self, node: Node) -> Expression:
        if node is self.group.product or (self.group.product is not None and node.name == "sum"):
            return Expression("sum", (), node.dtype)
        axes = self.group.axes[node]
        if node.name == "iota":
            return self._position(node, axes)
        if node.name in REDUCTIONS:  # over axes of length 1
            return self._converted(self._value(node.operands[0], self.group.inside[node]), node.dtype)
        operands = [self._value(each, aligned(axes, each.shape)) for each in node.operands]
        if node.name in ALIASES:
            return operands[0]
        return Expression(node.name, tuple(operands), node.dtype, node.attributes)

    def _position(self, node: Node, axes: Axes) -> Expression:
        """Where the loop stands on the axes of an iota, counted as one."""
        total: Expression | None = None
        for axis in (axis for along in self._placed(axes) for axis in along):
            here = Expression("position", (), INT64, {"axis": axis})
            if total is not None:
                extent = Expression("constant", (), INT64, {"value": np.int64(self.extents[axis])})
                before = Expression("multiply", (total, extent), INT64)
                here = Expression("add", (before, here), INT64)
            total = here
        if total is None:
            return Expression("constant", (), node.dtype, {"value": node.dtype.type(0)})
        return self._converted(total, node.dtype)

    def _load(self, node: Node, axes: Axes) -> Expression:
        view = self.lowering.view(node)
        strides = strides_along(self._placed(axes), view, self.extents)
        return Expression("load", (), node.dtype, {"access": Access(view.buffer, view.offset, strides)})

    def _converted(self, value: Expression, dtype: np.dtype[Any]) -> Expression:
        if value.dtype == dtype:
            return value
        return self._cached((value, dtype), lambda: Expression("astype", (value,), dtype, {"dtype": dtype}))


def _itself(node: Node) -> Node | None:
    """The node whose value an output is as it stands; None for a view that shows it in another way."""
    while node.primitive is not None and node.name in ALIASES:
        node = node.operands[0]
    return None if node.primitive is None or is_view(node) else node


# -- choices -------------------------------------------------------------------------------------------------
def _rows(group: Group) -> frozenset[int]:
    """The axes of a loop group that are its rows."""
    if group.rows is not None:
        return group.rows
    over = [each for each in group.over.values() if each]
    if not over or all(each == group.every for each in over):
        return group.every
    return group.every - min(over, key=len)


def _lane(extents: Shape, rows: int, statements: Sequence[Statement]) -> int:
    """The axis to vectorise: the one along which most accesses have stride 1, and fewest any other.

    Accesses count as often as they happen: what belongs to a row once, the others for every inner point.
    """
    inner = math.prod(extents[rows:])

    def merit(axis: int) -> tuple[int, int, int]:
        near = far = 0
        for statement in statements:
            weight = 1 if statement.per_row else max(inner, 1)
            for access in _of_statements([statement]):
                near += weight * (access.strides[axis] == 1)
                far += weight * (access.strides[axis] not in (0, 1))
        return (near - far if extents[axis] > 1 else -1_000_000_000, extents[axis], axis)

    return max(range(len(extents)), key=merit, default=0)


def _vector_axis(
    extents: Shape, outputs: int, reads: Sequence[Access], statements: Sequence[Statement]
) -> tuple[int | None, bool]:
    """The lane of a contraction, and whether its factors have to change places for it.

    The last axis of the output, if one factor alone moves along it. But where that factor would have to be
    transposed for a few rows only, the axis that is summed over, if both factors have it innermost.
    """
    one, other = (read.strides for read in reads)
    single = [axis for axis in range(outputs) if extents[axis] > 1 and (one[axis] == 0) != (other[axis] == 0)]
    dots = [
        axis for axis in range(outputs, len(extents)) if extents[axis] > 1 and one[axis] == other[axis] == 1
    ]
    written = [access for statement in statements if (access := statement.target) is not None]
    near = [axis for axis in single if any(access.strides[axis] == 1 for access in written)]
    lane = near[-1] if near else (single[-1] if single else None)
    if lane is None:
        return (dots[-1], False) if dots else (None, False)
    swapped = other[lane] == 0
    right, left = (one, other) if swapped else (other, one)
    rows = math.prod(extents[axis] for axis in range(outputs) if left[axis] != 0 and right[axis] == 0)
    # A window that slides, as in the derivative of a convolution's weight, reads every element many times.
    slides = any(right[axis] for axis in range(outputs) if axis != lane and left[axis] == 0)
    if dots and right[lane] != 1 and (rows < _FEW or slides):
        return dots[-1], False
    return lane, swapped


def _as_loops(
    extents: Shape, outputs: int, reads: Sequence[Access], statements: Sequence[Statement],
    dtype: np.dtype[Any], nodes: tuple[Node, ...],
) -> Loops:  # fmt: skip
    """A sum of products with no axis for a contraction's lane, as a loop with rows."""
    product: Expression | None = None
    for read in reads:
        load = Expression("load", (), read.buffer.dtype, {"access": read})
        product = load if product is None else Expression("multiply", (product, load), dtype)
    assert product is not None
    inner = tuple(range(outputs, len(extents)))
    if product.dtype != dtype:
        product = Expression("astype", (product,), dtype, {"dtype": dtype})
    extra = (0,) * len(inner)
    if inner:
        total = Statement(product, None, "sum", inner)
        value = Expression("result", (), dtype, {"statement": total})
        first: tuple[Statement, ...] = (total,)
    else:
        value, first = product, ()
    known: dict[Expression, Expression] = {}

    def rewritten(each: Expression) -> Expression:
        if each in known:
            return known[each]
        if each.op == "sum":
            made = value
        elif each.op == "load":
            access = each.attributes["access"]
            wide = Access(access.buffer, access.offset, access.strides + extra, access.overrun)
            made = Expression("load", (), each.dtype, {"access": wide})
        else:
            made = Expression(each.op, tuple(map(rewritten, each.arguments)), each.dtype, each.attributes)
        known[each] = made
        return made

    after = []
    for each in statements:
        target = each.target
        if target is not None:
            target = Access(target.buffer, target.offset, target.strides + extra, target.overrun)
        after.append(Statement(rewritten(each.value), target, None, (), bool(inner)))
    every = (*first, *after)
    return Loops(extents, outputs, _lane(extents, outputs, every), every, nodes)


def affine(read: Read, view: View, order: Sequence[int], loop: Shape, node: Node) -> Access:
    """What a read visits, as strides along the axes of a loop in the kernel's order."""
    strides, offset = [0] * len(loop), view.offset
    for index, extent, stride in zip(read.index, view.shape, view.strides, strict=True):
        if not _stays_inside(index, extent, loop):
            raise Unsupported(f"the native backend reads beyond an edge in {describe(node)}")
        offset += index.offset * stride
        for axis, coefficient in index.terms:
            strides[axis] += coefficient * stride
    return Access(view.buffer, offset, tuple(strides[axis] for axis in order))


def _stays_inside(index: Index, extent: int, loop: Shape) -> bool:
    if index.divisor != 1 or (index.modulus is not None and index.modulus != extent):
        return False
    ends = [(coefficient * (loop[axis] - 1)) for axis, coefficient in index.terms]
    if any(loop[axis] == 0 for axis, _ in index.terms):
        return True
    low = index.offset + sum(min(0, each) for each in ends)
    high = index.offset + sum(max(0, each) for each in ends)
    return low >= 0 and high < max(extent, 1)


def _positions(nest: Nest, order: Sequence[int]) -> Axes:
    return tuple(() if axis is None else (list(order).index(axis),) for axis in nest.output)


# -- simple kernels ------------------------------------------------------------------------------------------
def copy(source: View, target: View, nodes: tuple[Node, ...]) -> Loops:
    """A kernel that moves elements from one place to another."""
    strides = tuple(0 if n == 1 else s for n, s in zip(source.shape, source.strides, strict=True))
    load = Expression(
        "load", (), source.buffer.dtype, {"access": Access(source.buffer, source.offset, strides)}
    )
    return _flat(target, load, nodes)


def fill(target: View, number: float, nodes: tuple[Node, ...]) -> Loops:
    """A kernel that writes one number everywhere."""
    dtype = target.buffer.dtype
    return _flat(target, Expression("constant", (), dtype, {"value": dtype.type(number)}), nodes)


def total(source: View, target: View, nodes: tuple[Node, ...]) -> Loops:
    """A kernel that sums up one row of numbers."""
    dtype = target.buffer.dtype
    load = Expression("load", (), dtype, {"access": Access(source.buffer, source.offset, (1,))})
    statement = Statement(load, Access(target.buffer, target.offset, (0,)), "sum", (0,))
    return Loops(source.shape, 1, 0, (statement,), nodes)


def _flat(target: View, value: Expression, nodes: tuple[Node, ...]) -> Loops:
    access = Access(target.buffer, target.offset, target.strides, has_room(target))
    statements = (Statement(value, access),)
    return Loops(
        target.shape, len(target.shape), _lane(target.shape, len(target.shape), statements), statements, nodes
    )


def _part(target: View, axis: int, start: int, shape: Shape) -> View:
    return View(target.buffer, target.offset + start * target.strides[axis], shape, target.strides)


# -- looking at kernels --------------------------------------------------------------------------------------
def _of_statements(statements: Sequence[Statement]) -> list[Access]:
    values = expressions(statement.value for statement in statements)
    found = [each.attributes["access"] for each in values if each.op == "load"]
    return found + [statement.target for statement in statements if statement.target is not None]


def _accesses(kernel: Loops | Contraction) -> list[Access]:
    return _of_statements(kernel.statements)


def _read(kernel: Kernel) -> set[Buffer]:
    if isinstance(kernel, Special):
        return {view.buffer for view in kernel.operands}
    found = {access.buffer for access in _of_statements(kernel.statements)}
    found -= {each.target.buffer for each in kernel.statements if each.target is not None}
    return found | ({kernel.left.buffer, kernel.right.buffer} if isinstance(kernel, Contraction) else set())


def _written(kernel: Kernel) -> set[Buffer]:
    if isinstance(kernel, Special):
        return {kernel.target.buffer}
    return {each.target.buffer for each in kernel.statements if each.target is not None}


def _stage(statement: Statement) -> int:
    """How many combined results have to be known, one after the other, before a statement can run."""
    results = [each.attributes["statement"] for each in expressions([statement.value]) if each.op == "result"]
    return max((1 + _stage(each) for each in results), default=0)


def _check(graph: Graph) -> None:
    """Raise for a node that has no kernel."""
    for node in graph.nodes:
        if node.primitive is None:
            continue
        if not isinstance(node.type, Type):
            raise Unsupported(f"the native backend has no kernel for {describe(node)}")
        known = node.primitive.elementwise or node.primitive.nest is not None or node.name in SPECIAL
        if not known:
            raise Unsupported(f"the native backend has no kernel for {describe(node)}")
