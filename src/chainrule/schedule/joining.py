"""Joining: whether a node can be computed in the kernel of a group, and along which of its axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from chainrule.graph import Node
from chainrule.schedule.keeping import REDUCTIONS
from chainrule.schedule.views import Axes, aligned, axes_behind, axes_through, base_of, is_view

SMALL = 4096
"""Elements up to which a loop that combines everything may go on with the result."""


@dataclass(eq=False)
class Group:
    """Nodes of one kernel.

    kind      "loops"; "contraction": a sum of products first; "single": a node that stands alone
    extents   of the kernel's axes; for a contraction those of the output
    axes      the axes of every member, and of what members read from elsewhere (`loaded`)
    over      for every reduction the axes it combines; `inside`: the axes of its operand
    rows      the axes that are rows, once a member has used the result of a reduction
    product   the contraction itself; `summed`: axes of its output that are summed over as well
    detail    how much detail has to be asked for to need it
    """

    index: int
    kind: str
    extents: list[int]
    members: dict[Node, None] = field(default_factory=dict)
    axes: dict[Node, Axes] = field(default_factory=dict)
    loaded: dict[Node, Axes] = field(default_factory=dict)
    over: dict[Node, frozenset[int]] = field(default_factory=dict)
    inside: dict[Node, Axes] = field(default_factory=dict)
    rows: frozenset[int] | None = None
    product: Node | None = None
    summed: tuple[int, ...] = ()
    detail: int = 0

    def axes_of(self, node: Node) -> Axes | None:
        """The axes along which a value runs here; None for one that is not known here."""
        for known in (self.axes, self.loaded):
            if node in known:
                return known[node]
        if is_view(node):
            inner = self.axes_of(node.operands[0])
            return None if inner is None else axes_through(node, inner, self.extents)
        return None

    @property
    def every(self) -> frozenset[int]:
        return frozenset(range(len(self.extents)))


class Surroundings(Protocol):
    """What a node that joins has to know of the other groups.

    home     the group that stores a value; waiting: what is computed by whoever needs it first
    readers  the groups that read a value from memory
    owned    the memory is ours, and keeps its state from run to run
    """

    home: dict[Node, Group]
    waiting: dict[Node, int]
    readers: dict[Node, list[Group]]
    owned: bool

    def keeps_waiting(self, node: Node) -> bool:
        """True for what every kernel that needs it computes again."""


class Joining:
    """What would change if a node joined a group; nothing changes before `commit`."""

    def __init__(self, grouping: Surroundings, group: Group) -> None:
        self.grouping, self.group = grouping, group
        self.axes: dict[Node, Axes] = {}
        self.loaded: dict[Node, Axes] = {}
        self.over: dict[Node, frozenset[int]] = {}
        self.inside: dict[Node, Axes] = {}
        self.rows = group.rows
        self.extents = list(group.extents)
        self.suggested: dict[Node, Axes] = {}

    def add(self, node: Node, axes: Axes | None = None) -> bool:
        """Find the axes of `node` and of everything it waited for; False when it does not fit."""
        if node.name in REDUCTIONS:
            return self._add_reduction(node)
        if (node.size == 0) != (0 in self.extents):
            return False  # a loop over nothing stores nothing
        chosen = self._elementwise_axes(node) if axes is None else axes
        if chosen is None:
            return False
        self.axes[node] = chosen
        return all(self._add_operand(each, aligned(chosen, each.shape)) for each in node.operands)

    def commit(self, stored: Node | None = None) -> None:
        """Join. What is cheap goes on waiting, so that others compute it too, unless it is to be `stored`."""
        grouping, group = self.grouping, self.group
        group.extents[:] = self.extents
        group.rows = self.rows
        group.axes.update(self.axes)
        group.over.update(self.over)
        group.inside.update(self.inside)
        for node in sorted(self.axes, key=lambda each: each.serial):
            group.members[node] = None
            if node is stored or not grouping.keeps_waiting(node):
                grouping.home[node] = group
                grouping.waiting.pop(node, None)
        for node, axes in self.loaded.items():
            group.loaded[node] = axes
            grouping.readers.setdefault(node, []).append(group)

    # -- axes ------------------------------------------------------------------------------------------------
    def _axes_of(self, node: Node) -> Axes | None:
        for known in (self.axes, self.suggested):
            if node in known:
                return known[node]
        there = self.group.axes_of(node)
        if there is None and is_view(node):
            inner = self._axes_of(node.operands[0])
            return None if inner is None else axes_through(node, inner, self.extents)
        return there

    def _elementwise_axes(self, node: Node) -> Axes | None:
        """The axes of the group along which `node` runs; None where its operands disagree."""
        axes: list[tuple[int, ...]] = [()] * node.ndim
        for operand in node.operands:
            known = self._axes_of(operand)
            for k in range(1, operand.ndim + 1 if known is not None else 0):
                along = known[-k] if known is not None and operand.shape[-k] != 1 else ()
                if along and axes[-k] not in ((), along):
                    return None
                axes[-k] = along or axes[-k]
        used = [axis for along in axes for axis in along]
        if len(set(used)) != len(used):
            return None  # a diagonal
        for k, extent in enumerate(node.shape):
            if extent != 1 and not axes[k]:
                another = self._another_axis(extent, used)
                if another is None:
                    return None
                axes[k] = (another,)
                used.append(another)
        if any(
            n != math.prod(self.extents[a] for a in along) for n, along in zip(node.shape, axes, strict=True)
        ):
            return None
        return tuple(axes)

    def _another_axis(self, extent: int, used: Sequence[int]) -> int | None:
        """An axis along which no operand moves so far: one that is there, else a new inner one."""
        for axis, length in enumerate(self.extents):
            if axis not in used and length == extent:
                return axis
        if self.group.kind != "loops":
            return None
        everything = frozenset(range(len(self.extents)))
        if self.rows not in (None, everything) or (self.rows is None and (self.group.over or self.over)):
            return None
        self.rows = everything
        self.extents.append(extent)
        return len(self.extents) - 1

    # -- operands --------------------------------------------------------------------------------------------
    def _add_operand(self, operand: Node, axes: Axes) -> bool:
        """Make an operand available along `axes`: from the group, from what waits, or from memory."""
        base = base_of(operand)
        if base in self.group.axes or base in self.axes:
            known = self._axes_of(operand)
            if known is None or any(
                a != b for a, b, n in zip(known, axes, operand.shape, strict=True) if n != 1 and a
            ):
                return False
            return self._usable(base)
        if base in self.grouping.waiting:
            behind = self._axes_behind(operand, axes)
            if behind is None:
                return False
            return self.add(base, behind)
        if base in self.grouping.home and self.grouping.home[base].index >= self.group.index:
            return False
        if operand.size > 1:
            self.loaded.setdefault(operand, axes)
        return True

    def _axes_behind(self, node: Node, axes: Axes) -> Axes | None:
        while is_view(node):
            behind = axes_behind(node, axes, self.extents)
            if behind is None:
                return None
            node, axes = node.operands[0], behind
        return axes

    # -- reductions ------------------------------------------------------------------------------------------
    def _add_reduction(self, node: Node) -> bool:
        operand = node.operands[0]
        axes = self._axes_of(operand)
        if axes is None and operand in self.grouping.waiting and self.add(operand):
            axes = self.axes[operand]
        if axes is None:
            return False
        if any(extent != 1 and not along for along, extent in zip(axes, operand.shape, strict=True)):
            return False
        if operand.size and 0 in self.extents:
            return False  # a loop over nothing combines nothing
        over_axes = frozenset(a for axis in node.attributes["axis"] for a in axes[axis])
        if any(self.extents[axis] == 0 for axis in over_axes) and self.group.members:
            return False
        if self.group.kind == "contraction" and not self._is_total(node, over_axes):
            return False
        if not self._add_operand(operand, axes) or not self._can_combine(over_axes, axes):
            return False
        self.axes[node] = reduced_axes(node, axes)
        self.over[node], self.inside[node] = over_axes, axes
        return True

    def _is_total(self, node: Node, over: frozenset[int]) -> bool:
        """True for a sum over the whole output of a product, the only one that its kernel can make."""
        output = {k for k, n in enumerate(self.extents) if n != 1 and k not in self.group.summed}
        return node.name == "sum" and over == output and node.dtype.kind == "f" and self.grouping.owned

    def _can_combine(self, over: frozenset[int], inside: Axes) -> bool:
        """True for what a loop can combine: all that is inside of its rows, or what belongs to rows alone."""
        everything = frozenset(range(len(self.extents)))
        if self.rows is not None:
            of_rows = all(axis in self.rows for along in inside for axis in along)
            return of_rows or over >= everything - self.rows
        others = [*self.group.over.values(), *self.over.values(), over]
        smallest = min(others, key=len)
        return all(each >= smallest for each in others)

    def _usable(self, base: Node) -> bool:
        """True for a value that is complete while the loop runs; a combined one must belong to a row."""
        over = self.group.over.get(base)
        over = self.over.get(base) if over is None else over
        if not over:
            return over is None or len(over) == 0
        if self.group.kind == "contraction":
            return False
        everything = frozenset(range(len(self.extents)))
        rows = everything - over
        if not rows and math.prod(self.extents) > SMALL:
            return False  # as one row, a long loop could not be shared by threads
        if self.rows is None:
            others = [*self.group.over.values(), *self.over.values()]
            if not all(each >= over for each in others):
                return False
            self.rows = rows
            return True
        return self.rows == rows


def reduced_axes(node: Node, axes: Axes) -> Axes:
    """The axes of a reduction, given those of its operand."""
    gone = set(node.attributes["axis"])
    if node.attributes["keepdims"]:
        return tuple(() if k in gone else axis for k, axis in enumerate(axes))
    return tuple(axis for k, axis in enumerate(axes) if k not in gone)
