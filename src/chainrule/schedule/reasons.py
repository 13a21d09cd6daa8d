"""Whose work a kernel does: its operations, and the roles, layers and lines that ask for them."""

from __future__ import annotations

import math

from chainrule.graph import Node
from chainrule.schedule.groups import contraction_of
from chainrule.schedule.kernels import Work

FORWARD, BACKWARD, UPDATE = "forward", "backward", "update"
PARTS = (FORWARD, BACKWARD, UPDATE)
"""What a training step is made of."""
_PART_OF = {"forward": FORWARD, "update": UPDATE}  # any other role belongs to the backward pass
_NAMES = 6  # of nodes that are listed; a fused kernel may be made of a hundred


def made_of(kernel: Work) -> str:
    """The operations of the graph that a kernel computes."""
    counts: dict[str, int] = {}
    for node in kernel.nodes:
        counts[node.name] = counts.get(node.name, 0) + 1
    names = [name if count == 1 else f"{count} {name}" for name, count in counts.items()]
    return ", ".join(names[:_NAMES]) + (", …" if len(names) > _NAMES else "")


def made_for(kernel: Work) -> str:
    """Why a kernel exists: the roles, layers and lines of its nodes."""
    columns = zip(*((role_of(each), each.layer, line_of(each)) for each in kernel.nodes), strict=True)
    parts = [", ".join(dict.fromkeys(each for each in column if each)) for column in columns]
    return " · ".join(part for part in parts if part)


def role_of(node: Node) -> str:
    """The role of a node's first origin."""
    return node.origins[0].role if node.origins else ""


def line_of(node: Node, whole_path: bool = False) -> str:
    """The user's line that a node exists for, ``file.py:12``; of a derivative, that of what is derived."""
    here: Node | None = node
    while here is not None:
        for origin in here.origins:
            if origin.file:
                return f"{origin.file}:{origin.line}" if whole_path else origin.where()
        of = (origin.of for origin in here.origins)
        here = next((each for each in of if isinstance(each, Node) and each is not here), None)
    return ""


def layer_of(node: Node) -> str:
    """The layer a node works for; of an update, the layer whose parameter it is. Else the line, else ""."""
    layer = node.layer
    if role_of(node) == "update":
        layer = layer.rpartition(".")[0]
    return layer or line_of(node)


def shares(kernel: Work) -> dict[tuple[str, str], float]:
    """(layer, part) → its share of a kernel: of the operations of its nodes, those that work for it."""
    found: dict[tuple[str, str], float] = {}
    for node in kernel.nodes:
        key = layer_of(node), _PART_OF.get(role_of(node), BACKWARD)
        found[key] = found.get(key, 0.0) + _operations(node)
    total = sum(found.values())
    return {key: each / total for key, each in found.items()} if total else {("", FORWARD): 1.0}


def _operations(node: Node) -> float:
    """Of a sum of products the operations of its nest, of any other node one per element it touches."""
    nest = contraction_of(node)
    if nest is not None:
        return 2.0 * math.prod(nest.extents)
    return float(max((type_.size for each in (node, *node.operands) for type_ in each.types), default=1) or 1)
