"""How a pass walks: every node anew, operands first, so that the order of execution stays as written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from chainrule.graph import Graph, Node, rebuilt
from chainrule.origin import Origin

Known = dict[Node, Any]
"""What stands for a node of the old graph: a node, or a tuple of them for one with several outputs."""


def rewrite(graph: Graph, rule: Callable[[Node], Any]) -> Graph:
    """`graph` with what `rule` makes of every node.

    The rule is given a copy of the node whose operands are already rewritten, or a constant, and returns
    what takes its place.
    """
    known: Known = {node: node for node in graph.inputs}
    for node in graph.nodes:
        if node not in known:
            known[node] = rule(copied(node, known) if node.primitive is not None else node)
    return Graph(graph.inputs, tuple(known[node] for node in graph.outputs))


def rewrite_knowing_uses(graph: Graph, rule: Callable[[Node, set[Node]], Node]) -> Graph:
    """As `rewrite`, with a rule that is told which nodes are `alone`: those that one node uses, once."""
    uses = Counter(operand for node in graph.nodes for operand in node.operands) + Counter(graph.outputs)
    alone: set[Node] = set()
    known: Known = {node: node for node in graph.inputs}
    for node in graph.nodes:
        if node not in known:
            known[node] = rule(copied(node, known), alone) if node.primitive is not None else node
        if uses[node] == 1:
            alone.add(known[node])
    return Graph(graph.inputs, tuple(known[node] for node in graph.outputs))


def copied(node: Node, known: Known) -> Node:
    """`node` over the operands that stand for its own; its origins speak of the new nodes too."""
    copy = rebuilt(node, [known[operand] for operand in node.operands])

    def moved(origin: Origin) -> Origin:
        target = copy if origin.of is node else known.get(origin.of)
        return origin._replace(of=target) if isinstance(target, Node) else origin

    copy.origins = tuple(map(moved, node.origins))
    return copy


def united(kept: Node, merged: Node) -> Node:
    """`kept`, which from now on also stands for `merged` and has its reasons."""
    kept.origins = tuple(dict.fromkeys((*kept.origins, *merged.origins)))
    return kept
