"""Formulas: nodes as they are written on paper, with names or with numbers in them.

A local derivative is no table. The pullback in the record of a primitive is traced, as for a compiled
gradient, and the graph that comes out is written like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from chainrule.graph import ITEM, Graph, Node, format_attribute, rebuilt
from chainrule.reverse import walk
from chainrule.trace import Trace
from chainrule.types import Shape

DIGITS = 4  # significant digits of a number in a formula
WHOLE = 12  # an array of so many elements is shown whole
FEW = 3  # so many elements stand for a larger one

_SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "matmul": "@", "pow": "**"}
_SIGNS |= {"greater": ">", "less": "<", "greater_equal": ">=", "less_equal": "<=", "equal": "=="}
_BINDS = {"+": 1, "-": 1, "*": 2, "/": 2, "@": 3, "**": 5}  # those that are not here bind least
_SIGN, _ATOM = 4, 6
_LAYOUT = {"carries", "sequences"}  # attributes that say which operand is what
_TOGETHER = {"+": "+-", "*": "*/"}  # after these signs, a term with those needs no parentheses


class _Text(NamedTuple):
    """A formula, how strongly what stands outermost in it binds, and the sign of that."""

    text: str
    binds: int = _ATOM
    sign: str = ""


def formula(node: Node, names: Mapping[Node, str]) -> str:
    """What computes a node, down to what has a name; constants without a name are numbers.

    A name may be a number too: then these are the numbers substituted.
    """
    if node.name == "reshape" and node not in names and node.operands[0] in names:
        return _operation(node, [_written(each, names) for each in node.operands]).text
    return _written(node, names).text


class Pulled(NamedTuple):
    """The local derivative of a node through one operand, as a graph.

    part      what is pulled back through the operand
    cotangent stands for the derivative by the node, `node` for its value
    operands  stand for the operands; one that is a number without history is the number
    """

    part: Node
    cotangent: Node
    node: Node
    operands: tuple[Node, ...]


def pulled(node: Node, operand: int) -> Pulled:
    """Trace the pullback that is in the record of a node's primitive, for one of its operands.

    What broadcasting repeated is summed, as the backward walk does it.
    """
    trace = Trace()
    known = {each: each if is_number(each) else trace.input(each.type) for each in node.operands}
    operands = tuple(known[each] for each in node.operands)
    value = rebuilt(node, operands)
    cotangent = trace.input(node.type)
    with trace.running():
        parts = dict(walk.contributions(value, cotangent, {operands[operand]}))
    return Pulled(parts[operand], cotangent, value, operands)


def is_number(node: Node) -> bool:
    """A number that stands in the program, such as the 2 of ``x**2``."""
    return node.primitive is None and node.value is not None and not node.status and node.shape == ()


def number(value: Any) -> str:
    """A value to four significant digits: small arrays whole, of others the first numbers and the shape."""
    if isinstance(value, tuple):
        return f"({', '.join(map(number, value))})"
    array = np.asarray(value)
    if array.ndim == 0:
        return _scalar(array[()])
    if array.size <= WHOLE:
        return _nested(array.tolist())
    few = ", ".join(map(_scalar, array.ravel()[:FEW]))
    return f"[{few}, … {' × '.join(map(str, array.shape))}]"


def _scalar(value: Any) -> str:
    return f"{value + 0.0:.{DIGITS}g}" if isinstance(value, float | np.floating) else str(value)


def _nested(value: Any) -> str:
    return f"[{', '.join(map(_nested, value))}]" if isinstance(value, list) else _scalar(value)


# -- writing -------------------------------------------------------------------------------------------------
def _written(node: Node, names: Mapping[Node, str]) -> _Text:
    if node in names:
        return _named(names[node])
    if node.primitive is None:
        return _named(number(node.value))
    if _turns(node):
        return _turned(node.operands[0], names)
    if node.name == "reshape" and _long(node) == _long(node.operands[0]):
        return _written(node.operands[0], names)  # what keeps or drops axes of length 1 on the way
    return _operation(node, [_written(each, names) for each in node.operands])


def _named(name: str) -> _Text:
    return _Text(name, _SIGN) if name.startswith("-") else _Text(name)


def _turns(node: Node) -> bool:
    return node.name == "permute_dims" and node.attributes["axes"] == (1, 0)


def _turned(node: Node, names: Mapping[Node, str]) -> _Text:
    """The transpose of a node: twice is not at all, and (A.T @ B).T is B.T @ A, as the books have it."""
    if node not in names and _turns(node):
        return _written(node.operands[0], names)
    if node not in names and node.name == "matmul":
        left, right = node.operands
        return _infix("@", _turned(right, names), _turned(left, names))
    return _Text(f"{_inside(_written(node, names), _ATOM)}.T")


def _operation(node: Node, operands: list[_Text]) -> _Text:
    """One operation on what is written already: with its sign, where mathematics has one."""
    sign = _SIGNS.get(node.name)
    if sign is not None:
        return _infix(sign, *operands)
    (first, *_) = operands or [_Text("")]
    if node.name == "negative":
        return _negative(first)
    if node.name == "square":
        return _infix("**", first, _Text("2"))
    if node.name in ("slice", ITEM):
        return _Text(f"{_inside(first, _ATOM)}[{_range(**node.attributes)}]")
    return _Text(f"{node.name}({', '.join([*(each.text for each in operands), *_attributes(node)])})")


def _negative(part: _Text) -> _Text:
    if part.sign in ("*", "/") and not part.text.startswith("-"):
        return _Text(f"-{part.text}", part.binds, part.sign)
    return _Text(f"-{_inside(part, _SIGN + 1)}", _SIGN)


def _infix(sign: str, left: _Text, right: _Text) -> _Text:
    if sign == "**" and right.text == "1":
        return left
    binds = _BINDS.get(sign, 0)
    before = _inside(left, binds + (sign == "**"))
    after = right.text if right.sign and right.sign in _TOGETHER.get(sign, "") else _inside(right, binds + 1)
    if after.startswith("-"):
        after = f"({after})"
    gap = "" if sign == "**" else " "
    return _Text(f"{before}{gap}{sign}{gap}{after}", binds, sign)


def _inside(part: _Text, binds: int) -> str:
    return part.text if part.binds >= binds else f"({part.text})"


def _attributes(node: Node) -> list[str]:
    """The attributes that say what is computed, not how it is laid out."""
    written = []
    for key, value in node.attributes.items():
        if key == "axis" and isinstance(value, tuple):
            if len(value) == node.operands[0].ndim:
                continue
            value = value[0] if len(value) == 1 else value
        if key not in _LAYOUT and not isinstance(value, Graph | bool) and not callable(value):
            written.append(f"{key}={format_attribute(value)}")
    return written


def _range(index: int = 0, start: Shape = (), stop: Shape = (), step: Shape = ()) -> str:
    """What stands in the brackets of an item or a slice."""
    pieces = [f"{a}:{b}" + (f":{c}" if c != 1 else "") for a, b, c in zip(start, stop, step, strict=True)]
    return ", ".join(pieces) or str(index)


def _long(node: Node) -> list[int]:
    """The lengths of the axes along which there is anything to order."""
    return [extent for extent in node.shape if extent != 1]
