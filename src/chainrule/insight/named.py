"""What the values of a loss are called: parameters, buffers, inputs, and the outputs of layers."""

from __future__ import annotations

import operator
from difflib import get_close_matches

from chainrule.graph import Node, reachable
from chainrule.insight.adjoint import parameters_of
from chainrule.insight.formula import is_number
from chainrule.origin import at_user_line
from chainrule.tensor import Parameter, Tensor

Index = tuple[int, ...]


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


def outputs_of(loss: Node) -> dict[str, Node]:
    """Path of a layer → what it computed last; a layer has what the layers in it have."""
    found: dict[str, Node] = {}
    for node in reachable([loss]):
        path = node.layer if node.primitive is not None else ""
        while path:
            found[path] = node
            path = path.rpartition(".")[0]
    return found


def value_named(loss: Node, named: str | Tensor) -> tuple[str, Node]:
    """The value that is meant: a Tensor, or the name of a parameter, an input, or a layer (its output)."""
    if isinstance(named, Tensor):
        if named.node not in reachable([loss]):
            raise KeyError(f"this loss was not computed from this Tensor{at_user_line()}")
        names = {node: name for name, node in leaves_of(loss).items()}
        return names.get(named.node, "value"), named.node
    known = outputs_of(loss) | leaves_of(loss)
    if named in known:
        return named, known[named]
    near = get_close_matches(named, known, cutoff=0.4) or known
    raise KeyError(f"this loss depends on nothing called {named!r}, but on {', '.join(near)}{at_user_line()}")


def place_in(node: Node, name: str, index: int | Index) -> Index:
    """The indices of one element, checked."""
    place = tuple(map(operator.index, index if isinstance(index, tuple | list) else (index,)))
    shape = node.shape
    if len(place) != len(shape) or not all(0 <= k < extent for k, extent in zip(place, shape, strict=True)):
        raise IndexError(f"{name} has shape {shape}: {place} is none of its elements{at_user_line()}")
    return place
