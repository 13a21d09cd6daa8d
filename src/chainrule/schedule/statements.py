"""Statements: what the members of a group become in their kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from chainrule.graph import Node
from chainrule.schedule.joining import Group
from chainrule.schedule.keeping import REDUCTIONS
from chainrule.schedule.kernels import (
    Access,
    Buffer,
    Expression,
    Statement,
    View,
)
from chainrule.schedule.views import ALIASES, ROW, Axes, aligned, base_of, has_room, span, strides_along

INT64 = np.dtype(np.int64)


class Builder:
    """Statements and expressions of one group.

    place  axis of the group → axis of the kernel
    own    where the members lie that others read
    view   where any value lies that is computed elsewhere
    """

    def __init__(
        self, group: Group, place: Mapping[int, int], own: Mapping[Node, View], view: Callable[[Node], View]
    ) -> None:
        self.group, self.place, self._own, self._view = group, place, own, view
        self.extents = [0] * len(place)
        for axis, position in place.items():
            self.extents[position] = group.extents[axis]
        self._known: dict[Any, Expression] = {}
        self._results: dict[Node, Statement] = {}
        self.partial_sums: list[tuple[View, View]] = []

    def statements(self, rows: frozenset[int]) -> tuple[Statement, ...]:
        """What is stored or combined, in order; `rows`: the axes of the group that are rows."""
        made = []
        for node in self.group.members:
            over = self.group.over.get(node)
            view = self._own.get(node)
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
        """Where a value is stored. Beyond the end of its lane there is room if that is a whole row."""
        axes = self.group.axes[node]
        strides = strides_along(self._placed(axes), view, self.extents)
        whole = all(len(along) < 2 for along, stride in zip(axes, view.strides, strict=True) if stride == 1)
        return Access(view.buffer, view.offset, strides, whole and has_room(view))

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
        view = self._view(node)
        strides = strides_along(self._placed(axes), view, self.extents)
        return Expression("load", (), node.dtype, {"access": Access(view.buffer, view.offset, strides)})

    def _converted(self, value: Expression, dtype: np.dtype[Any]) -> Expression:
        if value.dtype == dtype:
            return value
        return self._cached((value, dtype), lambda: Expression("astype", (value,), dtype, {"dtype": dtype}))
