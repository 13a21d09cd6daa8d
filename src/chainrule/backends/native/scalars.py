"""What the elementwise primitives are in machine code: one table of rules.

A primitive without a rule of its own is expanded through its record's `meaning`, run on lanes: `relu`,
`reciprocal`, `rsqrt`, `softplus`, `clip`, `astype` and others. What the results are is NumPy's, bit for bit
where a result is exact, within `vectormath.BOUNDS` elsewhere; which zero is the larger is nobody's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from chainrule.backends.native import trigonometry, vectormath
from chainrule.backends.native.emit import Function
from chainrule.backends.native.lanes import BOOL, Lanes, copysign, magnitude, select, sqrt
from chainrule.backends.native.values import Index, Value, constant, register_type
from chainrule.primitive import Primitive
from chainrule.primitives import REGISTRY
from chainrule.schedule.kernels import Expression

Rule = Callable[..., Lanes]


def compute(function: Function, expression: Expression, arguments: Sequence[Value], lanes: int) -> Value:
    """The value of one elementwise operation for `lanes` elements.

    `arguments` are the values of ``expression.arguments``, each a vector of its own dtype (a scalar for one
    lane, i1 for bool); the result is one of ``expression.dtype``.
    """
    operands = [
        Lanes(function, value, argument.dtype)
        for value, argument in zip(arguments, expression.arguments, strict=True)
    ]
    rule = RULES.get(expression.op)
    if rule is None:
        record = REGISTRY[expression.op]
        assert isinstance(record, Primitive), f"{expression.op} is made of primitives"
        rule = partial(record.meaning, NAMESPACE)
    result = rule(*operands, **expression.attributes).astype(expression.dtype)
    assert result.count == lanes
    return result.value


def constant_value(expression: Expression, lanes: int) -> Value:
    """The value of an expression "constant", repeated over the lanes."""
    return constant(expression.attributes["value"], register_type(expression.dtype, lanes))


class _Namespace:
    """The array namespace in which meanings are expanded: its functions are the rules."""

    def __getattr__(self, name: str) -> Rule:
        try:
            return RULES[name]
        except KeyError:
            raise AttributeError(f"there is no rule for {name}") from None

    @staticmethod
    def zeros_like(x: Lanes) -> Lanes:
        return x.constant(0)


NAMESPACE = _Namespace()


# -- order and choice ----------------------------------------------------------------------------------------
def _maximum(a: Lanes, b: Lanes) -> Lanes:
    return _first(a, b, lambda x, y: x > y)


def _minimum(a: Lanes, b: Lanes) -> Lanes:
    return _first(a, b, lambda x, y: x < y)


def _first(a: Lanes, b: Lanes, before: Callable[[Lanes, Lanes], Lanes]) -> Lanes:
    """The one that comes before the other; NaN comes before all.

    Comparing and choosing is one instruction, which gives its second operand when one of them is NaN: right
    if the other one is a number.
    """
    if b.is_number:
        a, b = b, a
    chosen = select(before(a, b), a, b)
    return chosen if a.is_number or not a.floating else select(a.is_nan(), a, chosen)


def _common(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """Both in the dtype in which NumPy has them meet."""
    dtype = np.result_type(a.dtype, b.dtype)
    return a.astype(dtype), b.astype(dtype)


def _relation(compare: Callable[[Lanes, Lanes], Lanes]) -> Rule:
    return lambda a, b: compare(*_common(a, b))


def _where(condition: Lanes, a: Lanes, b: Lanes) -> Lanes:
    return select(condition.astype(BOOL), *_common(a, b))


def _logical(combine: Callable[[Lanes, Lanes], Lanes]) -> Rule:
    return lambda a, b: combine(a.astype(BOOL), b.astype(BOOL))


# -- signs and rounding --------------------------------------------------------------------------------------
def _abs(x: Lanes) -> Lanes:
    if x.floating:
        return magnitude(x)
    return select(x < 0, -x, x) if x.signed else x


def _sign(x: Lanes) -> Lanes:
    """-1, 0 or 1; NaN of NaN."""
    sign = select(x > 0, x.constant(1), 0)
    if x.signed:
        sign = select(x < 0, -1, sign)
    return select(x.is_nan(), x, sign) if x.floating else sign


def _rounding(intrinsic: str) -> Rule:
    """Rounding to integers, which integers are already."""
    return lambda x: x.intrinsic(intrinsic) if x.floating else x


def _signbit(x: Lanes) -> Lanes:
    return x.bits() < 0


def _nextafter(a: Lanes, b: Lanes) -> Lanes:
    """The bits of a counted up or down by one; from 0 the smallest number with b's sign."""
    bits = a.bits()
    outward = (a < b) ^ (bits < 0)
    neighbour = (bits + select(outward, bits.constant(1), -1)).reinterpret(a.dtype)
    smallest = copysign(bits.constant(1).reinterpret(a.dtype), b)
    moved = select(a.equals(b), b, select(a.equals(0), smallest, neighbour))
    return select(a.is_nan(), a, select(b.is_nan(), b, moved))


# -- quotients -----------------------------------------------------------------------------------------------
def _c_remainder(a: Lanes, b: Lanes) -> Lanes:
    """fmod: exact, with the sign of a. The one operation that calls the C library."""
    return a.like(a.function.binary("frem", a.value, b.value))


def _whole_quotient(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """Quotient and remainder of integers, rounded down; both are 0 where b is 0."""
    zero = b.equals(0)
    if not a.signed:
        divisor = select(zero, 1, b)
        quotient = a.like(a.function.binary("udiv", a.value, divisor.value))
        return select(zero, 0, quotient), select(zero, 0, a - quotient * divisor)
    overflows = b.equals(-1) & a.equals(np.iinfo(a.dtype).min)
    divisor = select(zero | overflows, 1, b)
    quotient = a.like(a.function.binary("sdiv", a.value, divisor.value))
    rest = a - quotient * divisor
    below = rest.differs(0) & ((rest ^ divisor) < 0)
    quotient, rest = select(below, quotient - 1, quotient), select(below, rest + divisor, rest)
    return select(zero, 0, quotient), select(zero, 0, rest)


def _quotient(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """Quotient and remainder of floating numbers, rounded down, step by step as Python and NumPy do it."""
    rest = _c_remainder(a, b)
    quotient = (a - rest) / b
    wrong = rest.differs(0) & ((rest < 0) ^ (b < 0))
    quotient = select(wrong, quotient - 1, quotient)
    rest = select(rest.equals(0), copysign(rest.constant(0), b), select(wrong, rest + b, rest))
    floor = quotient.intrinsic("floor")
    floor = select((quotient - floor) > 0.5, floor + 1, floor)
    floor = select(quotient.equals(0), copysign(floor.constant(0), a / b), floor)
    zero = b.equals(0)
    return select(zero, a / b, floor), select(zero, float("nan"), rest)


def _floor_divide(a: Lanes, b: Lanes) -> Lanes:
    return (_quotient if a.floating else _whole_quotient)(a, b)[0]


def _remainder(a: Lanes, b: Lanes) -> Lanes:
    return (_quotient if a.floating else _whole_quotient)(a, b)[1]


# -- powers and bits -----------------------------------------------------------------------------------------
def _pow(x: Lanes, p: Lanes) -> Lanes:
    """Integers by squaring, modulo their range; NumPy allows no negative exponents."""
    if x.floating:
        return vectormath.pow(x, p)

    def step(_: Index, carried: list[Value]) -> list[Value]:
        power, base, left = (x.like(each) for each in carried)
        power = select((left & 1).differs(0), power * base, power)
        return [power.value, (base * base).value, (left >> 1).value]

    start = [x.constant(1).value, x.value, p.value]
    return x.like(x.function.loop(0, x.dtype.itemsize * 8 - x.signed, 1, start, step)[0])


def _shifted(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """(whether the count b is within a's width, the count made so)."""
    width = a.dtype.itemsize * 8
    within = b.reinterpret(f"uint{width}") < width
    return within, b & (width - 1)


def _left_shift(a: Lanes, b: Lanes) -> Lanes:
    within, count = _shifted(a, b)
    return select(within, a << count, 0)


def _right_shift(a: Lanes, b: Lanes) -> Lanes:
    within, count = _shifted(a, b)
    return select(within, a >> count, a >> (a.dtype.itemsize * 8 - 1) if a.signed else 0)


RULES: dict[str, Rule] = {
    # arithmetic
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "negative": lambda x: -x,
    "positive": lambda x: x,
    "square": lambda x: x * x,
    "sqrt": sqrt,
    "floor_divide": _floor_divide,
    "remainder": _remainder,
    "pow": _pow,
    # mathematics
    "exp": vectormath.exp,
    "expm1": vectormath.expm1,
    "log": vectormath.log,
    "log1p": vectormath.log1p,
    "log2": vectormath.log2,
    "log10": vectormath.log10,
    "logaddexp": vectormath.logaddexp,
    "hypot": vectormath.hypot,
    "sigmoid": vectormath.sigmoid,
    "erf": vectormath.erf,
    "tanh": vectormath.tanh,
    "sinh": vectormath.sinh,
    "cosh": vectormath.cosh,
    "asinh": vectormath.asinh,
    "acosh": vectormath.acosh,
    "atanh": vectormath.atanh,
    "sin": trigonometry.sin,
    "cos": trigonometry.cos,
    "tan": trigonometry.tan,
    "asin": trigonometry.asin,
    "acos": trigonometry.acos,
    "atan": trigonometry.atan,
    "atan2": trigonometry.atan2,
    # signs, rounding, order
    "abs": _abs,
    "sign": _sign,
    "floor": _rounding("floor"),
    "ceil": _rounding("ceil"),
    "trunc": _rounding("trunc"),
    "round": _rounding("roundeven"),
    "copysign": copysign,
    "nextafter": _nextafter,
    "maximum": _maximum,
    "minimum": _minimum,
    # relations and logic
    "equal": _relation(Lanes.equals),
    "not_equal": _relation(Lanes.differs),
    "less": _relation(Lanes.__lt__),
    "less_equal": _relation(Lanes.__le__),
    "greater": _relation(Lanes.__gt__),
    "greater_equal": _relation(Lanes.__ge__),
    "logical_and": _logical(Lanes.__and__),
    "logical_or": _logical(Lanes.__or__),
    "logical_xor": _logical(Lanes.__xor__),
    "logical_not": lambda x: ~x.astype(BOOL),
    "bitwise_and": lambda a, b: a & b,
    "bitwise_or": lambda a, b: a | b,
    "bitwise_xor": lambda a, b: a ^ b,
    "bitwise_invert": lambda x: ~x,
    "bitwise_left_shift": _left_shift,
    "bitwise_right_shift": _right_shift,
    "isfinite": lambda x: magnitude(x) < float("inf") if x.floating else ~x.is_nan(),
    "isinf": lambda x: magnitude(x).equals(float("inf")) if x.floating else x.is_nan(),
    "isnan": Lanes.is_nan,
    "signbit": _signbit,
    # choice
    "where": _where,
}
"""Operation → what it is on lanes, given its operands and its node's attributes."""
