"""Inlining: a `call` becomes its body, so that the backend sees one straight line."""

from __future__ import annotations

from chainrule.control import CALL, ITEM_OF
from chainrule.graph import Graph
from chainrule.passes.rewriting import Known, copied


def inline_calls(graph: Graph) -> Graph:
    """Put the nodes of a call's sub-graph in its place; outputs nobody asked for are no longer computed.

    Exact. Comes after common subexpressions were merged: what a checkpoint computes again stays computed
    again, which is how it saves memory.
    """
    if graph.private and not any(node.name in (CALL.name, ITEM_OF.name) for node in graph.nodes):
        return graph
    known: Known = {node: node for node in graph.inputs}
    _spread(graph, known)
    return Graph(graph.inputs, tuple(known[node] for node in graph.outputs))


def _spread(graph: Graph, known: Known) -> None:
    """Rewrite every node of `graph`; its inputs are known."""
    for node in graph.nodes:
        if node in known:
            continue
        if node.name == CALL.name:
            body: Graph = node.attributes["graph"]
            inside: Known = dict(zip(body.inputs, (known[each] for each in node.operands), strict=True))
            _spread(body, inside)
            known[node] = tuple(inside[output] for output in body.outputs)
        elif node.primitive is ITEM_OF and isinstance(known[node.operands[0]], tuple):
            known[node] = known[node.operands[0]][node.attributes["index"]]
        else:
            known[node] = node if node.primitive is None else copied(node, known)
