"""Loops: what a `scan` computes that nobody uses, and the graph inside of it.

That a graph has only the nodes its outputs need does not reach into a loop: it has all its outputs or none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chainrule.control import ITEM_OF, items
from chainrule.graph import Graph, Node, reachable, rebuilt
from chainrule.loops import SCAN
from chainrule.ops import ops
from chainrule.origin import because
from chainrule.passes.rewriting import Known, copied, rewrite


def simplify_inside(graph: Graph, simplify: Callable[[Graph], Graph]) -> Graph:
    """`graph` with the bodies of its scans simplified. Constants that a scan is given are known inside."""

    def rule(node: Node) -> Node:
        if node.name != SCAN.name:
            return node
        first = node.attributes["carries"] + node.attributes["sequences"]
        body = _with_constants(node.attributes["graph"], node.operands, first)
        made = rebuilt(node, node.operands)
        made.attributes = {**node.attributes, "graph": simplify(body)}
        return made

    return rewrite(graph, rule)


def _with_constants(body: Graph, operands: Sequence[Node], first: int) -> Graph:
    known: Known = {node: node for node in body.inputs}
    for given, operand in list(zip(body.inputs, operands, strict=True))[first:]:
        if operand.value is not None:
            known[given] = operand
    for node in body.nodes:
        if node not in known:
            known[node] = copied(node, known) if node.primitive is not None else node
    return Graph(body.inputs, tuple(known[node] for node in body.outputs))


def drop_unused_results(graph: Graph) -> Graph:
    """Scans without the carries, results and histories that nobody uses, and without what these alone needed.

    A carry that no iteration changes is a captured value. Exact.
    """
    used: dict[Node, set[int]] = {node: set() for node in graph.nodes if node.name == SCAN.name}
    if not used:
        return graph
    for node in graph.nodes:
        if node.primitive is ITEM_OF and node.operands[0] in used:
            used[node.operands[0]].add(node.attributes["index"])
    known: Known = {node: node for node in graph.inputs}
    for node in graph.nodes:
        if node in known:
            continue
        if node in used:
            known[node] = _reduced(copied(node, known), used[node])
        elif node.primitive is ITEM_OF and isinstance(known[node.operands[0]], dict):
            known[node] = known[node.operands[0]][node.attributes["index"]]
        else:
            known[node] = node if node.primitive is None else copied(node, known)
    return Graph(graph.inputs, tuple(known[node] for node in graph.outputs))


def _reduced(node: Node, used: set[int]) -> dict[int, Node]:
    """What stands for the used outputs of a scan, by number."""
    a: dict[str, Any] = node.attributes
    body, carries, results = a["graph"], range(a["carries"]), len(a["graph"].outputs)
    changing = [k for k in carries if body.outputs[k] is not body.inputs[k]]
    stacked = [k for k in range(len(carries), results) if k in used]
    state = _needed(body, changing, [k for k in changing if {k, results + k} & used], stacked)
    history = any(results + k in used for k in state)
    inside = drop_unused_results(Graph(body.inputs, tuple(body.outputs[k] for k in (*state, *stacked))))
    alive = set(reachable(inside.outputs, inside.inputs))
    others = [k for k, each in enumerate(body.inputs) if each in alive and k not in state]
    series = [k for k in others if 0 <= k - len(carries) < a["sequences"]]
    inputs = [*state, *series, *(k for k in others if k not in series)]
    with because(node.origins[0]):
        made = ops.apply(
            SCAN, [node.operands[k] for k in inputs],
            graph=Graph(tuple(body.inputs[k] for k in inputs), inside.outputs), carries=len(state),
            sequences=len(series), length=a["length"], reverse=a["reverse"], history=history,
        )  # fmt: skip
        numbers = [*state, *stacked, *(results + k for k in state if history)]
        found = dict(zip(numbers, items(made), strict=True))
        for k in set(carries).difference(changing):
            operand = node.operands[k]
            found[k], found[results + k] = operand, ops.broadcast_to(operand, (a["length"], *operand.shape))
    made.origins = node.origins
    return found


def _needed(body: Graph, changing: Sequence[int], state: Sequence[int], stacked: Sequence[int]) -> list[int]:
    """The carries, of those that change, on which `state` and results depend, from iteration to iteration."""
    reached = set(reachable([body.outputs[k] for k in (*state, *stacked)], body.inputs))
    more = [k for k in changing if k in state or body.inputs[k] in reached]
    return more if len(more) == len(state) else _needed(body, changing, more, stacked)
