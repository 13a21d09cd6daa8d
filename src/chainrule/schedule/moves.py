"""Kernels that move elements: copies, fills, sums of a row of numbers."""

from __future__ import annotations

from chainrule.graph import Node
from chainrule.schedule.choices import lane_of
from chainrule.schedule.kernels import (
    Access,
    Expression,
    Loops,
    Statement,
    View,
)
from chainrule.schedule.views import has_room
from chainrule.types import Shape


def copy(source: View, target: View, nodes: tuple[Node, ...]) -> Loops:
    """A kernel that moves elements from one place to another."""
    strides = tuple(0 if n == 1 else s for n, s in zip(source.shape, source.strides, strict=True))
    load = Expression(
        "load", (), source.buffer.dtype, {"access": Access(source.buffer, source.offset, strides)}
    )
    return _flat(target, load, nodes)


def fill(target: View, number: float, nodes: tuple[Node, ...]) -> Loops:
    """A kernel that writes one number everywhere."""
    dtype = target.buffer.dtype
    return _flat(target, Expression("constant", (), dtype, {"value": dtype.type(number)}), nodes)


def total(source: View, target: View, nodes: tuple[Node, ...]) -> Loops:
    """A kernel that sums up one row of numbers."""
    dtype = target.buffer.dtype
    load = Expression("load", (), dtype, {"access": Access(source.buffer, source.offset, (1,))})
    statement = Statement(load, Access(target.buffer, target.offset, (0,)), "sum", (0,))
    return Loops(source.shape, 1, 0, (statement,), nodes)


def _flat(target: View, value: Expression, nodes: tuple[Node, ...]) -> Loops:
    access = Access(target.buffer, target.offset, target.strides, has_room(target))
    statements = (Statement(value, access),)
    return Loops(
        target.shape,
        len(target.shape),
        lane_of(target.shape, len(target.shape), statements),
        statements,
        nodes,
    )


def part_of(target: View, axis: int, start: int, shape: Shape) -> View:
    """A stretch of an array along one axis."""
    return View(target.buffer, target.offset + start * target.strides[axis], shape, target.strides)
