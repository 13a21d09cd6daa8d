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
    """`graph` with what `rule` makes of every node; `graph` itself where that is every node itself.

    The rule is given a copy of the node whose operands are already rewritten, or a constant, and returns
    what takes its place. A node of a private graph whose operands have stayed is given as it is.
    """
    known: Known = {node: node for node in graph.inputs}
    for node in graph.nodes:
        if node not in known:
            known[node] = rule(_given(node, known, graph.private))
    return finished(graph, known)


def rewrite_knowing_uses(graph: Graph, rule: Callable[[Node, set[Node]], Node]) -> Graph:
    """As `rewrite`, with a rule that is told which nodes are `alone`: those that one node uses, once."""
    uses = Counter(operand for node in graph.nodes for operand in node.operands) + Counter(graph.outputs)
    alone: set[Node] = set()
    known: Known = {node: node for node in graph.inputs}
    for node in graph.nodes:
        if node not in known:
            given = _given(node, known, graph.private)
            known[node] = rule(given, alone) if node.primitive is not None else node
        if uses[node] == 1:
            alone.add(known[node])
    return finished(graph, known)


def finished(graph: Graph, known: Known) -> Graph:
    """The graph of what stands for the outputs of `graph`."""
    if graph.private and all(known[node] is node for node in graph.nodes):
        return graph
    return Graph(graph.inputs, tuple(known[node] for node in graph.outputs), private=True)


def _given(node: Node, known: Known, private: bool) -> Node:
    if node.primitive is None:
        return node
    if private and _stays(node, known):
        node.made_last()  # as a copy would be, so that the order stays as written
        return node
    return copied(node, known)


def _stays(node: Node, known: Known) -> bool:
    """True where nothing that a node refers to has been exchanged."""
    return all(known[each] is each for each in node.operands) and all(
        origin.of is None or origin.of is node or known.get(origin.of, origin.of) is origin.of
        for origin in node.origins
    )


def copied(node: Node, known: Known) -> Node:
    """`node` over the operands that stand for its own; its origins speak of the new nodes too."""
    copy = rebuilt(node, [known[operand] for operand in node.operands])
    if any(origin.of is not None for origin in node.origins):
        copy.origins = tuple(_moved(origin, node, copy, known) for origin in node.origins)
    return copy


def _moved(origin: Origin, node: Node, copy: Node, known: Known) -> Origin:
    if origin.of is None:
        return origin
    target = copy if origin.of is node else known.get(origin.of)
    return origin._replace(of=target) if isinstance(target, Node) else origin


def united(kept: Node, merged: Node) -> Node:
    """`kept`, which from now on also stands for `merged` and has its reasons."""
    kept.origins = tuple(dict.fromkeys((*kept.origins, *merged.origins)))
    return kept
