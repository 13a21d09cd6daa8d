"""A kernel as text that says everything its code depends on, and nothing else.

Kernels with the same text are the same function: equal layers share one. The text is also what people read
(`show("nests")`) and what the cache of object files goes by, so it is exact: every number is written such
that it can be read back. Where a buffer lies and what it is called is no part of it; buffers are numbered by
the kernel's places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha256
from typing import Any

import numpy as np

from chainrule.graph import Graph
from chainrule.schedule.kernels import (
    Access,
    Expression,
    Kernel,
    Loops,
    Special,
    Statement,
    View,
    expressions,
    places,
)


def structure(kernel: Kernel) -> str:
    """The text of one kernel, a line for its loop, its places, its expressions and its statements each.

    >>> import numpy as np
    >>> from chainrule.schedule.kernels import Access, Buffer, Expression, Loops, Statement
    >>> number = np.dtype("float32")
    >>> x, y = (Buffer(name, number, (8,), (1,), 8) for name in "xy")
    >>> loaded = Expression("load", (), number, {"access": Access(x, 0, (1,))})
    >>> root = Expression("sqrt", (loaded,), number)
    >>> print(structure(Loops((8,), 1, 0, (Statement(root, Access(y, 0, (1,))),))))
    loops (8,) rows 1 lane 0
      p0: b0 float32 (1,) aligned slack
      p1: b1 float32 (1,) aligned slack
      e0 = load p0 : float32
      e1 = sqrt e0 : float32
      s0: p1 = e1
    """
    listed = places(kernel)
    memory = _places(listed)
    if isinstance(kernel, Special):
        return "\n  ".join([f"special {kernel.record} {exact(kernel.attributes)}", *memory])
    if isinstance(kernel, Loops):
        head = f"loops {kernel.extents} rows {kernel.rows} lane {kernel.lane}"
    else:
        head = f"contraction {kernel.extents} outputs {kernel.outputs} lane {kernel.lane}"
        memory.append("sum = Σ p0 × p1")
    numbers = {id(place): number for number, place in reversed(list(enumerate(listed)))}
    return "\n  ".join([head, *memory, *_statements(kernel.statements, numbers)])


def exact(value: Any) -> str:
    """An attribute as text that no other value has."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {exact(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(map(exact, value)) + ")"
    if isinstance(value, np.generic):
        return f"{value.item()!r}" if value.dtype.kind != "V" else repr(value)
    if isinstance(value, np.ndarray):
        digest = sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"{value.dtype}{list(value.shape)}#{digest}"
    text = repr(value)
    if isinstance(value, Graph) or " at 0x" in text:
        raise TypeError(f"{text} has no text that tells it from every other {type(value).__name__}")
    return text


@cache
def _name(dtype: np.dtype[Any]) -> str:
    """NumPy takes microseconds to say it, and it is asked for every value of every kernel."""
    return str(dtype)


def _places(listed: Sequence[Access | View]) -> list[str]:
    """What is known of the memory behind each pointer argument."""
    first: dict[int, tuple[int, int]] = {}  # buffer → its number, and the offset where it is first met
    lines = []
    for number, place in enumerate(listed):
        buffer = place.buffer
        of, base = first.setdefault(id(buffer), (len(first), place.offset))
        further = f"{place.offset - base:+}" if place.offset != base else ""
        shape = f" {place.shape}" if isinstance(place, View) else ""
        ours = buffer.role not in ("input", "output", "window")
        marks = [" aligned"] if ours and place.offset == 0 else []
        marks += [" slack"] if buffer.slack else []
        marks += [" overrun"] if isinstance(place, Access) and place.overrun else []
        what = f"b{of}{further} {_name(buffer.dtype)}{shape} {place.strides}"
        lines.append(f"p{number}: {what}{''.join(marks)}")
    return lines


def _statements(statements: Sequence[Statement], places_: Mapping[int, int]) -> Iterator[str]:
    order = {id(statement): number for number, statement in enumerate(statements)}
    names: dict[Expression, str] = {}
    for each in expressions(statement.value for statement in statements):
        names[each] = f"e{len(names)}"
        yield f"{names[each]} = {_expression(each, names, places_, order)} : {_name(each.dtype)}"
    for number, statement in enumerate(statements):
        combined = f"{statement.combiner} over {statement.over} of " if statement.combiner else ""
        target = f"p{places_[id(statement.target)]} = " if statement.target is not None else ""
        row = "per row, " if statement.per_row else ""
        yield f"s{number}: {target}{row}{combined}{names[statement.value]}"


def _expression(
    each: Expression, names: Mapping[Expression, str], places_: Mapping[int, int], order: Mapping[int, int]
) -> str:
    match each.op:
        case "load":
            return f"load p{places_[id(each.attributes['access'])]}"
        case "result":
            return f"s{order[id(each.attributes['statement'])]}"
        case "constant":
            return exact(each.attributes["value"])
        case "sum":
            return "sum"
    parts = [each.op, *(names[argument] for argument in each.arguments)]
    if each.attributes:
        parts.append(exact(each.attributes))
    return " ".join(parts)
