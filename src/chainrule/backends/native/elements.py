"""Elements of an array as vectors in registers: contiguous, repeated, or a stride apart.

A mask leaves out lanes beyond the end of an axis, where memory may not be ours. In memory a bool is a byte,
in a register one bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.backends.native.emit import Function
from chainrule.backends.native.values import (  # fmt: skip
    INDEX,
    POINTER,
    SCALARS,
    Value,
    constant,
    lanes_of,
    mangled,
    scalar_of,
    vector,
)


def read(
    function: Function,
    pointer: Value,
    dtype: np.dtype[Any],
    stride: int,
    lanes: int,
    mask: Value | None = None,
) -> Value:
    """`lanes` elements, each `stride` elements behind the one before; stride 0 reads one and repeats it."""
    scalar = SCALARS[dtype.name]
    type_ = vector(scalar, lanes)
    if stride == 0 or lanes == 1:
        value = function.splat(function.load(pointer, scalar), lanes)
    elif stride != 1:
        value = _gathered(function, pointer, dtype, type_, stride, mask)
    elif mask is None:
        value = function.load(pointer, type_)
    else:
        value = function.load_masked(pointer, type_, mask)
    return function.compare("ne", value, constant(0, type_)) if dtype.kind == "b" else value


def write(
    function: Function, value: Value, pointer: Value, dtype: np.dtype[Any], stride: int,
    mask: Value | None = None,
) -> None:  # fmt: skip
    """The lanes of a value stored `stride` elements apart."""
    lanes = lanes_of(value.type)
    if dtype.kind == "b":
        value = function.convert("zext", value, vector(SCALARS[dtype.name], lanes))
    if lanes > 1 and stride != 1:
        places = _places(function, pointer, value.type, stride)
        alignment = constant(dtype.itemsize, "i32")
        name = f"llvm.masked.scatter.{mangled(value.type)}.v{lanes}p0"
        arguments = [value, places, alignment, function.mask_below(lanes, lanes) if mask is None else mask]
        function.intrinsic(name, "void", arguments)
    elif mask is None:
        function.store(value, pointer)
    else:
        function.store_masked(value, pointer, mask)


def _gathered(
    function: Function, pointer: Value, dtype: np.dtype[Any], type_: str, stride: int, mask: Value | None
) -> Value:
    lanes = lanes_of(type_)
    places = _places(function, pointer, type_, stride)
    alignment = constant(dtype.itemsize, "i32")
    everywhere = function.mask_below(lanes, lanes) if mask is None else mask
    arguments = [places, alignment, everywhere, Value("zeroinitializer", type_)]
    return function.intrinsic(f"llvm.masked.gather.{mangled(type_)}.v{lanes}p0", type_, arguments)


def _places(function: Function, pointer: Value, type_: str, stride: int) -> Value:
    """The addresses of lanes that lie `stride` elements apart."""
    lanes = lanes_of(type_)
    steps = ", ".join(f"{INDEX} {lane * stride}" for lane in range(lanes))
    offsets = Value(f"<{steps}>", vector(INDEX, lanes))
    return function.emit(vector(POINTER, lanes), f"getelementptr {scalar_of(type_)}, {pointer}, {offsets}")


def transposed(function: Function, rows: Sequence[Value]) -> list[Value]:
    """As many vectors as they have lanes, a square, with rows and columns exchanged.

    Squares of 2, 4, 8 … are turned one after the other: log2(lanes) shuffles per vector.
    """
    rows, lanes, distance = list(rows), len(rows), 1
    while distance < lanes:
        upper = [lane + lanes - distance if lane & distance else lane for lane in range(lanes)]
        lower = [lane + lanes if lane & distance else lane + distance for lane in range(lanes)]
        for row in range(lanes):
            if not row & distance:
                a, b = rows[row], rows[row + distance]
                rows[row], rows[row + distance] = function.shuffle(a, b, upper), function.shuffle(a, b, lower)
        distance *= 2
    return rows
