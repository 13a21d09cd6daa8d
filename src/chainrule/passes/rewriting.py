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
    what takes its place. Of a private graph it is given the node itself, with these operands.
    """
    exchanged: Known = {}
    inputs = set(graph.inputs)
    for node in graph.nodes:
        if node not in inputs:
            made = rule(_given(node, exchanged, graph.private))
            if made is not node:
                exchanged[node] = made
    return finished(graph, exchanged)


def rewrite_knowing_uses(graph: Graph, rule: Callable[[Node, set[Node]], Node]) -> Graph:
    """As `rewrite`, with a rule that is told which nodes are `alone`: those that one node uses, once."""
    uses = Counter(graph.outputs)
    for node in graph.nodes:
        uses.update(node.operands)
    alone: set[Node] = set()
    exchanged: Known = {}
    inputs = set(graph.inputs)
    for node in graph.nodes:
        made = node
        if node.primitive is not None and node not in inputs:
            made = rule(_given(node, exchanged, graph.private), alone)
            if made is not node:
                exchanged[node] = made
        if uses[node] == 1:
            alone.add(made)
    return finished(graph, exchanged)


def finished(graph: Graph, known: Known) -> Graph:
    """The graph of what stands for the outputs of `graph`; what is not `known` stands for itself."""
    if graph.private and all(made is node for node, made in known.items()):
        return graph
    return Graph(graph.inputs, tuple(known.get(node, node) for node in graph.outputs), private=True)


def _given(node: Node, exchanged: Known, private: bool) -> Node:
    if node.primitive is None:
        return node
    if not private:
        return copied(node, exchanged)
    if exchanged:
        node.made_last()  # as a copy would be, so that the order stays as written
        if not exchanged.keys().isdisjoint(node.operands):
            node.operands = tuple([exchanged.get(each, each) for each in node.operands])
        for origin in node.origins:
            if origin.of in exchanged:
                node.origins = tuple([_moved(each, node, node, exchanged) for each in node.origins])
                break
    return node


def copied(node: Node, known: Known) -> Node:
    """`node` over the operands that stand for its own; its origins speak of the new nodes too."""
    copy = rebuilt(node, [known.get(operand, operand) for operand in node.operands])
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
