"""Lanes: numbers in registers with Python's operators, so that mathematics reads as mathematics.

``x * x + 1`` writes two instructions into the function that x belongs to. A Python number beside lanes is a
constant of their type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from chainrule.backends.native.emit import Function
from chainrule.backends.native.values import Value, constant, lanes_of, mangled, register_type

BOOL = np.dtype(bool)
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
SIGNED = {1: np.dtype(np.int8), 2: np.dtype(np.int16), 4: np.dtype(np.int32), 8: np.dtype(np.int64)}
Number = bool | int | float


class Lanes:
    """A value of one dtype (a vector, or a scalar for one lane) in the function that computes it."""

    __slots__ = ("dtype", "function", "value")

    def __init__(self, function: Function, value: Value, dtype: Any) -> None:
        self.function, self.value, self.dtype = function, value, np.dtype(dtype)

    # -- what it is ------------------------------------------------------------------------------------------
    @property
    def count(self) -> int:
        """How many lanes there are."""
        return lanes_of(self.value.type)

    @property
    def floating(self) -> bool:
        return bool(self.dtype.kind == "f")

    @property
    def signed(self) -> bool:
        return self.dtype.kind in "if"

    @property
    def is_number(self) -> bool:
        """True for a constant other than NaN."""
        text = self.value.text
        return not (text.startswith("%") or "poison" in text or "0x7FF8" in text or "0xFFF8" in text)

    def constant(self, number: Any) -> Lanes:
        """A number in every lane, of this dtype."""
        return Lanes(self.function, constant(number, self.value.type), self.dtype)

    def like(self, value: Value) -> Lanes:
        """Another value of this dtype."""
        return Lanes(self.function, value, self.dtype)

    def coerced(self, other: Lanes | Number) -> Lanes:
        """A number as lanes of this dtype; lanes as they are."""
        return other if isinstance(other, Lanes) else self.constant(other)

    # -- arithmetic ------------------------------------------------------------------------------------------
    def _arithmetic(self, other: Lanes | Number, floating: str, integer: str, logical: str = "") -> Lanes:
        name = {"f": floating, "b": logical}.get(self.dtype.kind, integer)
        return self.like(self.function.binary(name, self.value, self.coerced(other).value))

    def __add__(self, other: Lanes | Number) -> Lanes:
        return self._arithmetic(other, "fadd", "add", "or")

    def __sub__(self, other: Lanes | Number) -> Lanes:
        return self._arithmetic(other, "fsub", "sub")

    def __mul__(self, other: Lanes | Number) -> Lanes:
        return self._arithmetic(other, "fmul", "mul", "and")

    def __truediv__(self, other: Lanes | Number) -> Lanes:
        return self._arithmetic(other, "fdiv", "")

    def __radd__(self, other: Number) -> Lanes:
        return self + other

    def __rsub__(self, other: Number) -> Lanes:
        return self.constant(other) - self

    def __rmul__(self, other: Number) -> Lanes:
        return self * other

    def __rtruediv__(self, other: Number) -> Lanes:
        return self.constant(other) / self

    def __neg__(self) -> Lanes:
        if self.floating:
            return self.like(self.function.emit(self.value.type, f"fneg {self.value}"))
        return self.constant(0) - self

    # -- bits ------------------------------------------------------------------------------------------------
    def __and__(self, other: Lanes | Number) -> Lanes:
        return self._arithmetic(other, "", "and", "and")

    def __or__(self, other: Lanes | Number) -> Lanes:
        return self._arithmetic(other, "", "or", "or")

    def __xor__(self, other: Lanes | Number) -> Lanes:
        return self._arithmetic(other, "", "xor", "xor")

    def __invert__(self) -> Lanes:
        return self ^ (True if self.dtype == BOOL else -1)

    def __lshift__(self, other: Lanes | Number) -> Lanes:
        """Shifted left by less than the width."""
        return self._arithmetic(other, "", "shl")

    def __rshift__(self, other: Lanes | Number) -> Lanes:
        """Shifted right by less than the width; a negative number stays negative."""
        return self._arithmetic(other, "", "ashr" if self.signed else "lshr")

    def bits(self) -> Lanes:
        """The bits of floating numbers as signed integers."""
        return self.reinterpret(SIGNED[self.dtype.itemsize])

    def reinterpret(self, dtype: Any) -> Lanes:
        """The same bits read as another dtype of the same width."""
        type_ = register_type(dtype, self.count)
        return Lanes(self.function, self.function.convert("bitcast", self.value, type_), dtype)

    # -- comparing -------------------------------------------------------------------------------------------
    def _compared(self, other: Lanes | Number, floating: str, integer: str) -> Lanes:
        condition = floating if self.floating else integer
        if condition == integer and integer not in ("eq", "ne"):
            condition = ("s" if self.signed else "u") + integer
        value = self.function.compare(condition, self.value, self.coerced(other).value)
        return Lanes(self.function, value, BOOL)

    def __lt__(self, other: Lanes | Number) -> Lanes:
        return self._compared(other, "olt", "lt")

    def __le__(self, other: Lanes | Number) -> Lanes:
        return self._compared(other, "ole", "le")

    def __gt__(self, other: Lanes | Number) -> Lanes:
        return self._compared(other, "ogt", "gt")

    def __ge__(self, other: Lanes | Number) -> Lanes:
        return self._compared(other, "oge", "ge")

    def equals(self, other: Lanes | Number) -> Lanes:
        return self._compared(other, "oeq", "eq")

    def differs(self, other: Lanes | Number) -> Lanes:
        return self._compared(other, "une", "ne")

    def is_nan(self) -> Lanes:
        if not self.floating:
            return self.astype(BOOL) & False
        return Lanes(self.function, self.function.compare("uno", self.value, self.value), BOOL)

    # -- converting ------------------------------------------------------------------------------------------
    def astype(self, dtype: Any) -> Lanes:
        """Converted as NumPy converts; floats outside of an integer's range give anything."""
        wanted = np.dtype(dtype)
        if wanted == self.dtype:
            return self
        if wanted == BOOL:
            return self.differs(0)
        type_ = register_type(wanted, self.count)
        operation = _conversion(self.dtype, wanted)
        return Lanes(self.function, self.function.convert(operation, self.value, type_), wanted)

    def intrinsic(self, name: str, *others: Lanes | Number) -> Lanes:
        """LLVM's intrinsic of that name, for this type."""
        values = [self.value, *(self.coerced(each).value for each in others)]
        full = f"llvm.{name}.{mangled(self.value.type)}"
        return self.like(self.function.intrinsic(full, self.value.type, values))


def _conversion(given: np.dtype[Any], wanted: np.dtype[Any]) -> str:
    """LLVM's instruction that converts between two different dtypes, not to bool."""
    if given.kind == "f":
        if wanted.kind == "f":
            return "fpext" if wanted.itemsize > given.itemsize else "fptrunc"
        return "fptosi" if wanted.kind == "i" else "fptoui"
    if wanted.kind == "f":
        return "sitofp" if given.kind == "i" else "uitofp"
    if given.kind == "b":
        return "zext"
    if wanted.itemsize == given.itemsize:
        return "bitcast"
    if wanted.itemsize < given.itemsize:
        return "trunc"
    return "sext" if given.kind == "i" else "zext"


# -- small functions -----------------------------------------------------------------------------------------
def fma(a: Lanes, b: Lanes | Number, c: Lanes | Number) -> Lanes:
    """a * b + c, rounded once where the processor can."""
    return a.like(a.function.fma(a.value, a.coerced(b).value, a.coerced(c).value))


def polynomial(x: Lanes, coefficients: Sequence[float]) -> Lanes:
    """Σ coefficients[k] xᵏ by Horner's rule."""
    *lower, highest = coefficients
    total = x.constant(highest)
    for each in reversed(lower):
        total = fma(x, total, each)
    return total


def select(condition: Lanes, a: Lanes | Number, b: Lanes | Number) -> Lanes:
    """a where the condition holds, b elsewhere; one of them may be a Python number."""
    like = a if isinstance(a, Lanes) else b
    assert isinstance(like, Lanes)
    return like.like(like.function.select(condition.value, like.coerced(a).value, like.coerced(b).value))


def at_least(x: Lanes, bound: Number) -> Lanes:
    """The larger of x and a number; NaN stays NaN. One instruction."""
    return select(x.constant(bound) > x, bound, x)


def at_most(x: Lanes, bound: Number) -> Lanes:
    """The smaller of x and a number; NaN stays NaN. One instruction."""
    return select(x.constant(bound) < x, bound, x)


def magnitude(x: Lanes) -> Lanes:
    """|x| of floating numbers."""
    return x.intrinsic("fabs")


def copysign(x: Lanes, sign: Lanes) -> Lanes:
    """|x| with the sign of another."""
    return x.intrinsic("copysign", sign)


def sqrt(x: Lanes) -> Lanes:
    """Square root, correctly rounded."""
    return x.intrinsic("sqrt")


# -- how routines are written out ----------------------------------------------------------------------------
Routine = Callable[..., Lanes]


def outlined(routine: Routine) -> Routine:
    """The routine as a function of its own, once per module and type, that is called: for long, rare code.

    Beside a constant it is written in place: LLVM then computes all that depends on it alone.
    """

    @wraps(routine)
    def called(*operands: Lanes) -> Lanes:
        first = operands[0]
        if first.is_number:
            return routine(*operands)
        type_ = first.value.type
        name = f"{routine.__name__}.{mangled(type_)}"
        module = first.function.module
        if name not in module.functions:
            arguments = [(f"x{position}", type_) for position in range(len(operands))]
            inner = Function(module, name, arguments, result=type_)
            inside = [Lanes(inner, each, first.dtype) for each in inner.arguments]
            inner.give_back(routine(*inside).value)
        return first.like(first.function.call(name, type_, [each.value for each in operands]))

    return called


def outlined_in_float64(routine: Routine) -> Routine:
    """In float32 written where it is used (a call would spill every register), in float64 outlined."""
    far = outlined(routine)

    @wraps(routine)
    def written(*operands: Lanes) -> Lanes:
        return (routine if operands[0].dtype == FLOAT32 else far)(*operands)

    return written


def in_float64(routine: Routine) -> Routine:
    """float32 is computed in float64 too: for functions too rare for polynomials of their own."""

    @wraps(routine)
    def widened(*operands: Lanes) -> Lanes:
        return routine(*(each.astype(FLOAT64) for each in operands)).astype(operands[0].dtype)

    return widened
