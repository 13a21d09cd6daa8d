"""What the values of a loss are called: parameters, buffers, inputs, and the outputs of layers."""

from __future__ import annotations

import operator
import re
from difflib import get_close_matches
from typing import TypeVar

import numpy as np

from chainrule.graph import Node, reachable
from chainrule.insight.adjoint import parameters_of
from chainrule.insight.formula import is_number
from chainrule.origin import at_user_line
from chainrule.tensor import Parameter, Tensor

Index = tuple[int, ...]
Named = TypeVar("Named", str | Tensor, str | Tensor | None)
NEAR = 8  # names that are suggested
_NUMBER = re.compile(r"(?P<name>.*?[^\s\[])\s*\[(?P<index>[-\d\s,]*)\]\s*")


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
    """Path of a layer → what it computed last; a layer has what the layers in it have.

    What is made of parameters alone, such as the transpose of a weight, is no output.
    """
    found: dict[str, Node] = {}
    learned = set[Node]()
    for node in reachable([loss]):
        if isinstance(node.cell, Parameter) or (node.operands and learned.issuperset(node.operands)):
            learned.add(node)
            continue
        path = node.layer if node.primitive is not None else ""
        while path:
            found[path] = node
            path = path.rpartition(".")[0]
    return found


def value_named(loss: Node, named: str | Tensor, written: Node | None = None) -> tuple[str, Node]:
    """The value that is meant: a Tensor, or the name of a parameter, an input, or a layer (its output).

    written  the loss with its loops written out, in which layers inside of loops are found too
    """
    if isinstance(named, Tensor):
        if named.node not in reachable([loss]):
            raise KeyError(f"this loss was not computed from this Tensor{at_user_line()}")
        names = {node: name for name, node in leaves_of(loss).items()}
        return names.get(named.node, "value"), named.node
    if not isinstance(named, str):
        raise TypeError(
            f"a {type(named).__name__} is no name{at_user_line()}: give that of a parameter or a layer, "
            '"input" for the first array that was given, or a Tensor that the loss was computed from'
        )
    known = outputs_of(written or loss) | leaves_of(loss)
    if named in known:
        return named, known[named]
    near = get_close_matches(named, known, cutoff=0.4) or list(known)[:NEAR]
    listed = f"but on {', '.join(near)}" if near else "nor on anything that has a name"
    raise KeyError(f"this loss depends on nothing called {named!r}, {listed}{at_user_line()}")


def number_named(name: str) -> tuple[str, Index | None]:
    """What "layers.0.weight[3, 5]" means: the name, and the index; None where there is none."""
    read = _NUMBER.fullmatch(name)
    if read is None:
        return name, None
    return read["name"], tuple(map(int, re.findall(r"-?\d+", read["index"])))


def asked_for(name: Named, index: int | Index) -> tuple[Named, int | Index]:
    """A name and an index, which may stand in the name instead."""
    if isinstance(name, str) and isinstance(index, tuple) and not index:
        path, inside = number_named(name)
        return path, inside or ()
    return name, index


def place_in(node: Node, name: str, index: int | Index) -> Index:
    """The indices of one element, checked; negative ones count from the end."""
    try:
        given = tuple(map(operator.index, index if isinstance(index, tuple | list) else np.atleast_1d(index)))
    except TypeError:
        raise TypeError(
            f"{index!r} is no element of {name}{at_user_line()}: give one whole number per axis, "
            f"of which there are {node.ndim}"
        ) from None
    shape = node.shape
    place = tuple(k + extent if k < 0 else k for k, extent in zip(given, shape, strict=False))
    if len(given) != len(shape) or not all(0 <= k < extent for k, extent in zip(place, shape, strict=True)):
        last = f"; the last is {tuple(extent - 1 for extent in shape)}" if node.size and shape else ""
        raise IndexError(f"{name} has shape {shape}: {given} is none of its elements{last}{at_user_line()}")
    return place
