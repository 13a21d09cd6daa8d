"""Fusion: which nodes are computed together, in one kernel.

Nodes are visited in their order. A node joins the group that computes its last operand, if it can be computed
there at the same point of the loop; or a later group that reads an operand of its anyway. An elementwise node
that can join nowhere waits: whoever needs its value first computes it. So an optimizer's update of a weight,
the norm of its gradient and everything these need is one loop; bias and activation belong to their product.

Groups are in an order in which they can run: a node is never in an earlier group than its operands.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from chainrule.graph import Graph, Node
from chainrule.nest import Nest, multiplied, nest_of
from chainrule.schedule.keeping import REDUCTIONS, keeping
from chainrule.schedule.views import (
    ALIASES,
    Axes,
    aligned,
    axes_behind,
    axes_of_shape,
    axes_through,
    base_of,
    is_view,
)

SMALL = 4096
"""Elements up to which a loop that combines everything may go on with the result."""
UPDATED = 4
"""Arrays as large as a weight that its update touches: itself, its gradient and, in Adam, two moments."""
LARGE_UPDATE = 1 << 20
"""Bytes of these from which on the update is part of the product: what a second cache holds."""
LARGEST = 64
"""Nodes of a group: a longer body would not stay in registers, and takes long to compile."""
CHEAP = frozenset(("add", "subtract", "multiply", "negative", "astype", "where", "equal", "iota"))
"""Computed again in every kernel that needs it, where it is made of inputs alone."""


@dataclass(eq=False)
class Group:
    """Nodes of one kernel.

    kind      "loops"; "contraction": a sum of products first; "single": a node that stands alone
    extents   of the kernel's axes; for a contraction those of the output
    axes      the axes of every member, and of what members read from elsewhere (`loaded`)
    over      for every reduction the axes it combines; `inside`: the axes of its operand
    rows      the axes that are rows, once a member has used the result of a reduction
    product   the contraction itself; `summed`: axes of its output that are summed over as well
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


def contraction_of(node: Node) -> Nest | None:
    """The nest of a node that is a sum of products of two operands; None for any other."""
    if node.primitive is None or node.primitive.nest is None or len(node.operands) != 2:
        return None
    nest = nest_of(node.primitive, *(each.type for each in node.operands), **node.attributes)
    if nest is None or nest.body is not multiplied or nest.combiner != "sum" or len(nest.reads) != 2:
        return None
    return nest


class Grouping:
    """The groups of a graph. `groups` is in the order in which they run."""

    def __init__(self, graph: Graph, owned: bool = False) -> None:
        self.graph, self.owned = graph, owned
        self.groups: list[Group] = []
        self.home: dict[Node, Group] = {}
        self.waiting: dict[Node, int] = {}  # → index of the last group it needs, -1 for none
        self._chain: dict[Node, int] = {}  # what waits → how many wait for each other, up to it
        self.readers: dict[Node, list[Group]] = {}
        self.users = users_of(graph)
        self.kept = keeping(graph, self.users)
        self._scalars: Group | None = None
        ordered, self._late = _inputs_first(graph)
        for node in ordered:
            if node.primitive is not None and not is_view(node):
                self._visit(node)
        for node in graph.outputs:
            self._settle(base_of(node))

    def read_elsewhere(self) -> set[Node]:
        """Every value that a kernel reads without computing it itself.

        Its own users do not tell: they may be computed in other kernels once more (`grouping_keeps_waiting`).
        """
        read: set[Node] = set()
        for group in self.groups:
            for node in (*group.members, *((group.product,) if group.product else ())):
                inside = group.members.keys() | {group.product}
                read.update(base for base in map(base_of, node.operands) if base not in inside)
        return read

    # -- one node after the other --------------------------------------------------------------------------
    def _visit(self, node: Node) -> None:
        assert node.primitive is not None
        elementwise = node.primitive.elementwise or node.name == "iota"
        if node.name in REDUCTIONS:
            if not (self._summed_product(node) or self._joined(node)):
                self._reduce_alone(node)
        elif elementwise:
            self._visit_elementwise(node)
        elif contraction_of(node) is not None:
            self._settle_operands(node)
            self._contract(node)
        else:
            self._settle_operands(node)
            self._new("single", list(node.shape), node, tuple((k,) for k in range(node.ndim)))

    def _visit_elementwise(self, node: Node) -> None:
        """Join a group or wait. What waits on purpose:

        Comparisons, which are cheaper to repeat than to store. Numbers that depend on the network, such as
        the norm of all gradients: they are summed up in one kernel when the last is known. What reductions
        alone use of a product: it is computed where it is combined, and never stored.
        """
        if node.size == 1 and node.name != "iota" and node not in self._late:
            if not self._joined(node):
                self._alone(node)
            self._scalars = self.home[node]
            return
        if node.size > 1:
            for operand in map(base_of, node.operands):
                if operand.size == 1:
                    self._settle(operand)
        waits = (
            node.dtype.kind == "b"
            or node.size == 1
            or node in self.kept.recomputed
            or self._is_needed_backward(node)
            or self._is_only_combined(node)
        )
        if waits or not self._joined(node):
            self._wait(node)

    def _wait(self, node: Node) -> None:
        """Chains of what waits stay short: the norm of a thousand gradients is a sum of sums."""
        length = 1 + max((self._chain.get(base_of(each), 0) for each in node.operands), default=0)
        if length > LARGEST:
            self._settle_operands(node)
            length = 1
        self._chain[node] = length
        self.waiting[node] = self._needs(node)

    def _is_needed_backward(self, node: Node) -> bool:
        """True for what the backward pass makes of values that are in memory anyway, such as 1 - tanh².

        Unless it has to be in memory itself.
        """
        if node not in self.kept.backward or node in self.graph.outputs:
            return False
        if any(not _is_fused(user) for user in self.users[node]):
            return False
        return all(
            base.primitive is None or base in self.waiting or self._is_there_anyway(base)
            for base in map(base_of, node.operands)
        )

    def _is_there_anyway(self, node: Node) -> bool:
        """True for values of the forward pass, and for products that more than one kernel reads."""
        if node not in self.kept.backward:
            return True
        product = contraction_of(node) is not None
        return product and any(not _is_fused(user) or user.name in REDUCTIONS for user in self.users[node])

    def _is_only_combined(self, node: Node) -> bool:
        needs = self._needs(node)
        if needs < 0 or self.groups[needs].kind != "contraction":
            return False
        return bool(self.users[node]) and all(user.name in REDUCTIONS for user in self.users[node])

    def _needs(self, node: Node) -> int:
        """The index of the last group that has to run before `node` can be computed."""
        return max((self._position(base_of(each)) for each in node.operands), default=-1)

    def _position(self, node: Node) -> int:
        if node in self.home:
            return self.home[node].index
        return self.waiting.get(node, -1)

    # -- joining -------------------------------------------------------------------------------------------
    def _joined(self, node: Node) -> bool:
        """Put `node` into an existing group, if it fits into one."""
        needs = self._needs(node)
        return any(self._try(group, node) for group in self._candidates(node, needs))

    def _candidates(self, node: Node, needs: int) -> Iterable[Group]:
        if needs >= 0 and self._is_of_its_pass(node, self.groups[needs]):
            yield self.groups[needs]
        if node.size == 1 and self._scalars is not None and self._scalars.index > needs:
            yield self._scalars
        later: dict[Group, None] = {}
        sources = self._sources(node)
        largest = max((each.size for each in sources), default=0)
        for operand in sources:
            if operand.size == largest > 1:
                later.update(dict.fromkeys(self.readers.get(operand, ())))
        for each in sorted(later, key=lambda g: -g.index):
            if each.index > needs and each.kind == "loops" and self._is_of_its_pass(node, each):
                yield each

    def _is_of_its_pass(self, node: Node, group: Group) -> bool:
        """False for a reduction of the backward pass and a kernel of the forward pass.

        What the backward pass combines, it goes on with: in one kernel if it starts one.
        """
        if node.name not in REDUCTIONS or node not in self.kept.backward:
            return True
        return any(member in self.kept.backward for member in group.members)

    def _sources(self, node: Node) -> list[Node]:
        """The operands of a node, and of what it waits for."""
        found: list[Node] = []
        for operand in node.operands:
            if operand in self.waiting and operand not in self.home:
                found += self._sources(operand)
            else:
                found.append(operand)
        return found

    def _try(self, group: Group, node: Node) -> bool:
        if group.kind == "single" or len(group.members) >= LARGEST:
            return False
        if group.kind == "contraction" and not _may_follow_product(group, node):
            return False
        joining = _Joining(self, group)
        if not joining.add(node):
            return False
        joining.commit()
        return True

    # -- new groups ----------------------------------------------------------------------------------------
    def _new(self, kind: str, extents: Sequence[int], node: Node, axes: Axes) -> Group:
        group = Group(len(self.groups), kind, list(extents))
        self.groups.append(group)
        group.members[node] = None
        group.axes[node] = axes
        self.home[node] = group
        return group

    def _contract(self, node: Node) -> None:
        axes = tuple(() if extent == 1 else (axis,) for axis, extent in enumerate(node.shape))
        self._new("contraction", node.shape, node, axes).product = node

    def _alone(self, node: Node) -> None:
        """A loop group of its own for an elementwise node, and for what it waited for."""
        group = Group(len(self.groups), "loops", [extent for extent in node.shape if extent != 1])
        axes = axes_of_shape(node.shape)
        self.groups.append(group)
        joining = _Joining(self, group)
        if not joining.add(node, axes):  # something it waits for does not run along these axes
            self.groups.pop()
            self._settle_operands(node)
            group.index = len(self.groups)
            self.groups.append(group)
            joining = _Joining(self, group)
            joined = joining.add(node, axes)
            assert joined
        joining.commit(node)

    def _reduce_alone(self, node: Node) -> None:
        operand = node.operands[0]
        group = Group(len(self.groups), "loops", [extent for extent in operand.shape if extent != 1])
        self.groups.append(group)
        axes = axes_of_shape(operand.shape)
        joining = _Joining(self, group)
        joining.suggested[operand] = axes
        if not joining.add(node):
            self.groups.pop()
            self._settle(base_of(operand))
            group.index = len(self.groups)
            self.groups.append(group)
            joining = _Joining(self, group)
            joining.suggested[operand] = axes
            joined = joining.add(node)
            assert joined
        joining.commit()

    def _settle(self, node: Node) -> None:
        """Make sure that somebody computes and stores `node`."""
        if node in self.waiting and node not in self.home:
            self._alone(node)

    def _settle_operands(self, node: Node) -> None:
        for each in node.operands:
            self._settle(base_of(each))

    def _summed_product(self, node: Node) -> bool:
        """A sum over axes of a contraction's output is a part of it, if nobody else uses that output."""
        product = base_of(node.operands[0])
        group = self.home.get(product)
        if node.name != "sum" or group is None or group.product is not product or len(group.members) != 1:
            return False
        axes = group.axes_of(node.operands[0])
        if axes is None or len(self.users[product]) != 1 or product in self.graph.outputs or group.summed:
            return False
        if node.dtype != product.dtype or node.size == 1 or node.operands[0].size != product.size:
            return False
        kept = reduced_axes(node, axes)
        group.summed = tuple(a for axis in node.attributes["axis"] for a in axes[axis])
        group.members = {node: None}
        group.axes = {node: kept}
        self.home[node] = group
        return True


class _Joining:
    """What would change if a node joined a group; nothing changes before `commit`."""

    def __init__(self, grouping: Grouping, group: Group) -> None:
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
            if node is stored or not grouping_keeps_waiting(grouping, node):
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
        over_axes = frozenset(a for axis in node.attributes["axis"] for a in axes[axis])
        if any(self.extents[axis] == 0 for axis in over_axes) and self.group.members:
            return False
        if self.group.kind == "contraction" and not self._is_total(node, over_axes):
            return False
        if not self._add_operand(operand, axes) or not self._can_combine(over_axes):
            return False
        self.axes[node] = reduced_axes(node, axes)
        self.over[node], self.inside[node] = over_axes, axes
        return True

    def _is_total(self, node: Node, over: frozenset[int]) -> bool:
        """True for a sum over the whole output of a product, the only one that its kernel can make."""
        output = {k for k, n in enumerate(self.extents) if n != 1 and k not in self.group.summed}
        return node.name == "sum" and over == output and node.dtype.kind == "f" and self.grouping.owned

    def _can_combine(self, over: frozenset[int]) -> bool:
        everything = frozenset(range(len(self.extents)))
        if self.rows is not None:
            return over >= everything - self.rows
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


def grouping_keeps_waiting(grouping: Grouping, node: Node) -> bool:
    """True for what every kernel that needs it computes again: comparisons, what is cheap and made of these or
    of inputs, and what is not worth keeping for the backward pass.
    """
    if node not in grouping.waiting or node in grouping.graph.outputs:
        return False
    if node in grouping.kept.recomputed:
        return True
    if node.size == 1:
        return False
    bases = map(base_of, node.operands)
    free = all(base.primitive is None or grouping_keeps_waiting(grouping, base) for base in bases)
    return node.dtype.kind == "b" or (free and node.name in CHEAP)


def _is_fused(node: Node) -> bool:
    """True for what kernels of others may compute: elementwise work and reductions."""
    return node.primitive is not None and (node.primitive.elementwise or node.name in REDUCTIONS)


def users_of(graph: Graph) -> dict[Node, set[Node]]:
    """For every node that is no view, who uses its value, directly or through views; outputs use too."""
    users: dict[Node, set[Node]] = {node: set() for node in graph.nodes}
    for node in graph.nodes:
        if not is_view(node):
            for operand in node.operands:
                users[base_of(operand)].add(node)
    for node in graph.outputs:
        users[base_of(node)].add(node)
    return users


def _inputs_first(graph: Graph) -> tuple[list[Node], set[Node]]:
    """The nodes in order, but what needs no contraction comes first: step counts, learning rates, masks.

    And the set of the others.
    """
    late: set[Node] = set()
    for node in graph.nodes:
        if contraction_of(node) is not None or any(each in late for each in node.operands):
            late.add(node)
    early = [node for node in graph.nodes if node not in late]
    return early + [node for node in graph.nodes if node in late], late


def _may_follow_product(group: Group, node: Node) -> bool:
    """Elementwise work on the whole output may; an update of a parameter only if its state is large.

    An update reads and writes several arrays as large as the weight. Where these stay in the second cache
    anyway, it gains nothing from the registers that the product needs; where they do not, the product hides
    the time that memory takes.
    """
    assert group.product is not None
    primitive = node.primitive
    if primitive is None or primitive.name in ALIASES:
        return False
    size = math.prod(n for axis, n in enumerate(group.extents) if axis not in group.summed)
    is_update = any(origin.role == "update" for origin in node.origins)
    if is_update and size * UPDATED * node.dtype.itemsize < LARGE_UPDATE:
        return False
    if node.name == "sum":
        return is_update and node.size == 1
    return primitive.elementwise and node.size == size


def reduced_axes(node: Node, axes: Axes) -> Axes:
    """The axes of a reduction, given those of its operand."""
    gone = set(node.attributes["axis"])
    if node.attributes["keepdims"]:
        return tuple(() if k in gone else axis for k, axis in enumerate(axes))
    return tuple(axis for k, axis in enumerate(axes) if k not in gone)
