"""Where every number of a program may lie, whoever computes it: the bounds random programs are held to.

Interval arithmetic (Moore, 1966) over the traced graph. A backend has some freedom: an elementwise function
is within its record's ulps of the exact value, and of the smallest normal number; a sum is taken in any
order, so it is off by at most (n - 1) eps / 2 of the sum of magnitudes (Higham, 2002, section 4.2); factors
may leave a sum; a * b + c may be rounded once; what is below the smallest normal number may become 0. The
enclosure of a node holds every value that this freedom leaves, so a number outside of it is a fault. Where
the freedom reaches over a jump (a comparison of numbers that may be equal, the rounding of one near a half)
both sides are in the enclosure; where nothing can be said it is everything.

Ends are computed in float64, for programs in float32 and in float64. For the latter the ends are rounded
themselves, which is why every bound below has room for two roundings where one occurs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from chainrule.graph import Graph, Node
from chainrule.primitive import Primitive
from chainrule.types import Type

Array = np.ndarray[Any, Any]

EXACT = frozenset(
    {
        "abs", "ceil", "clip", "copysign", "floor", "identity", "maximum", "minimum", "negative", "positive",
        "relu", "round", "sign", "stop_gradient", "trunc", "max", "min",
    }
)  # fmt: skip
"""No rounding: the result is an operand, its negative, or an integer."""
ROUNDED_ONCE = frozenset({"add", "subtract", "multiply", "square"})
"""IEEE arithmetic: exact where the result fits."""
BY_OPERANDS = frozenset({"logaddexp", "softplus", "remainder"})
"""Their error is in units of the largest operand, not of the result."""
MOVING = frozenset(
    {"broadcast_to", "concat", "flip", "gather", "permute_dims", "place", "reshape", "slice"}
)  # fmt: skip
SUMS = frozenset({"convolve", "cumulative_sum", "einsum", "matmul", "scatter", "sum"})
"""Sums of products with one factor from every floating operand."""


@dataclass(frozen=True, eq=False)
class Enclosure:
    """Lowest and highest value of every element; ends of floats are float64, NaN where it is certainly NaN.

    (-inf, inf) is anything, NaN included; for integers and bool that is the whole range. (inf, -inf) is any
    number that is not finite: backends may take a common factor out of a sum, and then inf becomes NaN.
    """

    low: Array
    high: Array
    dtype: np.dtype[Any]

    @property
    def certain(self) -> Array:
        """Where there is one value only."""
        same: Array = (self.low == self.high) | ((self.low != self.low) & (self.high != self.high))
        return same

    @property
    def anything(self) -> Array:
        """Where nothing is known, or no more than that it is not finite."""
        if self.dtype.kind == "f":
            return (np.isneginf(self.low) & np.isposinf(self.high)) | self.beyond
        return ~self.certain

    @property
    def beyond(self) -> Array:
        """Where a number is not finite, and no more is known."""
        if self.dtype.kind != "f":
            return np.zeros(self.low.shape, bool)
        return np.isposinf(self.low) & np.isneginf(self.high)

    def refuses(self, got: Array) -> Array:
        """Where a computed array lies outside."""
        value = got.astype(np.float64) if self.dtype.kind == "f" else got
        inside = (self.low <= value) & (value <= self.high) & (value == value)
        both_nan = (value != value) & (self.low != self.low)
        outside: Array = ~(inside | both_nan | self.anything) | (self.beyond & np.isfinite(value))
        return outside


def exactly(value: Any) -> Enclosure:
    """The enclosure of what is known."""
    array = np.asarray(value)
    ends = array.astype(np.float64) if array.dtype.kind == "f" else array
    return Enclosure(ends, ends, array.dtype)


def _range(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    if dtype.kind == "f":
        return -np.inf, np.inf
    return (False, True) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)


def _forget(where: Any, enclosure: Enclosure) -> Enclosure:
    """`enclosure`, with anything where told."""
    low, high = _range(enclosure.dtype)
    ends = enclosure.low.dtype
    return Enclosure(
        np.where(where, np.asarray(low, ends), enclosure.low),
        np.where(where, np.asarray(high, ends), enclosure.high),
        enclosure.dtype,
    )


def _anything(type_: Type) -> Enclosure:
    ends = np.dtype(np.float64) if type_.dtype.kind == "f" else type_.dtype
    return _forget(True, Enclosure(np.zeros(type_.shape, ends), np.zeros(type_.shape, ends), type_.dtype))


# -- graphs --------------------------------------------------------------------------------------------------
def enclose(graph: Graph, values: Sequence[Any]) -> list[Enclosure]:
    """The enclosures of the graph's outputs, for arrays or enclosures of its inputs."""
    given = [each if isinstance(each, Enclosure) else exactly(each) for each in values]
    known: dict[Node, Any] = dict(zip(graph.inputs, given, strict=True))
    with np.errstate(all="ignore"):
        for node, dead in graph.steps:
            if node.primitive is None:
                known[node] = exactly(node.value)
            else:
                known[node] = _enclosed(node, node.primitive, [known[each] for each in node.operands])
            for each in dead:
                del known[each]
    return [known[node] for node in graph.outputs]


def _enclosed(node: Node, record: Primitive, operands: Sequence[Any]) -> Any:
    name = record.name
    if name == "item":
        return operands[0][node.attributes["index"]]
    if name == "call":
        return tuple(enclose(node.attributes["graph"], operands))
    if name == "scan":
        return _scan(operands, **node.attributes)
    if all(each.certain.all() and each.dtype.kind != "f" for each in operands) and not node.floating:
        return exactly(record.meaning(np, *(each.low for each in operands), **node.attributes))
    if name in RULES:
        return RULES[name](node, *operands)
    if name in MOVING:
        return _moved(node, record, operands)
    if name in SUMS:
        return _summed(node, record, operands)
    if not node.floating:
        return _integers(node, record, operands)
    return _function(node, record, operands)


def _scan(
    operands: Sequence[Enclosure], graph: Graph, carries: int, sequences: int, length: int,
    reverse: bool, history: bool,
) -> tuple[Enclosure, ...]:  # fmt: skip
    """The loop, step by step."""
    carry, rest = list(operands[:carries]), operands[carries:]
    series, captured = rest[:sequences], rest[sequences:]
    like = [*graph.outputs[carries:], *(graph.inputs[:carries] if history else ())]
    rows: dict[int, list[Enclosure]] = {}
    for t in sorted(range(length), reverse=reverse):
        step = [Enclosure(each.low[t], each.high[t], each.dtype) for each in series]
        outputs = enclose(graph, [*carry, *step, *captured])
        rows[t] = [*outputs[carries:], *(carry if history else ())]
        carry = outputs[:carries]
    stacked = []
    for k, node in enumerate(like):
        column = [rows[t][k] for t in range(length)]
        nothing = _anything(Type((0, *node.shape), node.dtype))
        stacked.append(
            Enclosure(
                np.stack([each.low for each in column]), np.stack([each.high for each in column]), node.dtype
            )
            if column
            else nothing
        )
    return (*carry, *stacked)


# -- roundings -----------------------------------------------------------------------------------------------
def _widened(enclosure: Enclosure, error: Any) -> Enclosure:
    """`enclosure` with an error added to either end, and what too small and too large numbers become."""
    facts = np.finfo(enclosure.dtype)
    tiny, largest = float(facts.tiny), float(facts.max)
    error = np.where(np.isfinite(error), error, 0.0)
    low, high = enclosure.low - error, enclosure.high + error
    low = np.where((low > 0) & (low < tiny), 0.0, low)  # flushed to zero, or not
    high = np.where((-tiny < high) & (high < 0), 0.0, high)
    reach = largest * (1 + 1e-6) if enclosure.dtype == np.float32 else largest
    above, below = enclosure.high > largest, enclosure.low < -largest
    low = np.where(above & np.isfinite(low), np.where(low > reach, np.inf, np.minimum(low, largest)), low)
    high = np.where(
        below & np.isfinite(high), np.where(high < -reach, -np.inf, np.maximum(high, -largest)), high
    )
    high, low = np.where(high > largest, np.inf, high), np.where(low < -largest, -np.inf, low)
    return Enclosure(low, high, enclosure.dtype)


def _magnitude(enclosure: Enclosure) -> Array:
    """The largest finite magnitude an element may have."""
    size: Array = np.maximum(np.abs(enclosure.low), np.abs(enclosure.high))
    return np.where(np.isfinite(size), size, 0.0)


def _short(value: Array) -> Array:
    """Where a number has at most 11 significant bits: products of two of them are exact in float32."""
    mantissa = np.frexp(value)[0] * 2048
    short: Array = np.isfinite(value) & (mantissa == np.floor(mantissa))
    return short


def _ulps(node: Node, record: Primitive, operands: Sequence[Enclosure], result: Enclosure) -> Enclosure:
    """`result` with the error that the record allows."""
    if record.name in EXACT:
        return _widened(result, 0.0)
    scale = _magnitude(result)
    if record.name in BY_OPERANDS:
        for each in operands:
            scale = np.maximum(scale, _magnitude(each))
    facts = np.finfo(result.dtype)
    least = float(facts.smallest_subnormal if record.name in ROUNDED_ONCE else facts.tiny)
    error = (record.ulps + 2) * (float(facts.eps) * scale + (scale > 0) * least)
    if record.name in ROUNDED_ONCE:
        exact = result.certain & _short(result.low)
        for each in operands:
            exact = exact & each.certain & _short(each.low)
        error = np.where(exact, 0.0, error)
    return _widened(result, error)


# -- functions of elements -----------------------------------------------------------------------------------
def _function(node: Node, record: Primitive, operands: Sequence[Enclosure]) -> Enclosure:
    """The ends of a function that rises or falls in each operand are among its values at their ends."""
    corners = [
        np.asarray(record.meaning(np, *ends, **node.attributes), np.float64)
        for ends in product(*((each.low, each.high) for each in operands))
    ]
    extra, broken = TURNS[record.name](*operands) if record.name in TURNS else ((), False)
    found = _hull(node, corners, operands)
    for points in extra:  # NaN where there is none
        found = Enclosure(np.fmin(found.low, points), np.fmax(found.high, points), found.dtype)
    result = _forget_unless_certain(node, record, operands, found, corners[0], broken)
    return _of_two_terms(result, operands) if record.name in ("add", "subtract") else result


def _of_two_terms(found: Enclosure, terms: Sequence[Enclosure]) -> Enclosure:
    """The sum of two terms, neither of them finite: f · a + f · b, NaN where one is inf and the other is not,
    is f · (a + b) where the common factor is taken out, and that may be inf; but never finite.
    """
    neither: Any = np.True_
    for each in terms:
        neither = neither & ((each.certain & ~np.isfinite(each.low)) | each.beyond)
    low, high = np.where(neither, np.inf, found.low), np.where(neither, -np.inf, found.high)
    return Enclosure(low, high, found.dtype)


def _forget_unless_certain(
    node: Node, record: Primitive, operands: Sequence[Enclosure], found: Enclosure, value: Array, broken: Any
) -> Enclosure:
    """Where all operands are certain so is the value, up to rounding, whatever else is said."""
    lost: Any = np.asarray(broken)
    certain: Any = np.True_
    for each in operands:
        lost, certain = lost | each.anything, certain & each.certain
    keep = np.broadcast_to(certain & ~_at_signed_zero(record.name, operands), found.low.shape)
    found = Enclosure(np.where(keep, value, found.low), np.where(keep, value, found.high), found.dtype)
    result = _ulps(node, record, operands, found)
    return _forget(lost & ~keep, result)


def _at_signed_zero(name: str, operands: Sequence[Enclosure]) -> Any:
    """Where the value hangs on the sign of a zero, or on how NumPy takes a root: no backend promises that.

    NumPy's power of -inf and 0.5 is NaN where the exponent is a number alone, and inf in an array.
    """
    if name in ("divide", "reciprocal", "floor_divide", "remainder"):
        numerator = operands[0].low if name != "reciprocal" else np.float64(1)
        zero: Any = (operands[-1].low == 0) & ~((numerator == 0) | (numerator != numerator))
        return zero
    if name == "atan2":
        return (operands[0].low == 0) & (operands[1].low <= 0)
    if name == "pow":
        root = np.isneginf(operands[0].low) & (operands[1].low == 0.5)
        return root | ((operands[0].low == 0) & (operands[1].low < 0))
    return (operands[-1].low == 0) if name == "copysign" else np.False_


def _hull(node: Node, corners: Sequence[Array], operands: Sequence[Enclosure]) -> Enclosure:
    """From the lowest to the highest; anything where some corners are NaN and others are not."""
    values = np.stack(np.broadcast_arrays(*corners))
    nan = np.isnan(values)
    certainly: Any = np.False_
    for each in operands:
        certainly = certainly | (each.low != each.low)
    found = Enclosure(values.min(axis=0), values.max(axis=0), node.dtype)
    return _forget(nan.any(axis=0) & ~(nan.all(axis=0) & certainly), found)


def _holds(enclosure: Enclosure, value: float) -> Array:
    inside: Array = (enclosure.low <= value) & (value <= enclosure.high)
    return inside


def _at_zero(value: float) -> Callable[[Enclosure], Any]:
    """A function that turns at 0, where it has this value."""
    return lambda x: ([np.where(_holds(x, 0.0), value, np.nan)], False)


def _wave(first: float) -> Callable[[Enclosure], Any]:
    """Turns at first + kπ, alternately at 1 and -1."""

    def turns(x: Enclosure) -> Any:
        begin, end = np.ceil((x.low - first) / math.pi), np.floor((x.high - first) / math.pi)
        sign = np.where(np.mod(begin, 2) == 0, 1.0, -1.0)
        return [np.where(end >= begin, sign, np.nan), np.where(end > begin, -sign, np.nan)], False

    return turns


def _tangent(x: Enclosure) -> Any:
    begin = np.floor((x.low - math.pi / 2) / math.pi)
    return (), begin != np.floor((x.high - math.pi / 2) / math.pi)


def _power(x: Enclosure, p: Enclosure) -> Any:
    whole = p.certain & (p.low == np.floor(p.low))
    zero = np.where(_holds(x, 0.0) & whole & (p.low > 0), 0.0, np.nan)
    one = ((x.low != x.low) & _holds(p, 0.0)) | (
        (p.low != p.low) & _holds(x, 1.0)
    )  # NaN⁰ = 1, and 1 to the NaN
    broken = ((x.low < 0) & ~whole) | (_holds(x, 0.0) & (p.low <= 0) & ~(whole & (p.low == 0)))
    return [zero], broken | one | (np.isneginf(x.low) & _holds(p, 0.5))


def _angle(a: Enclosure, b: Enclosure) -> Any:
    return (), _holds(a, 0.0) & (b.low <= 0)


def _divided(a: Enclosure, b: Enclosure) -> Any:
    return (), _holds(b, 0.0)


TURNS: dict[str, Callable[..., Any]] = {
    "abs": _at_zero(0.0),
    "square": _at_zero(0.0),
    "cosh": _at_zero(1.0),
    "sin": _wave(math.pi / 2),
    "cos": _wave(0.0),
    "tan": _tangent,
    "pow": _power,
    "atan2": _angle,
    "divide": _divided,
    "floor_divide": _divided,
    "reciprocal": lambda x: ((), _holds(x, 0.0)),
    "rsqrt": lambda x: ((), _holds(x, 0.0)),
}
"""Per function: values at which it turns inside an enclosure, and where its corners say nothing."""


def _of_magnitudes(enclosure: Enclosure) -> Enclosure:
    low = np.where(_holds(enclosure, 0.0), 0.0, np.minimum(np.abs(enclosure.low), np.abs(enclosure.high)))
    high = np.maximum(np.abs(enclosure.low), np.abs(enclosure.high))
    return Enclosure(np.where(enclosure.low != enclosure.low, np.nan, low), high, enclosure.dtype)


def _hypot(node: Node, a: Enclosure, b: Enclosure) -> Enclosure:
    assert node.primitive is not None
    found = _function(node, node.primitive, [_of_magnitudes(a), _of_magnitudes(b)])
    return _forget(a.anything | b.anything, found)


def _copysign(node: Node, a: Enclosure, b: Enclosure) -> Enclosure:
    size = _of_magnitudes(a)
    low = np.where(b.low > 0, size.low, -size.high)
    high = np.where(b.high < 0, -size.low, size.high)
    found = Enclosure(low, high, node.dtype)
    return _forget(a.anything | b.anything | (b.low != b.low), _widened(found, 0.0))


def _remainder(node: Node, a: Enclosure, b: Enclosure) -> Enclosure:
    assert node.primitive is not None
    if not node.floating:
        return _integers(node, node.primitive, [a, b])
    quotients = [np.floor(x / y) for x, y in product((a.low, a.high), (b.low, b.high))]
    one = np.asarray(quotients[0] == quotients[1])
    for each in quotients[2:]:
        one = one & (each == quotients[0])
    rests = [x - quotients[0] * y for x, y in product((a.low, a.high), (b.low, b.high))]
    least, most = np.minimum(b.low, 0.0), np.maximum(b.high, 0.0)
    found = _hull(node, rests, [a, b])
    nan = (a.low != a.low) | (b.low != b.low)
    least, most = np.where(nan, np.nan, least), np.where(nan, np.nan, most)
    found = Enclosure(np.where(one, found.low, least), np.where(one, found.high, most), node.dtype)
    value = np.asarray(np.remainder(a.low, b.low))
    return _forget_unless_certain(node, node.primitive, [a, b], found, value, _holds(b, 0.0))


def _nextafter(node: Node, a: Enclosure, b: Enclosure) -> Enclosure:
    """One step of the operands' own dtype, up or down."""
    step = np.finfo(node.dtype).eps * _magnitude(a) + float(np.finfo(node.dtype).tiny)
    found = Enclosure(np.broadcast_to(a.low, node.shape), np.broadcast_to(a.high, node.shape), node.dtype)
    finite = np.isfinite(a.low) & np.isfinite(a.high) & (b.low == b.low)
    return _forget(~finite | b.anything, _widened(found, step))


def _where(node: Node, condition: Enclosure, a: Enclosure, b: Enclosure) -> Enclosure:
    yes, no = condition.low & condition.high, ~condition.low & ~condition.high
    low = np.where(yes, a.low, np.where(no, b.low, np.minimum(a.low, b.low)))
    high = np.where(yes, a.high, np.where(no, b.high, np.maximum(a.high, b.high)))
    either = np.broadcast_to(~yes & ~no, low.shape)
    ends = np.dtype(np.float64) if node.floating else node.dtype
    lost = either & (a.anything | b.anything | ((a.low != a.low) ^ (b.low != b.low)))
    if not node.floating:
        lost = lost & False  # a range of integers is a range
    return _forget(lost, Enclosure(low.astype(ends), high.astype(ends), node.dtype))


def _astype(node: Node, x: Enclosure, dtype: np.dtype[Any]) -> Enclosure:
    if dtype.kind == "b":
        zero = (x.low == 0) & (x.high == 0)
        never = ~_holds(x, 0.0) if x.dtype.kind == "f" else ~((x.low <= 0) & (x.high >= 0))
        return _forget(x.anything & ~x.certain, Enclosure(never, ~zero, dtype))
    if dtype.kind == "f":
        found = Enclosure(x.low.astype(np.float64), x.high.astype(np.float64), dtype)
        fits = found.certain & (found.low.astype(dtype) == found.low)
        error = 2 * float(np.finfo(dtype).eps) * _magnitude(found)
        lost = x.anything if x.dtype.kind == "f" else False
        return _forget(lost, _widened(found, np.where(fits, 0.0, error)))
    if x.dtype.kind == "f":
        least, most = (float(each) for each in _range(dtype))
        low, high = np.trunc(x.low), np.trunc(x.high)
        inside = ~x.beyond & (low >= least) & (high < most if dtype.itemsize == 8 else high <= most)
        safe = [np.where(inside, each, 0.0).astype(dtype) for each in (low, high)]
        return _forget(~inside, Enclosure(safe[0], safe[1], dtype))
    found = Enclosure(x.low.astype(dtype), x.high.astype(dtype), dtype)
    return found if x.dtype.kind == "b" else _forget(~x.certain, found)


def _integers(node: Node, record: Primitive | None, operands: Sequence[Enclosure]) -> Enclosure:
    """Integers and truth values: known where all operands are; three-valued logic for bool."""
    assert record is not None
    meaning = record.meaning
    if all(each.dtype.kind == "b" for each in operands):
        corners = [
            np.asarray(meaning(np, *ends, **node.attributes))
            for ends in product(*((each.low, each.high) for each in operands))
        ]
        values = np.stack(np.broadcast_arrays(*corners))
        return Enclosure(values.min(axis=0), values.max(axis=0), node.dtype)
    value = np.asarray(meaning(np, *(each.low for each in operands), **node.attributes))
    certain: Any = np.True_
    for each in operands:
        certain = certain & each.certain
    return _forget(np.broadcast_to(~certain, value.shape), Enclosure(value, value, node.dtype))


# -- comparing -----------------------------------------------------------------------------------------------
def _relation(node: Node, a: Enclosure, b: Enclosure) -> Enclosure:
    """Certain where the enclosures do not overlap, or are one value each."""
    below, above = a.high < b.low, a.low > b.high
    not_above, not_below = a.high <= b.low, a.low >= b.high
    single = a.certain & b.certain
    same = single & (a.low == b.low)
    yes, no = {
        "less": (below, not_below),
        "less_equal": (not_above, above),
        "greater": (above, not_above),
        "greater_equal": (not_below, below),
        "equal": (same | _sole_extreme(node, a), below | above),
        "not_equal": (below | above, same | _sole_extreme(node, a)),
    }[node.name]
    nan = (a.low != a.low) | (b.low != b.low)
    yes, no = np.where(nan, node.name == "not_equal", yes), np.where(nan, node.name != "not_equal", no)
    lost = ~nan & ((a.anything & ~a.certain) | (b.anything & ~b.certain))
    return _forget(lost, Enclosure(np.asarray(yes), np.asarray(~no), node.dtype))


def _sole_extreme(node: Node, x: Enclosure) -> Any:
    """In x == max(x): where an element is the only one that can be the largest, and so equal to it."""
    other = node.operands[1]
    while other.name in ("reshape", "broadcast_to"):
        other = other.operands[0]
    if other.name not in ("max", "min") or other.operands[0] is not node.operands[0] or not node.size:
        return np.False_
    axis = other.attributes["axis"]
    if other.name == "max":
        may_be = x.high >= x.low.max(axis=axis, keepdims=True)
    else:
        may_be = x.low <= x.high.min(axis=axis, keepdims=True)
    return may_be & (may_be.sum(axis=axis, keepdims=True) == 1)


def _isfinite(node: Node, x: Enclosure) -> Enclosure:
    if x.dtype.kind != "f":
        return exactly(np.asarray(getattr(np, node.name)(x.low)))
    finite = np.isfinite(x.low) & np.isfinite(x.high)
    nan = x.low != x.low
    infinite = x.certain & np.isinf(x.low)
    yes, no = {
        "isfinite": (finite, nan | infinite | x.beyond),
        "isinf": (infinite, finite | nan),
        "isnan": (nan, ~nan & ~x.anything),
    }[node.name]
    return Enclosure(yes, ~no, node.dtype)


def _signbit(node: Node, x: Enclosure) -> Enclosure:
    """Nobody promises the sign of a zero that was computed, or of NaN."""
    return _forget(x.anything | (x.low != x.low), Enclosure(x.high < 0, x.low <= 0, node.dtype))


# -- along axes ----------------------------------------------------------------------------------------------
def _moved(node: Node, record: Primitive, operands: Sequence[Enclosure]) -> Enclosure:
    """What only moves elements moves their ends; index arrays have to be certain."""
    indices = operands[1:] if record.name == "gather" else ()
    if not all(each.certain.all() for each in indices):
        return _anything(node.type)
    low, high = (
        np.asarray(record.meaning(np, *ends, **node.attributes))
        for ends in ([each.low for each in operands], [each.high for each in operands])
    )
    return Enclosure(low, high, node.dtype)


def _summed(node: Node, record: Primitive, operands: Sequence[Enclosure]) -> Enclosure:
    """Middle and radius of a sum of products, from the same sum of other numbers.

    With |x - m| ≤ r for every factor: |Π x - Π m| ≤ Π (|m| + r) - Π |m|. Summing n products of k factors
    rounds at most n + k - 2 times on the way to any term, each time by at most eps / 2 of the sum of
    magnitudes. The bound has room for six times that, as it is a difference of such sums itself.
    """
    count = 1 if record.name == "scatter" else len(operands)
    factors, others = operands[:count], operands[count:]
    if not all(each.certain.all() for each in others):
        return _anything(node.type)

    def total(values: Sequence[Array]) -> Array:
        arrays = [*values, *(each.low for each in others)]
        return np.asarray(record.meaning(np, *arrays, **node.attributes))

    def touched(good: Callable[[Enclosure], Array]) -> Array:
        return total([np.ones(each.low.shape) for each in factors]) > total(
            [good(each).astype(np.float64) for each in factors]
        )

    plain = total([each.low for each in factors])
    uncertain = touched(lambda each: each.certain)
    if not node.floating:
        return _forget(uncertain, Enclosure(plain, plain, node.dtype))
    infinite = touched(lambda each: np.isfinite(each.low) & np.isfinite(each.high))
    surely = touched(
        lambda each: np.isfinite(each.low) | np.isfinite(each.high) | ~(each.certain | each.beyond)
    )
    terms = total([np.ones(each.low.shape) for each in factors])
    middles, radii = [], []
    for each in factors:
        finite = np.isfinite(each.low) & np.isfinite(each.high)
        low, high = np.where(finite, each.low, 0.0), np.where(finite, each.high, 0.0)
        middle = low / 2 + high / 2
        middles.append(np.where(low == high, low, middle))
        radii.append((1 + 1e-12) * np.where(low == high, 0.0, np.maximum(high - middle, middle - low)))
    size = total([np.abs(m) + r for m, r in zip(middles, radii, strict=True)])
    facts = np.finfo(node.dtype)
    rounds = np.maximum(terms + len(factors) - 2, 0)
    error = size - total([np.abs(m) for m in middles])
    error = np.where(error > 0, error, 0.0) + 3 * rounds * float(facts.eps) * size
    parts, lost = size, np.ones(())
    if (
        len(factors) > 2
    ):  # in which order nobody promises: two of them may overflow, or underflow before a third
        parts = total([np.maximum(np.abs(m) + r, 1.0) for m, r in zip(middles, radii, strict=True)])
        lost = np.maximum(parts, 1.0)
    error += np.where(size > 0, rounds * float(facts.tiny) * lost, 0.0)
    middle = total(middles)
    found = _widened(Enclosure(middle - error, middle + error, node.dtype), 0.0)
    found = Enclosure(np.where(infinite, plain, found.low), np.where(infinite, plain, found.high), node.dtype)
    known = ~uncertain & (terms <= 1)
    found = _forget((infinite & ~known) | (~infinite & (parts > float(facts.max))), found)
    if len(factors) > 1 and not all(np.isfinite(each.low).all() for each in factors):
        found = _forget(terms == 0, found)  # a factor of no terms at all: 0, or NaN if it was taken out
    beyond = surely & ~known
    low, high = np.where(beyond, np.inf, found.low), np.where(beyond, -np.inf, found.high)
    return Enclosure(low, high, node.dtype)


def _extreme(node: Node, x: Enclosure, axis: tuple[int, ...], keepdims: bool) -> Enclosure:
    reduce = np.max if node.name == "max" else np.min
    found = Enclosure(
        np.asarray(reduce(x.low, axis=axis, keepdims=keepdims)),
        np.asarray(reduce(x.high, axis=axis, keepdims=keepdims)),
        node.dtype,
    )
    if not node.floating:
        return found
    lost = np.any(x.anything, axis=axis, keepdims=keepdims)
    return _forget(lost & (found.low == found.low), found)


def _logsumexp(node: Node, x: Enclosure, axis: tuple[int, ...], keepdims: bool) -> Enclosure:
    assert node.primitive is not None
    low, high = (
        np.asarray(node.primitive.meaning(np, each, axis=axis, keepdims=keepdims)) for each in (x.low, x.high)
    )
    found = Enclosure(low, high, node.dtype)
    terms = math.prod(x.low.shape[k] for k in axis)
    scale = np.maximum(_magnitude(found), 1.0)
    if x.low.size:
        scale = np.maximum(scale, _magnitude(x).max(axis=axis, keepdims=keepdims))
    error = (2 * terms + node.primitive.ulps) * float(np.finfo(node.dtype).eps) * scale
    lost = np.any(x.anything, axis=axis, keepdims=keepdims) | (np.isnan(low) ^ np.isnan(high))
    return _forget(lost & ~(np.isnan(low) & np.isnan(high)), _widened(found, error))


def _any_all(node: Node, x: Enclosure, axis: tuple[int, ...], keepdims: bool) -> Enclosure:
    assert node.primitive is not None
    low, high = (
        np.asarray(node.primitive.meaning(np, each, axis=axis, keepdims=keepdims)) for each in (x.low, x.high)
    )
    return Enclosure(low, high, node.dtype)


def _position(node: Node, x: Enclosure, axis: int) -> Enclosure:
    """argmax and argmin: certain if one element alone can be it, or all that can be are certain."""
    assert node.primitive is not None
    x = _forget(x.beyond, x)
    value = np.asarray(node.primitive.meaning(np, x.low, axis=axis))
    if not value.size:
        return exactly(value)
    if node.name == "argmax":
        may_be = x.high >= x.low.max(axis=axis, keepdims=True)
        best = np.argmax(x.low, axis=axis)
    else:
        may_be = x.low <= x.high.min(axis=axis, keepdims=True)
        best = np.argmin(x.high, axis=axis)
    sole = may_be.sum(axis=axis) == 1
    settled = (x.certain | ~may_be).all(axis=axis) & ~np.isnan(x.low).any(axis=axis)
    known = x.certain.all(axis=axis)
    found = np.where(known, value, best)
    return _forget(~(sole | settled | known), Enclosure(found, found, node.dtype))


def _argsort(node: Node, x: Enclosure, axis: int) -> Enclosure:
    assert node.primitive is not None
    x = _forget(x.beyond, x)
    order = np.asarray(node.primitive.meaning(np, x.low, axis=axis))
    low, high = np.take_along_axis(x.low, order, axis), np.take_along_axis(x.high, order, axis)
    count = x.low.shape[axis]
    before = np.take(high, range(max(0, count - 1)), axis=axis)
    apart = (before < np.take(low, range(min(1, count), count), axis=axis)).all(axis=axis, keepdims=True)
    settled = apart | x.certain.all(axis=axis, keepdims=True)
    return _forget(np.broadcast_to(~settled, order.shape), Enclosure(order, order, node.dtype))


def _with_attributes(rule: Callable[..., Enclosure]) -> Callable[..., Enclosure]:
    return lambda node, *operands: rule(node, *operands, **node.attributes)


def _fold(node: Node, *operands: Enclosure) -> Enclosure:
    return _anything(node.type)  # known keys are known integers, which were taken care of


def _iota(node: Node) -> Enclosure:
    assert node.primitive is not None
    return exactly(node.primitive.meaning(np, **node.attributes))


RULES: dict[str, Callable[..., Enclosure]] = {
    **dict.fromkeys(("less", "less_equal", "greater", "greater_equal", "equal", "not_equal"), _relation),
    **dict.fromkeys(("isfinite", "isinf", "isnan"), _isfinite),
    **dict.fromkeys(("max", "min"), _with_attributes(_extreme)),
    **dict.fromkeys(("any", "all"), _with_attributes(_any_all)),
    **dict.fromkeys(("argmax", "argmin"), _with_attributes(_position)),
    **dict.fromkeys(("random_bits", "fold_in"), _fold),
    "argsort": _with_attributes(_argsort),
    "astype": _with_attributes(_astype),
    "copysign": _copysign,
    "hypot": _hypot,
    "iota": _iota,
    "logsumexp": _with_attributes(_logsumexp),
    "nextafter": _nextafter,
    "remainder": _remainder,
    "signbit": _signbit,
    "where": _where,
}
"""Primitives with a rule of their own."""
