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
from functools import lru_cache
from typing import Any

from chainrule.graph import Graph, Node
from chainrule.nest import Nest, multiplied, nest_of
from chainrule.primitive import Primitive
from chainrule.schedule.details import by_detail, users_of
from chainrule.schedule.joining import Group, Joining, reduced_axes
from chainrule.schedule.keeping import REDUCTIONS, keeping
from chainrule.schedule.views import (
    ALIASES,
    Axes,
    axes_of_shape,
    base_of,
    is_view,
)
from chainrule.types import Type

UPDATED = 4
"""Arrays as large as a weight that its update touches: itself, its gradient and, in Adam, two moments."""
LARGE_UPDATE = 1 << 20
"""Bytes of these from which on the update is part of the product: what a second cache holds."""
LARGEST = 64
"""Nodes of a group: a longer body would not stay in registers, and takes long to compile."""
CHEAP = frozenset(("add", "subtract", "multiply", "negative", "astype", "where", "equal", "iota"))
"""Computed again in every kernel that needs it, where it is made of inputs alone."""


def contraction_of(node: Node) -> Nest | None:
    """The nest of a node that is a sum of products of two operands; None for any other."""
    if node.primitive is None or node.primitive.nest is None or len(node.operands) != 2:
        return None
    types = tuple(each.type for each in node.operands)
    return _product_nest(node.primitive, types, tuple(node.attributes.items()))


@lru_cache(maxsize=256)
def _product_nest(
    primitive: Primitive, types: tuple[Type, ...], attributes: tuple[tuple[str, Any], ...]
) -> Nest | None:
    """Kept, because it is asked again and again for nodes that are alike."""
    nest = nest_of(primitive, *types, **dict(attributes))
    if nest is None or nest.body is not multiplied or nest.combiner != "sum" or len(nest.reads) != 2:
        return None
    return nest


class Grouping:
    """The groups of a graph. `groups` is in the order in which they run.

    graph    the part of it that is needed when no detail is asked for
    details  for every output how much detail has to be asked for to get it; 0, if not given. What only
             outputs of some detail need is put into groups of that detail. The others are as if these
             outputs were not there
    """

    def __init__(self, graph: Graph, owned: bool = False, details: Sequence[int] = ()) -> None:
        self.owned = owned
        self.groups: list[Group] = []
        self.home: dict[Node, Group] = {}
        self.waiting: dict[Node, int] = {}  # → index of the last group it needs, -1 for none
        self._chain: dict[Node, int] = {}  # what waits → how many wait for each other, up to it
        self.readers: dict[Node, list[Group]] = {}
        parts = by_detail(graph, details)
        self.graph = parts[0]
        self._every_user = users_of(graph)
        self.users = users_of(self.graph) if len(parts) > 1 else self._every_user
        self.kept = keeping(self.graph, self.users)
        self._detail = 0
        self._scalars: Group | None = None
        self._outputs = set(self.graph.outputs)
        done: set[Node] = set()
        for self._detail, part in enumerate(parts):
            ordered, self._late = _inputs_first(part)
            for node in ordered:
                if node.primitive is not None and not is_view(node) and node not in done:
                    self._visit(node)
            for node in part.outputs:
                self._settle(base_of(node))
            done.update(part.nodes)
            self.users, self._scalars = self._every_user, None
        self._put_in_order()

    def _put_in_order(self) -> None:
        """What is only asked for in some detail runs as soon as it can: what it reads need not be kept."""
        if not any(group.detail for group in self.groups):
            return
        place: dict[Group, tuple[int, int, int]] = {}
        for group in self.groups:
            if not group.detail:
                place[group] = (group.index, 0, 0)
                continue
            inside = (*group.members, *((group.product,) if group.product else ()))
            needed = (self.home.get(base_of(each)) for node in inside for each in node.operands)
            latest = max((place[each][0] for each in needed if each and each is not group), default=-1)
            place[group] = (latest, 1, group.index)
        self.groups.sort(key=place.__getitem__)

    def read_elsewhere(self, detail: int) -> set[Node]:
        """Every value that a kernel of at most this detail reads without computing it itself.

        Its own users do not tell: they may be computed in other kernels once more (`keeps_waiting`).
        """
        read: set[Node] = set()
        for group in self.groups:
            if group.detail > detail:
                continue
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
            shape = node.shape if isinstance(node.type, Type) else ()  # a loop has several outputs
            self._new("single", shape, node, tuple((k,) for k in range(len(shape))))

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
        if node not in self.kept.backward or node in self._outputs:
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
        candidates = self._candidates(node, self._needs(node))
        return any(group.detail == self._detail and self._try(group, node) for group in candidates)

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
        joining = Joining(self, group)
        if not joining.add(node):
            return False
        joining.commit()
        return True

    # -- new groups ----------------------------------------------------------------------------------------
    def _new(self, kind: str, extents: Sequence[int], node: Node, axes: Axes) -> Group:
        group = Group(len(self.groups), kind, list(extents), detail=self._detail)
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
        extents = [extent for extent in node.shape if extent != 1]
        group = Group(len(self.groups), "loops", extents, detail=self._detail)
        axes = axes_of_shape(node.shape)
        self.groups.append(group)
        joining = Joining(self, group)
        if not joining.add(node, axes):  # something it waits for does not run along these axes
            self.groups.pop()
            self._settle_operands(node)
            group.index = len(self.groups)
            self.groups.append(group)
            joining = Joining(self, group)
            joined = joining.add(node, axes)
            assert joined
        joining.commit(node)

    def _reduce_alone(self, node: Node) -> None:
        operand = node.operands[0]
        extents = [extent for extent in operand.shape if extent != 1]
        group = Group(len(self.groups), "loops", extents, detail=self._detail)
        self.groups.append(group)
        axes = axes_of_shape(operand.shape)
        joining = Joining(self, group)
        joining.suggested[operand] = axes
        if not joining.add(node):
            self.groups.pop()
            self._settle(base_of(operand))
            group.index = len(self.groups)
            self.groups.append(group)
            joining = Joining(self, group)
            joining.suggested[operand] = axes
            joined = joining.add(node)
            assert joined
        joining.commit()

    def keeps_waiting(self, node: Node) -> bool:
        """True for what every kernel that needs it computes again: comparisons, what is cheap and made of
        these or of inputs, and what is not worth keeping for the backward pass.
        """
        if node not in self.waiting or node in self._outputs:
            return False
        if node in self.kept.recomputed:
            return True
        if node.size == 1:
            return False
        bases = map(base_of, node.operands)
        free = all(base.primitive is None or self.keeps_waiting(base) for base in bases)
        return node.dtype.kind == "b" or (free and node.name in CHEAP)

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
        alone = len(self._every_user[product]) == 1
        if axes is None or not alone or product in self._outputs or group.summed:
            return False
        if node.dtype != product.dtype or node.size == 1 or node.operands[0].size != product.size:
            return False
        kept = reduced_axes(node, axes)
        group.summed = tuple(a for axis in node.attributes["axis"] for a in axes[axis])
        group.members = {node: None}
        group.axes = {node: kept}
        self.home[node] = group
        return True


def _is_fused(node: Node) -> bool:
    """True for what kernels of others may compute: elementwise work and reductions."""
    return node.primitive is not None and (node.primitive.elementwise or node.name in REDUCTIONS)


def _inputs_first(graph: Graph) -> tuple[list[Node], set[Node]]:
    """The nodes in order, but what needs no contraction or loop comes first: step counts, masks.

    And the set of the others.
    """
    late: set[Node] = set()
    for node in graph.nodes:
        late_itself = contraction_of(node) is not None or not isinstance(node.type, Type)
        if late_itself or any(each in late for each in node.operands):
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
