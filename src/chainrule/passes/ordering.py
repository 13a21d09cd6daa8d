"""Order: a value that one elementwise operation uses is used while it is still in the cache."""

from __future__ import annotations

from collections.abc import Iterator

from chainrule.graph import Graph, Node
from chainrule.passes.rewriting import Known, copied


def use_values_while_warm(graph: Graph) -> Graph:
    """Move an elementwise node right behind the operand that only it uses, if its other operands are there.

    Exact, and never takes more memory: the result can stand where the operand stood.
    """
    known: Known = {node: node for node in graph.inputs}
    for node in _ordered(graph):
        known[node] = node if node.primitive is None else copied(node, known)
    return Graph(graph.inputs, tuple(known[node] for node in graph.outputs))


def _ordered(graph: Graph) -> Iterator[Node]:
    users: dict[Node, list[Node]] = {node: [] for node in graph.nodes}
    for node in graph.nodes:
        for operand in node.operands:
            users[operand].append(node)
    inputs, outputs = set(graph.inputs), set(graph.outputs)
    there = {node for node in graph.nodes if node.primitive is None}
    yield from (node for node in graph.nodes if node in there and node not in inputs)
    for node in graph.nodes:
        while node not in there:
            there.add(node)
            yield node
            follower = users[node][0] if len(users[node]) == 1 and node not in outputs else None
            if follower is not None and _can_follow(follower, node, there):
                node = follower


def _can_follow(follower: Node, node: Node, there: set[Node]) -> bool:
    assert follower.primitive is not None
    same_type = follower.type == node.type
    return follower.primitive.elementwise and same_type and all(each in there for each in follower.operands)
