"""What the elementwise primitives are in machine code: one table of rules.

A primitive without a rule is expanded through its record's `meaning`, run on lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chainrule.backends.native import vectormath
from chainrule.backends.native.emit import Function, Value, constant, register_type
from chainrule.backends.native.lanes import Lanes, select
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
    if rule is not None:
        result = rule(*operands, **expression.attributes)
    else:
        record = REGISTRY[expression.op]
        assert isinstance(record, Primitive), f"{expression.op} is made of primitives"
        result = record.meaning(SYMBOLIC, *operands, **expression.attributes)
    return result.astype(expression.dtype).value


def constant_value(expression: Expression, lanes: int) -> Value:
    """The value of an expression "constant", repeated over the lanes."""
    return constant(expression.attributes["value"], register_type(expression.dtype, lanes))


class _Symbolic:
    """The array namespace in which meanings are expanded: its functions are the rules."""

    def __getattr__(self, name: str) -> Rule:
        return RULES[name]

    @staticmethod
    def zeros_like(x: Lanes) -> Lanes:
        return x.constant(0)


SYMBOLIC = _Symbolic()


# -- order ---------------------------------------------------------------------------------------------------
def _maximum(a: Lanes, b: Lanes) -> Lanes:
    return _extreme(a, b, lambda x, y: x > y)


def _minimum(a: Lanes, b: Lanes) -> Lanes:
    return _extreme(a, b, lambda x, y: x < y)


def _extreme(a: Lanes, b: Lanes, before: Callable[[Lanes, Lanes], Lanes]) -> Lanes:
    """The one that comes first; NaN wins. The processor's instruction gives the second operand for NaN."""
    if b.is_number:
        a, b = b, a
    chosen = select(before(a, b), a, b)
    return chosen if a.is_number or not a.floating else select(a.is_nan(), a, chosen)


def _where(condition: Lanes, a: Lanes, b: Lanes) -> Lanes:
    return select(condition.astype(bool), a, b)


RULES: dict[str, Rule] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "negative": lambda x: -x,
    "positive": lambda x: x,
    "square": lambda x: x * x,
    "sqrt": lambda x: x.intrinsic("sqrt"),
    "exp": vectormath.exp,
    "expm1": vectormath.expm1,
    "log": vectormath.log,
    "tanh": vectormath.tanh,
    "maximum": _maximum,
    "minimum": _minimum,
    "equal": lambda a, b: a.equals(b),
    "not_equal": lambda a, b: a.differs(b),
    "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b,
    "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b,
    "where": _where,
}
