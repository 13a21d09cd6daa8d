"""What the leaves of a loss are called: parameters, buffers, and the inputs that it was computed from."""

from __future__ import annotations

from chainrule.graph import Node, reachable
from chainrule.insight.adjoint import parameters_of
from chainrule.insight.formula import is_number
from chainrule.tensor import Parameter


def leaves_of(loss: Node) -> dict[str, Node]:
    """Parameters by path, then buffers by theirs, then inputs: "input", "input 1", in the order of making.

    An input is an array that was given: the rows of a batch, their targets. What a layer made by itself, such
    as the mask of a Dropout, and single numbers of the program, such as the 2 in ``x**2``, are none.
    """
    leaves = [node for node in reachable([loss]) if node.primitive is None]
    learned = any(isinstance(node.cell, Parameter) and node.floating for node in leaves)
    found = parameters_of(loss) if learned else {}
    known = set(found.values())
    inputs: list[Node] = []
    for node in leaves:
        name = "" if node.cell is None else node.cell.name
        if name and node not in known:
            found[name if name not in found else f"{name} {len(found)}"] = node
        elif node not in known and not is_number(node) and not node.layer:
            inputs.append(node)
    return found | {f"input {k}" if k else "input": node for k, node in enumerate(inputs)}
