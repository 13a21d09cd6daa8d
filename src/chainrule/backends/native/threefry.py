"""Random bits: Threefry-2x32, twenty rounds, a vector of counters at a time; bit for bit the reference."""

from __future__ import annotations

import numpy as np

from chainrule.backends.native.emit import Emitted, Function, Module
from chainrule.backends.native.target import Target
from chainrule.backends.native.values import INDEX, SCALARS, Index, Value, constant, lanes_of, mangled, vector
from chainrule.backends.native.walking import count_units, each_stretch, merged, units_of, views_of
from chainrule.primitives.random import PARITY, ROTATIONS
from chainrule.schedule.kernels import Special, Strides
from chainrule.types import Shape

WORD = "i32"


class _Cipher:
    """Words encrypted under the key of a kernel; the rounds are one function, shared by a whole module."""

    def __init__(self, function: Function, kernel: Special, lanes: int) -> None:
        self.lanes, self.type = lanes, vector(WORD, lanes)
        self._function, self._name = function, f"threefry.{lanes}"
        if self._name not in function.module.functions:
            _write_rounds(function.module, self._name, self.type)
        pointer, (stride,) = views_of(function)[0], kernel.operands[0].strides
        self._keys = [function.load(function.at(pointer, k * stride, WORD), WORD) for k in (0, 1)]

    def __call__(self, word_0: Value, word_1: Value) -> tuple[Value, Value]:
        function, pair = self._function, _pair(self.type)
        both = function.call(self._name, pair, [*self._keys, word_0, word_1])
        first, second = (function.emit(self.type, f"extractvalue {both}, {k}") for k in (0, 1))
        return first, second


def _pair(type_: str) -> str:
    return f"{{ {type_}, {type_} }}"


def _write_rounds(module: Module, name: str, type_: str) -> None:
    """``threefry(key 0, key 1, words 0, words 1)``, as in `chainrule.primitives.random`."""
    arguments = [("key_0", WORD), ("key_1", WORD), ("word_0", type_), ("word_1", type_)]
    function = Function(module, name, arguments, result=_pair(type_))
    key_0, key_1, word_0, word_1 = function.arguments
    mixed = function.binary("xor", function.binary("xor", key_0, key_1), constant(int(PARITY), WORD))
    lanes = lanes_of(type_)
    keys = [function.splat(key, lanes) for key in (key_0, key_1, mixed)]
    x, y = function.binary("add", word_0, keys[0]), function.binary("add", word_1, keys[1])
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            x = function.binary("add", x, y)
            y = function.intrinsic(f"llvm.fshl.{mangled(type_)}", type_, [y, y, constant(rotation, type_)])
            y = function.binary("xor", y, x)
        x = function.binary("add", x, keys[(group + 1) % 3])
        numbered = function.binary("add", keys[(group + 2) % 3], constant(group + 1, type_))
        y = function.binary("add", y, numbered)
    half = function.emit(_pair(type_), f"insertvalue {_pair(type_)} poison, {x}, 0")
    function.give_back(function.emit(_pair(type_), f"insertvalue {half}, {y}, 1"))


# -- random_bits -------------------------------------------------------------------------------------------
def emit_random_bits(function: Function, kernel: Special, target: Target) -> Emitted:
    """The words of counters 0, 1, …: first words fill the first half, second words the other."""
    out = kernel.target
    cipher = _Cipher(function, kernel, target.lanes(np.uint32))
    shape, size = out.shape, int(np.prod(out.shape, dtype=np.int64))
    if out.strides == _dense(shape):
        return _dense_bits(function, cipher, size)
    axes = merged(shape, out.strides, _dense(shape))
    numbers = function.lane_numbers(cipher.lanes, WORD)
    half = constant((size + 1) // 2, cipher.type)

    def stretch(offsets: list[Index], width: int) -> None:
        at = function.convert("trunc", function.index(offsets[1]), WORD)
        flat = function.binary("add", function.splat(at, cipher.lanes), numbers)
        early = function.compare("ult", flat, half)
        counter = function.select(early, flat, function.binary("sub", flat, half))
        first, second = cipher(counter, function.binary("add", counter, half))
        place = function.at(views_of(function)[1], offsets[0], WORD)
        _store_first(function, function.select(early, first, second), place, width)

    each_stretch(function, axes, cipher.lanes, stretch, units_of(function))
    return Emitted(count_units(axes, cipher.lanes))


def _dense(shape: Shape) -> Strides:
    """Strides of an array without gaps."""
    return tuple(int(np.prod(shape[k + 1 :], dtype=np.int64)) for k in range(len(shape)))


def _dense_bits(function: Function, cipher: _Cipher, size: int) -> Emitted:
    """Both words of every counter are used. A unit of work is a vector of counters."""
    lanes, half, destination = cipher.lanes, (size + 1) // 2, views_of(function)[1]
    whole, units = size // 2 // lanes, -(-half // lanes)
    numbers = function.lane_numbers(lanes, WORD)
    first, last = units_of(function)

    def encrypt(start: Index, widths: tuple[int, int]) -> None:
        at = function.splat(function.convert("trunc", function.index(start), WORD), lanes)
        counter = function.binary("add", at, numbers)
        words = cipher(counter, function.binary("add", counter, constant(half, cipher.type)))
        for each, begin, width in zip(words, (0, half), widths, strict=True):
            place = function.at(destination, function.add(start, begin), WORD)
            _store_first(function, each, place, width)

    stop = function.smaller(last, whole)
    function.loop(
        first, stop, 1, [], lambda unit, _: encrypt(function.mul(unit, lanes), (lanes, lanes))
    )  # fmt: skip
    if units > whole:
        done = whole * lanes
        start = function.intrinsic("llvm.smax.i64", INDEX, [first, function.index(whole)])
        function.loop(start, last, 1, [], lambda *_: encrypt(done, (half - done, size - half - done)))
    return Emitted(units)


def _store_first(function: Function, value: Value, place: Value, width: int) -> None:
    """The first `width` lanes of a vector into memory."""
    lanes = lanes_of(value.type)
    if width >= lanes:
        function.store(value, place)
    elif width:
        function.store_masked(value, place, function.mask_below(width, lanes))


# -- fold_in -----------------------------------------------------------------------------------------------
def emit_fold_in(function: Function, kernel: Special, target: Target) -> Emitted:
    """A key from a key and a number: the words (0, number), encrypted."""
    data, out = kernel.operands[1], kernel.target
    cipher = _Cipher(function, kernel, target.lanes(np.uint32))
    _, number, destination = views_of(function)
    type_ = SCALARS[data.buffer.dtype.name]
    unit = units_of(function)

    def fold(*_: object) -> None:
        word = _as_word(function, function.load(number, type_), data.buffer.dtype)
        words = cipher(constant(0, cipher.type), function.splat(word, cipher.lanes))
        for k, each in enumerate(words):
            function.store(function.extract(each, 0), function.at(destination, k * out.strides[0], WORD))

    function.loop(*unit, 1, [], fold)
    return Emitted(1)


def _as_word(function: Function, value: Value, dtype: np.dtype[np.generic]) -> Value:
    """A number as uint32, modulo 2**32."""
    if dtype.kind == "f":
        return function.convert("trunc", function.convert("fptosi", value, INDEX), WORD)
    if dtype.itemsize > 4:
        return function.convert("trunc", value, WORD)
    return function.convert("sext" if dtype.kind == "i" else "zext", value, WORD)
