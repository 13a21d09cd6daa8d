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

_BLOCK_BITS = 128
_BITS = {"float": 32, "double": 64, "i16": 16, "i32": 32, "i64": 64}


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
    """As many vectors as they have lanes, a power of two, a square with rows and columns exchanged.

    First inside of blocks of 16 bytes, then blocks as wholes: on x86 an instruction each, and the quick ones.
    """
    lanes = len(rows)
    block = max(1, min(lanes, _BLOCK_BITS // _BITS.get(scalar_of(rows[0].type), 8)))
    rows, distance = list(rows), 1
    while distance < lanes:
        exchanged = _zipped(lanes, block, distance) if distance < block else _parted(lanes, block)
        for row in (row for row in range(lanes) if not row & distance):
            pair = rows[row], rows[row + distance]
            rows[row], rows[row + distance] = (function.shuffle(*pair, chosen) for chosen in exchanged)
        distance *= 2
    within = _mirrored(block)
    return [rows[column - column % block + within[column % block]] for column in range(lanes)]


def _mirrored(count: int) -> list[int]:
    """The numbers below a power of two in the order of their digits read backwards."""
    return [0] if count == 1 else [2 * k + last for last in (0, 1) for k in _mirrored(count // 2)]


def _zipped(lanes: int, block: int, width: int) -> tuple[list[int], list[int]]:
    """Of two vectors, pieces of `width` in turn: those of the first halves of blocks, and of the second."""
    halves = (range(0, block // 2, width), range(block // 2, block, width))
    low, high = (
        [
            start + at + vector * lanes + k
            for start in range(0, lanes, block)
            for at in half
            for vector in (0, 1)
            for k in range(width)
        ]
        for half in halves
    )
    return low, high


def _parted(lanes: int, block: int) -> tuple[list[int], list[int]]:
    """Of two vectors the even blocks, and the odd ones."""
    even, odd = (
        [start + k for start in range(first, 2 * lanes, 2 * block) for k in range(block)]
        for first in (0, block)
    )
    return even, odd
