"""Elementwise primitives in machine code: NumPy's values, to the bit or within bounds, on every target.

Kernels run as they do in a program: denormal numbers count as 0.
"""

import ctypes
from functools import cache
from typing import Any

import numpy as np
import pytest

from chainrule.backends.native import elements
from chainrule.backends.native.build import Code, compile_object
from chainrule.backends.native.emit import Function, Module
from chainrule.backends.native.scalars import compute
from chainrule.backends.native.step import flushing_denormals
from chainrule.backends.native.target import Target, host, restricted
from chainrule.backends.native.values import INDEX, POINTER, SCALARS
from chainrule.backends.native.vectormath import BOUNDS
from chainrule.errors import DTypeError
from chainrule.laws import records
from chainrule.ops import ops
from chainrule.primitive import Primitive
from chainrule.primitives import REGISTRY
from chainrule.schedule.kernels import Expression
from chainrule.trace import trace_body
from chainrule.types import Type

TARGETS = {
    "host": (host(), 16),
    "scalars": (host(), 1),
    "avx2": (restricted("avx2"), 8),
    "x86-64": (restricted("x86-64"), 4),
}
FLOATS = ("float32", "float64")
DTYPES = tuple(
    np.dtype(name) for name in ("bool", "int8", "int32", "int64", "uint8", "uint32", "uint64", *FLOATS)
)
ELEMENTWISE = [each for each in records() if isinstance(each, Primitive) and each.elementwise]

VECTORS = {name: TARGETS[name] for name in TARGETS if name != "scalars"}
every_target = pytest.mark.parametrize(("target", "lanes"), TARGETS.values(), ids=TARGETS)
every_vector_target = pytest.mark.parametrize(("target", "lanes"), VECTORS.values(), ids=VECTORS)
every_record = pytest.mark.parametrize("record", ELEMENTWISE, ids=lambda record: record.name)


# -- running -------------------------------------------------------------------------------------------------
def emit_kernel(module: Module, name: str, expression: Expression, target: Target, lanes: int) -> None:
    """``void name(ptr result, ptr operands …, i64 count)`` for a multiple of `lanes` elements."""
    operands = [each.dtype for each in expression.arguments]
    arguments = [("result", POINTER), *((f"x{k}", POINTER) for k in range(len(operands))), ("count", INDEX)]
    function = Function(module, name, arguments, internal=False)
    result, *given, count = function.arguments

    def at(position, _):
        values = [
            elements.read(function, function.at(each, position, SCALARS[dtype.name]), dtype, 1, lanes)
            for each, dtype in zip(given, operands, strict=True)
        ]
        value = compute(function, expression, values, lanes)
        place = function.at(result, position, SCALARS[expression.dtype.name])
        elements.write(function, value, place, expression.dtype, 1)

    flushing_denormals(function, target, lambda: function.loop(0, count, lanes, [], at))
    function.give_back()


class Kernels:
    """Operations compiled together, called with arrays."""

    def __init__(self, expressions: list[Expression], target: Target, lanes: int) -> None:
        module = Module(target.triple)
        for number, each in enumerate(expressions):
            emit_kernel(module, f"kernel{number}", each, target, lanes)
        self.code, self.lanes = Code(compile_object(module.text(), target), target), lanes

    def __call__(self, number: int, dtype: Any, *operands: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        size = operands[0].size
        whole = -(-size // self.lanes) * self.lanes
        padded = [np.resize(each, whole) for each in operands]
        result = np.empty(whole, dtype)
        pointers = [ctypes.c_void_p(each.ctypes.data) for each in (result, *padded)]
        types = [ctypes.c_void_p] * len(pointers)
        self.code.function(f"kernel{number}", *types, ctypes.c_int64)(*pointers, whole)
        return result[:size]


def expression_of(op: str, operands: tuple[Any, ...], result: Any, **attributes: Any) -> Expression:
    arguments = tuple(Expression("load", (), np.dtype(each)) for each in operands)
    return Expression(op, arguments, np.dtype(result), attributes)


@cache
def expressions(record: Primitive) -> list[Expression]:
    """The record on every combination of dtypes on which a program can have it."""
    if record.name == "astype":
        pairs = [(a, b) for a in DTYPES for b in DTYPES if a != b]
        return [expression_of("astype", (a,), b, dtype=b) for a, b in pairs]
    found: dict[Any, Expression] = {}
    arity = len(record.samples[0].operands)
    for dtype in DTYPES:
        try:
            graph = trace_body(getattr(ops, record.name), [Type((), dtype)] * arity).graph
        except DTypeError:
            continue
        for node in graph.nodes:
            if node.primitive is record:
                given = tuple(each.dtype for each in node.operands)
                found[given] = expression_of(record.name, given, node.dtype, **node.attributes)
    return list(found.values())


# -- what NumPy says -----------------------------------------------------------------------------------------
NUMBERS = (0.0, -0.0, 1, -1, 0.5, -0.5, 1.5, -2.5, 3, -7.25, 88, 1e-3, -1e5, 3e9, -1e30, 1e37, -3e-30)
ODD = (np.inf, -np.inf, np.nan)


def values(dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Numbers at which operations may go wrong, and ordinary ones."""
    if dtype.kind == "b":
        return np.array([False, True])
    generator = np.random.default_rng(1)
    if dtype.kind == "f":
        return np.array([*NUMBERS, *ODD, *generator.normal(0, 4, 12)], dtype)
    info = np.iinfo(dtype)
    chosen = [0, 1, 2, 3, 7, 31, 32, 63, 64, 65, 100, info.max, info.max - 1, info.min, info.min + 1]
    chosen += [-1, -2, -3, -8, -100] if info.min else []
    return np.array(chosen, dtype)


def operands_for(expression: Expression) -> list[np.ndarray[Any, Any]]:
    """Every combination of `values`; only what NumPy defines."""
    dtypes = [each.dtype for each in expression.arguments]
    grid = [each.ravel() for each in np.meshgrid(*map(values, dtypes))]
    if expression.op == "pow" and dtypes[1].kind == "i":
        grid[1] = np.where(grid[1] < 0, 5, grid[1])
    if expression.op == "astype" and dtypes[0].kind == "f" and expression.dtype.kind in "iu":
        bits = np.iinfo(expression.dtype)
        inside = (np.trunc(grid[0]) >= bits.min) & (np.trunc(grid[0].astype("float64")) < float(bits.max))
        grid[0] = grid[0][inside]
    return grid


def says_numpy(record: Primitive, expression: Expression, given: list[np.ndarray[Any, Any]]) -> Any:
    with np.errstate(all="ignore"):
        return np.asarray(record.meaning(np, *given, **expression.attributes))


def differences(expression: Expression, got: Any, wanted: Any) -> Any:
    """Where a result is not NumPy's. Denormal numbers instead of 0 do not count, nor which zero is larger."""
    same = (got == wanted) | (got != got) & (wanted != wanted)
    if expression.dtype.kind == "f":
        if expression.op not in ("relu", "maximum", "minimum", "clip"):
            same &= (np.signbit(got) == np.signbit(wanted)) | (wanted != wanted)
        tiny = np.finfo(expression.dtype).tiny
        same |= (abs(got) < tiny) & (abs(wanted) < tiny)
    return ~same


@every_target
@every_record
def test_exact_operations_are_numpys(record, target, lanes):
    """Everything but mathematics; that for its special values: NaN, infinities, zeros."""
    kernels = Kernels(expressions(record), target, lanes)
    for number, expression in enumerate(expressions(record)):
        given = operands_for(expression)
        wanted = says_numpy(record, expression, given)
        got = kernels(number, expression.dtype, *given)
        wrong = differences(expression, got, wanted)
        if record.name in BOUNDS and expression.dtype.kind == "f":
            near = np.isfinite(got) & np.isfinite(wanted)
            wrong &= ~near
        if wrong.any():
            where = [each[wrong][:5] for each in given]
            dtypes = [str(each.dtype) for each in expression.arguments]
            pytest.fail(f"{record.name} {dtypes} of {where}: {got[wrong][:5]}, not {wanted[wrong][:5]}")


# -- how exact mathematics is --------------------------------------------------------------------------------
def error_function(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """2/√π exp(-x²) Σ 2ᵏ x²ᵏ⁺¹ / (2k + 1)!!, whose terms are all of one sign; 1 where that is no news."""
    near = np.clip(x, -7, 7)
    term = total = near
    for k in range(1, 220):
        term = term * near * near * 2 / (2 * k + 1)
        total = total + term
    value = total * np.exp(-near * near) * 2 / np.sqrt(x.dtype.type("3.14159265358979323846264338327950288"))
    return np.where(abs(x) < 7, value, np.sign(x))


ORACLES = {
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh, "pow": np.power, "erf": error_function,
    "rsqrt": lambda x: 1 / np.sqrt(x), "reciprocal": lambda x: 1 / x,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-abs(x))),
}  # fmt: skip
WIDER = {"float32": np.float64, "float64": np.longdouble}
BREAKS = (1.0, 0.5, np.pi / 4, np.log(2) / 2, 2 / 3, 4 / 3, np.sqrt(2) - 1, 2.0**20)
"""Where routines change from one formula to another; multiples of some are hard as well."""


@cache
def hard_operands(op: str, dtype: str, count: int = 4000) -> list[np.ndarray[Any, Any]]:
    """Every magnitude and sign, the usual range more densely, and the neighbours of `BREAKS`."""
    generator = np.random.default_rng(7)
    largest = np.log2(float(np.finfo(dtype).max))
    magnitudes = 2.0 ** generator.uniform(-largest + 3, largest, count) * generator.choice([-1, 1], count)
    usual = [generator.uniform(-size, size, count) for size in (1, 10, 100, 1e5)]
    near_breaks = [each * generator.integers(-40, 40, count // 8) for each in BREAKS]
    steps = 1 + generator.integers(-9, 9, count // 8 * len(BREAKS)) * np.finfo(dtype).eps
    x = np.concatenate([magnitudes, *usual, np.concatenate(near_breaks) * steps]).astype(dtype)
    if len(REGISTRY[op].samples[0].operands) == 1:
        return [x]
    if op == "pow":
        base = abs(x)
        with np.errstate(all="ignore"):
            exponent = (generator.uniform(-1, 1, x.size) * 1.1 * largest / np.log2(base)).astype(dtype)
        return [base, exponent]
    return [x, np.where(generator.random(x.size) < 0.5, generator.permutation(x), x * x.dtype.type(0.7))]


@cache
def exact(op: str, dtype: str) -> np.ndarray[Any, Any]:
    with np.errstate(all="ignore"):
        wider = [each.astype(WIDER[dtype]) for each in hard_operands(op, dtype)]
        return ORACLES.get(op, getattr(np, op, None))(*wider)


def units(wanted: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    """The distance of neighbouring numbers where `wanted` lies, as among normal numbers."""
    info = np.finfo(dtype)
    exponent = np.frexp(wanted)[1] - 1
    return np.ldexp(np.ones_like(wanted), np.maximum(exponent, int(info.minexp)) - info.nmant)


def error_in_units(op: str, dtype: str, got: np.ndarray[Any, Any], lost: float) -> np.ndarray[Any, Any]:
    """How far from the exact result; infinite where one is NaN or an infinity and the other is not.

    What rounds to less than the smallest normal number may be 0; `lost` on the way is forgiven.
    """
    wanted, info = exact(op, dtype), np.finfo(dtype)
    scale = wanted
    if op == "logaddexp":
        scale = np.maximum.reduce([abs(each) for each in (wanted, *hard_operands(op, dtype))])
    with np.errstate(all="ignore"):
        rounded = wanted.astype(dtype)
        error = np.maximum(abs(got - wanted) - lost, 0) / units(scale, dtype)
        error[(abs(wanted) < info.tiny * 1.001) & (abs(got) <= info.tiny)] = 0
        error[np.isinf(rounded) & (got == rounded) | np.isnan(got) & np.isnan(wanted)] = 0
    return np.nan_to_num(error, nan=np.inf, posinf=np.inf)


@every_vector_target
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", BOUNDS)
def test_mathematics_keeps_its_bounds(op, dtype, target, lanes):
    given = hard_operands(op, dtype)
    kernels = Kernels([expression_of(op, (dtype,) * len(given), dtype)], target, lanes)
    lost = 0.0 if target.fused else float(np.finfo(dtype).tiny)
    error = error_in_units(op, dtype, kernels(0, dtype, *given), lost)
    # Where there is nothing wider than float64 the oracle is half a unit off too.
    own = float(np.finfo(WIDER[dtype]).eps / np.finfo(dtype).eps) / 2
    worst = int(np.argmax(error))
    bound = BOUNDS[op][dtype == "float64"] + own
    assert error[worst] <= bound, (
        f"{op} of {[float(each[worst]) for each in given]}: {error[worst]:.2f} units"
    )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", ["exp", "tanh", "sin", "pow", "less", "floor_divide"])
def test_more_lanes_than_a_register_holds_give_the_same(op, dtype):
    result = np.dtype(bool) if op == "less" else np.dtype(dtype)
    given = hard_operands(op, dtype)[:2]
    narrow, wide = (
        Kernels([expression_of(op, (dtype,) * len(given), result)], host(), lanes) for lanes in (4, 64)
    )
    np.testing.assert_array_equal(narrow(0, result, *given), wide(0, result, *given))


def test_long_functions_are_written_once_and_called():
    module = Module(host().triple)
    for number in range(3):
        emit_kernel(module, f"kernel{number}", expression_of("sin", ("float64",), "float64"), host(), 8)
    assert module.text().count("define internal <8 x double> @sin.v8f64(") == 1
    assert module.text().count("call <8 x double> @sin.v8f64(") == 3
