"""Gates: the nodes that every path from a value to the loss passes.

From gate to gate the derivative of the loss changes by a factor, whatever lies between them.
"""

from __future__ import annotations

from chainrule.graph import ITEM, Node
from chainrule.insight.adjoint import Adjoint


def gates_of(adjoint: Adjoint) -> dict[Node, Node]:
    """Node → its next gate towards the loss: where the ways of all its uses meet first."""
    gates: dict[Node, Node] = {}
    depth = {adjoint.loss: 0}
    for node in adjoint.backward_order:
        users = [edge.user for edge in adjoint.uses.get(node, ()) if edge.user in depth]
        if node is adjoint.loss or not users:
            continue
        gate, *others = sorted(users, key=lambda user: -depth[user])  # in a loop, each leads to the next
        for user in others:
            while gate is not user:
                if depth[gate] >= depth[user]:
                    gate = gates[gate]
                else:
                    user = gates[user]
        gates[node], depth[node] = gate, depth[gate] + 1
    return gates


def place_of(node: Node) -> str:
    """The layer a node belongs to, or else the operation and the user's line."""
    where = node.origins[0].where() if node.origins else ""
    made = node.operands[0] if node.name == ITEM else node
    return node.layer or f"{made.name} {where}".strip()
