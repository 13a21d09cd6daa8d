"""What the backward pass keeps, and what it computes again.

A value of the forward pass that the backward pass needs is written once and read again, or it is computed
again from others that are kept. The cheapest choice is a minimum cut (Ford and Fulkerson, 1956; so chosen in
PyTorch by He and Zou, 2022): of a network in which every value is an edge that weighs what it costs to keep
it, and which leads from what cannot be computed again, products and sums, to what the backward pass uses.

An elementwise value may be computed again, which weighs as much as its arithmetic; what is in memory anyway,
because a product reads it or it is an input, weighs nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from chainrule.control import ITEM_OF
from chainrule.graph import Graph, Node
from chainrule.loops import SCAN
from chainrule.passes.cotangents import free_of_cotangents, is_backward
from chainrule.schedule.views import base_of, is_view

REDUCTIONS = frozenset(("sum", "max", "min", "any", "all"))

KEPT, KEPT_IN_CACHE = 64, 16
"""What it costs to write a value and read it again, in additions of as many vectors; where all values of the
forward pass together fit into a second cache, it is less."""
CACHE = 1 << 20
_FUNCTION, _SLOW = 32, 16
"""What an exponential costs, or a function like it, and what a division."""
_PLAIN = frozenset(
    (
        "add", "subtract", "multiply", "negative", "square", "abs", "maximum", "minimum", "relu", "where",
        "astype", "identity", "stop_gradient", "positive", "clip", "sign", "not_equal", "equal", "greater",
        "greater_equal", "less", "less_equal", "logical_and", "logical_or", "logical_not", "isfinite",
        "isnan",
    )
)  # fmt: skip
_DIVISIONS = frozenset(("divide", "sqrt", "rsqrt", "remainder", "floor_divide"))
_ENDLESS = 1 << 60


@dataclass(frozen=True)
class Keeping:
    """Which nodes of a graph belong to the backward pass, and which values of the forward pass it computes.

    recomputed  elementwise values: every kernel that needs one computes it, from others
    """

    backward: frozenset[Node]
    recomputed: frozenset[Node]


def keeping(graph: Graph, users: dict[Node, set[Node]]) -> Keeping:
    """The choice with the least work. `users`: who uses a value, directly or through views."""
    backward = frozenset(node for node in graph.nodes if is_backward(node))
    if not backward:
        return Keeping(backward, frozenset())
    network = _Network()
    in_memory = _in_memory(graph, users)
    derivatives = _derivatives(graph, backward, in_memory, users)
    backward -= derivatives
    forward = [node for node in graph.nodes if node.primitive is not None and node not in backward]
    weight = KEPT if sum(map(_bytes, forward)) > CACHE else KEPT_IN_CACHE
    for node in forward:
        if node in in_memory or is_view(node) or node.size <= 1:
            continue
        assert node.primitive is not None
        network.value(node, weight * _bytes(node))
        if node.primitive.elementwise:
            network.source(node, _work(node))
            for operand in node.operands:
                network.uses(base_of(operand), node)
        else:
            network.source(node, _ENDLESS)
        if any(user in backward for user in users[node]):
            network.needed(node)
    recomputed = network.behind_the_cut()
    return Keeping(backward | derivatives & recomputed, recomputed - derivatives)


def _derivatives(
    graph: Graph, backward: frozenset[Node], in_memory: set[Node], users: dict[Node, set[Node]]
) -> frozenset[Node]:
    """What the forward pass might compute for the backward pass: elementwise values of its values alone,
    which are there for what is made of cotangents.
    """
    free = free_of_cotangents(graph) - in_memory
    found: set[Node] = set()
    for node in reversed(graph.nodes):
        if node not in free or is_view(node) or node.size <= 1:
            continue
        if any(user in found or (user in backward and user not in free) for user in users[node]):
            found.add(node)
    return frozenset(found)


def _in_memory(graph: Graph, users: dict[Node, set[Node]]) -> set[Node]:
    """What is in memory whether the backward pass needs it or not.

    Inputs and outputs, what loops keep, what products and their like read, and what a reduction reads of a
    product: no kernel reduces what it multiplies.
    """
    outputs = {base_of(node) for node in graph.outputs}
    found: set[Node] = set()
    multiplied: set[Node] = set()  # computed where a product is, with nothing stored in between
    for node in graph.nodes:
        if node.primitive is None or node.name in (SCAN.name, ITEM_OF.name, "iota"):
            found.add(node)
        elif not is_view(node):
            fresh = not node.primitive.elementwise and node.name not in REDUCTIONS
            if fresh or any(base_of(each) in multiplied for each in node.operands if _is_fused(node)):
                multiplied.add(node)
            readers = users[node]
            if (
                node in outputs
                or any(not _is_fused(user) and user.name not in REDUCTIONS for user in readers)
                or (node in multiplied and any(user.name in REDUCTIONS for user in readers))
            ):
                found.add(node)
                multiplied.discard(node)
    return found


def _is_fused(node: Node) -> bool:
    return node.primitive is not None and node.primitive.elementwise


def _bytes(node: Node) -> int:
    return 0 if is_view(node) else sum(each.size * each.dtype.itemsize for each in node.types)


def _work(node: Node) -> int:
    if node.name in _PLAIN:
        return _bytes(node)
    return (_SLOW if node.name in _DIVISIONS else _FUNCTION) * _bytes(node)


# -- the cut -------------------------------------------------------------------------------------------------
class _Network:
    """A network with an edge into and out of every value, and what is left of the capacity of each edge.

    Ends of edges are numbers: a value is number 2k where it begins, and 2k + 1 where it ends.
    """

    def __init__(self) -> None:
        self.numbers: dict[Node, int] = {}
        self.left: list[dict[int, int]] = []
        self.sources: dict[int, int] = {}
        self.sinks: set[int] = set()

    def value(self, node: Node, weight: int) -> None:
        number = self.numbers[node] = len(self.left)
        self.left += [{number + 1: weight}, {number: 0}]

    def source(self, node: Node, weight: int) -> None:
        self.sources[self.numbers[node]] = weight

    def uses(self, operand: Node, node: Node) -> None:
        if operand in self.numbers:
            end, begin = self.numbers[operand] + 1, self.numbers[node]
            self.left[end][begin] = _ENDLESS
            self.left[begin].setdefault(end, 0)

    def needed(self, node: Node) -> None:
        self.sinks.add(self.numbers[node] + 1)

    def behind_the_cut(self) -> frozenset[Node]:
        """The values that begin on the far side of a minimum cut: they are computed again."""
        for source in self.sources:
            while self.sources[source] and (path := self._path(source)):
                steps = list(pairwise(path))
                flow = min([self.sources[source], *(self.left[a][b] for a, b in steps)])
                self.sources[source] -= flow
                for a, b in steps:
                    self.left[a][b] -= flow
                    self.left[b][a] += flow
        near = self._reached(source for source, weight in self.sources.items() if weight)
        return frozenset(node for node, number in self.numbers.items() if number not in near)

    def _path(self, source: int) -> list[int]:
        """A shortest way from a source to a sink along edges with capacity; empty if there is none."""
        come_from = {source: source}
        pending = deque([source])
        while pending:
            here = pending.popleft()
            if here in self.sinks:
                path = [here]
                while path[-1] != source:
                    path.append(come_from[path[-1]])
                return path[::-1]
            for there, weight in self.left[here].items():
                if weight and there not in come_from:
                    come_from[there] = here
                    pending.append(there)
        return []

    def _reached(self, sources: Iterable[int]) -> set[int]:
        near = set(sources)
        pending = list(near)
        while pending:
            for there, weight in self.left[pending.pop()].items():
                if weight and there not in near:
                    near.add(there)
                    pending.append(there)
        return near
