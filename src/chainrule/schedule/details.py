"""Who uses a value, and which values are needed for how much detail."""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.graph import Graph, Node
from chainrule.schedule.views import base_of, is_view


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


def by_detail(graph: Graph, details: Sequence[int]) -> list[Graph]:
    """The graph of the outputs of detail 0, of those up to 1, and so on."""
    if not any(details):
        return [graph]
    pairs = list(zip(graph.outputs, details, strict=True))
    return [
        Graph(graph.inputs, tuple(node for node, each in pairs if each <= most))
        for most in range(max(details) + 1)
    ]
