"""Code that gathers the rows of a minibatch into the arrays that a step reads."""

from __future__ import annotations

import math
from collections.abc import Sequence

from chainrule.backends.native.elements import transposed
from chainrule.backends.native.emit import Function, Module
from chainrule.backends.native.values import INDEX, POINTER, SCALARS, Index, Value, vector
from chainrule.schedule.kernels import View
from chainrule.schedule.views import dense_strides
from chainrule.types import Shape

_NEAR = 256
"""Bytes of a row from which on the next row is fetched into the cache while this one is copied."""
_LINE = 64


def emit_gather(module: Module, name: str, view: View, lanes: int) -> str:
    """``void gather(ptr data, i64 bytes from row to row, ptr row numbers, ptr batch)``."""
    arguments = [("data", POINTER), ("apart", INDEX), ("rows", POINTER), ("batch", POINTER)]
    function = Function(module, name, arguments)
    data, apart, rows, batch = function.arguments
    size, itemsize = view.shape[0], view.buffer.dtype.itemsize
    bytes_ = math.prod(view.shape[1:]) * itemsize

    def row(number: Index) -> Value:
        chosen = function.load(function.at(rows, number, INDEX), INDEX)
        return function.at(data, function.mul(chosen, apart), "i8")

    def copy(number: Index, _: list[Value]) -> None:
        source = row(number)
        target = function.at(batch, function.mul(number, view.strides[0] * itemsize), "i8")
        if bytes_ >= _NEAR:
            following = row(function.smaller(function.add(number, 1), size - 1))
            _fetch(function, following, bytes_)
        _copy_row(function, source, target, view.shape[1:], view.strides[1:], itemsize)

    def turn(first: Index, _: list[Value]) -> None:
        chosen = [row(function.smaller(function.add(first, k), size - 1)) for k in range(lanes)]
        _turn_rows(function, chosen, function.at(batch, first, scalar), view, lanes)

    scalar = SCALARS[view.buffer.dtype.name]
    if not size or not bytes_:
        pass
    elif _examples_lie_innermost(view, lanes):
        function.loop(0, size, lanes, [], turn)
    else:
        function.loop(0, size, 1, [], copy)
    function.give_back()
    return name


def _examples_lie_innermost(view: View, lanes: int) -> bool:
    """True where element k of example i lies at ``k * step + i``, with room for whole vectors of examples."""
    elements, step = math.prod(view.shape[1:]), view.strides[-1]
    regular = all(
        stride == dense * step
        for stride, dense in zip(view.strides[1:], dense_strides(view.shape[1:]), strict=True)
    )
    return view.strides[0] == 1 and regular and elements >= lanes > 1 and step >= view.shape[0]


def _turn_rows(function: Function, rows: Sequence[Value], target: Value, view: View, lanes: int) -> None:
    """As many examples as a vector has lanes, a square of elements at a time turned over in registers."""
    scalar = SCALARS[view.buffer.dtype.name]
    elements, step = math.prod(view.shape[1:]), view.strides[-1]

    def square(at: Index, _: list[Value]) -> None:
        loaded = [function.load(function.at(each, at, scalar), vector(scalar, lanes)) for each in rows]
        for k, column in enumerate(transposed(function, loaded)):
            place = function.mul(function.add(at, k), step)
            function.store(column, function.at(target, place, scalar))

    whole = elements // lanes * lanes
    function.loop(0, whole, lanes, [], square)
    if whole < elements:
        square(elements - lanes, [])  # once more some of the elements before


def _fetch(function: Function, pointer: Value, size: int) -> None:
    function.loop(
        0, size, _LINE, [], lambda at, _: function.prefetch(function.at(pointer, at, "i8"), locality=2)
    )


def _copy_row(
    function: Function, source: Value, target: Value, shape: Shape, strides: Shape, itemsize: int
) -> None:
    """Dense elements to elements with strides: axis by axis, the last dense ones at once."""
    run, axes = itemsize, len(shape)
    while axes and (shape[axes - 1] == 1 or strides[axes - 1] * itemsize == run):
        axes -= 1
        run *= shape[axes]
    if axes == 0:
        _copy_bytes(function, source, target, run)
        return
    inside = math.prod(shape[1:]) * itemsize

    def part(at: Index, _: list[Value]) -> None:
        _copy_row(
            function,
            function.at(source, function.mul(at, inside), "i8"),
            function.at(target, function.mul(at, strides[0] * itemsize), "i8"),
            shape[1:],
            strides[1:],
            itemsize,
        )

    function.loop(0, shape[0], 1, [], part)


def _copy_bytes(function: Function, source: Value, target: Value, size: int) -> None:
    """`size` bytes, in vectors, then in halves of vectors down to single bytes."""
    at = size // _LINE * _LINE

    def line(position: Index, _: list[Value]) -> None:
        value = function.load(function.at(source, position, "i8"), f"<{_LINE} x i8>")
        function.store(value, function.at(target, position, "i8"))

    function.loop(0, at, _LINE, [], line)
    width = _LINE // 2
    while at < size:
        if size - at >= width:
            type_ = f"i{8 * width}" if width <= 8 else f"<{width} x i8>"
            value = function.load(function.at(source, at, "i8"), type_, align=1)
            function.store(value, function.at(target, at, "i8"), align=1)
            at += width
        width //= 2
