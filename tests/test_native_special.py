"""Machine code of gather, scatter, sorting and the like: what the records mean, on any strides and target."""

import ctypes
from itertools import product
from typing import Any

import numpy as np
import pytest

from chainrule.backends.native.build import Code, compile_object
from chainrule.backends.native.emit import Emitted, Function, Module
from chainrule.backends.native.special import SPECIALS, emit_special
from chainrule.backends.native.status import ACCESSOR, bounds_error, declare_status, failure_number
from chainrule.backends.native.target import Target, host, restricted
from chainrule.backends.native.values import INDEX, POINTER
from chainrule.graph import Node
from chainrule.primitive import Primitive
from chainrule.primitives import REGISTRY
from chainrule.schedule.kernels import Buffer, Special, View
from chainrule.types import Type, type_of

Array = np.ndarray[Any, Any]
TARGETS = {"host": host(), "avx2": restricted("avx2"), "x86-64": restricted("x86-64")}
RANDOM = np.random.default_rng(3)
CANARY = 0x5A
"""What surrounds a result: whoever writes beside it is found out."""


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Target:
    return TARGETS[request.param]


# -- running a kernel --------------------------------------------------------------------------------------
def record(name: str) -> Primitive:
    found = REGISTRY[name]
    assert isinstance(found, Primitive)
    return found


def view(array: Array) -> View:
    steps = tuple(stride // array.itemsize for stride in array.strides)
    return View(Buffer("x", array.dtype, array.shape, steps, array.size), 0, array.shape, steps)


class Result:
    """Memory for a result: dense, or with gaps after rows, or columns first; always between canaries."""

    def __init__(self, type_: Type, layout: str = "dense") -> None:
        self._type, self._layout = type_, layout
        self._bytes, self.array = self._laid_out()

    def _laid_out(self) -> tuple[Array, Array]:
        shape, dtype = self._type
        padded, turned = self._layout == "padded" and shape, self._layout == "transposed"
        outer = (*shape[:-1], shape[-1] + 3) if padded else shape[::-1] if turned else shape
        memory = np.full(int(np.prod(outer)) * dtype.itemsize + 128, CANARY, np.uint8)
        inner = memory[64:-64].view(dtype).reshape(outer)
        return memory, inner[..., : shape[-1]] if padded else inner.T if turned else inner

    def check(self) -> Array:
        """The result; nothing beside it was written."""
        memory, inner = self._laid_out()
        inner[...] = self.array
        assert memory.tobytes() == self._bytes.tobytes()
        return self.array.copy()


def compiled(kernel: Special, target: Target) -> tuple[Any, Any, Emitted]:
    """The kernel's function (places, scratch, first, last), what takes the status, and what it needs."""
    module = Module(target.triple)
    emitted = emit_special(module, "kernel", kernel, target)
    declare_status(module)
    count = len(kernel.operands) + 2
    arguments = [(f"p{k}", POINTER) for k in range(count)] + [("first", INDEX), ("last", INDEX)]
    run = Function(module, "run", arguments, internal=False)
    run.call("kernel", "void", run.arguments)
    run.give_back()
    code = Code(compile_object(module.text(), target), target)
    status = ctypes.CFUNCTYPE(ctypes.c_int32)(code.address(ACCESSOR))
    function = code.function("run", *[ctypes.c_void_p] * count, ctypes.c_int64, ctypes.c_int64)
    return (function, code), status, emitted


def run(
    name: str, operands: list[Array], attributes: dict[str, Any], target: Target, layout: str = "dense"
) -> tuple[Array, int]:
    """The result of a kernel on arrays as they lie in memory, and its status afterwards.

    Run twice: in one go, and one unit of work after the other, the last one first.
    """
    type_ = record(name).infer(*map(type_of, operands), **attributes)
    places = [Result(type_, layout), Result(type_, layout)]
    kernel = Special(name, attributes, tuple(map(view, operands)), view(places[0].array))
    (function, _code), status, emitted = compiled(kernel, target)
    scratch = np.full(emitted.scratch + 128, CANARY, np.uint8)
    begin = -scratch.ctypes.data % 64
    singly = [(k, k + 1) for k in reversed(range(emitted.units))]
    for place, units in zip(places, ([(0, emitted.units)], singly), strict=True):
        pointers = [each.ctypes.data for each in (*operands, place.array, scratch[begin:])]
        for first, last in units:
            function(*pointers, first, last)
    assert (scratch[begin + emitted.scratch :] == CANARY).all()
    np.testing.assert_array_equal(places[0].check(), places[1].check())
    return places[0].array, status()


def agree(name: str, operands: list[Array], target: Target, layout: str = "dense", **attributes: Any) -> None:
    """Equal bits (NaN equals NaN) to the record's meaning."""
    with np.errstate(all="ignore"):
        wanted = record(name).meaning(np, *operands, **attributes)
    found, status = run(name, operands, attributes, target, layout)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)
    if wanted.dtype.kind == "f":
        np.testing.assert_array_equal(np.signbit(found), np.signbit(wanted))
    assert status == 0


LAYOUTS = ("dense", "padded", "transposed")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
EVERY_DTYPE = ("bool", *INTEGERS, "float32", "float64")


def numbers(shape: tuple[int, ...], dtype: str = "float32") -> Array:
    kind = np.dtype(dtype).kind
    if kind == "b":
        return RANDOM.random(shape) < 0.5
    if kind == "f":
        return RANDOM.standard_normal(shape).astype(dtype)
    return RANDOM.integers(0 if kind == "u" else -100, 100, shape).astype(dtype)


def strided(array: Array) -> Array:
    """The same numbers with gaps, backwards along the first axis."""
    wide = np.zeros((*array.shape[:-1], array.shape[-1] * 2 + 1), array.dtype)
    wide[..., 1::2] = array
    return wide[::-1][..., 1::2]


# -- every sample of the records ---------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(SPECIALS))
def test_samples_of_the_record(name: str, target: Target) -> None:
    if name == "tally":  # sums round: see there
        for sample, layout in product(record(name).samples, LAYOUTS):
            tallied(sample.arrays()[0], target, layout, **sample.attributes)
        return
    for sample in record(name).samples:
        for layout in LAYOUTS:
            agree(name, sample.arrays(), target, layout, **sample.attributes)


# -- gather ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("width", [1, 2, 7, 16, 33, 100])
def test_gather_rows(width: int, target: Target) -> None:
    table, rows = numbers((20, width)), RANDOM.integers(-20, 20, 33)
    for layout in LAYOUTS:
        agree("gather", [table, rows], target, layout, axis=0)
        agree("gather", [strided(table), rows], target, layout, axis=0)
    agree("gather", [np.asfortranarray(table), rows[::-2]], target, axis=0)
    agree("gather", [np.broadcast_to(table[0], (20, width)), rows], target, axis=0)


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_gather_dtypes(dtype: str) -> None:
    table = numbers((300, 21), dtype)
    for indices in INTEGERS:
        agree("gather", [table, RANDOM.integers(0, 9, 12).astype(indices)], host(), axis=0)
        agree("scatter", [table, RANDOM.integers(0, 5, 300).astype(indices)], host(), shape=(300, 21), axis=0)
    agree("gather", [table, np.array([-9, 8, -1], np.int8)], host(), axis=0)


def test_gather_several_index_arrays_in_the_middle(target: Target) -> None:
    x = numbers((3, 4, 5, 6))
    a, b = RANDOM.integers(-4, 4, (7, 1)), RANDOM.integers(0, 5, (2, 1, 3)).astype(np.uint8)
    for layout in LAYOUTS:
        agree("gather", [x, a, b], target, layout, axis=1)
        agree("gather", [x.transpose(3, 1, 2, 0), a, b], target, layout, axis=1)
    agree("gather", [x, np.array(2), a], target, axis=0)
    agree("gather", [x, RANDOM.integers(0, 6, (2, 4))], target, axis=3)


def test_gather_one_element_per_row(target: Target) -> None:
    scores, classes = numbers((37, 10)), RANDOM.integers(0, 10, 37).astype(np.int32)
    agree("gather", [scores, np.arange(37), classes], target, axis=0)
    agree("scatter", [numbers((37,)), np.arange(37), classes], target, shape=(37, 10), axis=0)


@pytest.mark.parametrize(
    ("shape", "indices"), [((4, 0), [1, 3]), ((4, 3), []), ((0, 3), []), ((4,), []), ((0, 0), [])]
)
def test_gather_of_nothing(shape: tuple[int, ...], indices: list[int], target: Target) -> None:
    picked = np.array(indices, np.int64)
    agree("gather", [numbers(shape), picked], target, axis=0)
    agree("scatter", [numbers((len(indices), *shape[1:])), picked], target, shape=shape, axis=0)


# -- scatter -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("width", [1, 2, 7, 16, 33, 100])
def test_scatter_adds_in_the_order_of_positions(width: int, target: Target) -> None:
    """Bits equal NumPy's, so the order of additions does too: the terms are of very different sizes."""
    updates = numbers((50, width)) * np.float32(10.0) ** RANDOM.integers(-6, 6, (50, width)).astype(
        np.float32
    )
    rows = RANDOM.integers(-7, 7, 50)
    for layout in LAYOUTS:
        agree("scatter", [updates, rows], target, layout, shape=(7, width), axis=0)
        agree("scatter", [strided(updates), rows], target, layout, shape=(7, width), axis=0)


def test_scatter_in_the_middle(target: Target) -> None:
    a, b = RANDOM.integers(-4, 4, (7, 1)), RANDOM.integers(0, 5, (2, 1, 3)).astype(np.uint8)
    for layout in LAYOUTS:
        agree("scatter", [numbers((3, 2, 7, 3, 6)), a, b], target, layout, shape=(3, 4, 5, 6), axis=1)
        agree("scatter", [numbers((2, 7, 3, 3, 6)), a, b], target, layout, shape=(4, 5, 3, 6), axis=0)
    agree("scatter", [np.broadcast_to(np.float32(1), (9,)), np.arange(9) % 4], target, shape=(4,), axis=0)


# -- indices out of range ----------------------------------------------------------------------------------
@pytest.mark.parametrize("bad", [5, -6, 2**40, -(2**63), 2**63 - 1])
def test_out_of_range_is_noted_and_touches_nothing(bad: int, target: Target) -> None:
    indices = np.tile([0, 4, -5, 3], 6)
    indices[17] = bad
    for name, operands, attributes in (
        ("gather", [numbers((5, 33)), indices], {"axis": 0}),
        ("scatter", [numbers((24, 33)), indices], {"axis": 0, "shape": (5, 33)}),
        ("checked_indices", [indices], {"axis": 1, "extent": 5}),
        ("checked_indices", [indices.reshape(4, 6).T], {"axis": 1, "extent": 5}),
    ):
        _, status = run(name, operands, attributes, target)
        assert status == failure_number("kernel")
        with pytest.raises(IndexError):
            record(name).meaning(np, *operands, **attributes)


def test_every_index_is_out_of_range_on_an_axis_of_length_0() -> None:
    for name, operand, attributes in (
        ("gather", numbers((0, 3)), {}), ("scatter", numbers((2, 3)), {"shape": (0, 3)}),
        ("scatter", numbers((2, 0)), {"shape": (1, 0)}),
    ):  # fmt: skip
        _, status = run(name, [operand, np.array([0, -2])], {"axis": 0, **attributes}, host())
        assert status == failure_number("kernel")


def test_the_status_is_taken_once_and_the_error_names_place_and_size() -> None:
    table, indices = numbers((5, 2)), np.array([7])
    place = Result(Type((1, 2), table.dtype))
    node = Node(REGISTRY["gather"], (), {"axis": 0}, Type((1, 2), table.dtype))
    kernel = Special("gather", {"axis": 0}, (view(table), view(indices)), view(place.array), (node,))
    (function, _code), status, emitted = compiled(kernel, host())
    function(table.ctypes.data, indices.ctypes.data, place.array.ctypes.data, None, 0, emitted.units)
    assert (status(), status()) == (failure_number("kernel"), 0)
    with pytest.raises(IndexError, match=r"gather float32\[1,2\]: .* out of bounds for axis 0 with size 5"):
        raise bounds_error([kernel])


@pytest.mark.parametrize("dtype", INTEGERS)
def test_indices_alone(dtype: str, target: Target) -> None:
    indices = RANDOM.integers(0 if dtype.startswith("u") else -90, 90, (7, 37)).astype(dtype)
    for layout in LAYOUTS:
        agree("checked_indices", [indices], target, layout, extent=90, axis=0)
        agree("checked_indices", [strided(indices)], target, layout, extent=300, axis=1)


# -- extremes ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["argmax", "argmin"])
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_extremes_of_every_dtype(name: str, dtype: str) -> None:
    x = numbers((13, 5, 37), dtype)
    for axis in range(3):
        agree(name, [x], host(), axis=axis)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_extremes_with_ties_nan_and_infinity(name: str, target: Target) -> None:
    x = RANDOM.choice(np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf], np.float32), (9, 6, 35))
    some = np.where(RANDOM.random(x.shape) < 0.1, np.float32(np.nan), x)
    for each in (x, some, some[::-1, :, ::2], some.transpose(2, 0, 1)):
        for axis in range(3):
            layout = LAYOUTS[(axis + each.size) % 3]
            agree(name, [each], target, layout, axis=axis)


# -- running sums ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_running_sums_of_every_dtype(dtype: str) -> None:
    x = numbers((5, 6, 37), dtype)
    for axis in range(3):
        for reverse in (False, True):
            agree("cumulative_sum", [x], host(), axis=axis, reverse=reverse)


def test_running_sums_on_any_strides(target: Target) -> None:
    x = numbers((5, 6, 37))
    x[0, 0, 0] = -0.0
    for each in (x, strided(x), x.transpose(1, 2, 0), x[:, :, :0], x[:, :1]):
        for axis in range(3):
            layout = LAYOUTS[(axis + each.size) % 3]
            agree("cumulative_sum", [each], target, layout, axis=axis, reverse=axis == 1)


# -- sorting -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_sorting_every_dtype(dtype: str) -> None:
    x = numbers((300,), dtype)
    wide = x if dtype == "bool" else RANDOM.integers(0, 256, 300 * x.itemsize, np.uint8).view(dtype)
    extremes = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max] * 3, dtype) if x.dtype.kind in "iu" else x
    for each in (x, wide, x[:1], x[:2], np.repeat(x[:3], 50), extremes):
        agree("argsort", [each], host(), axis=0)


def test_sorting_with_ties_nan_and_signed_zeros(target: Target) -> None:
    for dtype in ("float32", "float64"):
        kinds = np.array([0.0, -0.0, 1e-310, -1e-42, 1.0, -1.0, np.inf, -np.inf, np.nan, -np.nan], dtype)
        x = RANDOM.choice(kinds, (3, 40, 7))
        for each in (x, x[::-1, :, ::2], x.transpose(2, 0, 1), x[:, :0]):
            for axis in range(3):
                layout = LAYOUTS[(axis + each.size) % 3]
                agree("argsort", [each], target, layout, axis=axis)


def test_sorting_an_epoch(target: Target) -> None:
    agree("argsort", [RANDOM.integers(0, 2**32, 60_000, np.uint32)], target, axis=0)


# -- random numbers ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, 1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1001])
def test_random_bits_of_every_size(size: int, target: Target) -> None:
    key = RANDOM.integers(0, 2**32, 2, np.uint32)
    agree("random_bits", [key], target, shape=(size,))
    agree("random_bits", [strided(key)], target, "padded", shape=(3, size))
    agree("random_bits", [key], target, "transposed", shape=(size, 3))


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_folding_any_number_into_a_key(dtype: str, target: Target) -> None:
    key = RANDOM.integers(0, 2**32, 2, np.uint32)
    data = np.array(77 if np.dtype(dtype).kind in "fu" else -77).astype(dtype)
    agree("fold_in", [strided(key), data], target)
    agree("fold_in", [key, data.reshape(1, 1)], target)


# -- tallies -----------------------------------------------------------------------------------------------
INSIDE = ((-np.inf, np.inf), (-0.9, 0.9), (0.01, 0.99), (-np.inf, 0.0))


def tallied(x: Array, target: Target, layout: str, low: float, high: float) -> None:
    """Counts and the largest size exactly; sums within what adding so many numbers in a row may round."""
    found, status = run("tally", [x], {"low": low, "high": high}, target, layout)
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        wanted = record("tally").meaning(np, wide, low=low, high=high)
        sizes = np.abs(wide).sum()
    bound = 128 * np.finfo(x.dtype).eps
    assert status == 0
    np.testing.assert_array_equal(found[2:], wanted[2:].astype(x.dtype))
    np.testing.assert_allclose(found[0], wanted[0], rtol=bound)
    np.testing.assert_allclose(found[1], wanted[1], rtol=0, atol=bound * sizes)


@pytest.mark.parametrize("shape", [(1,), (33,), (64, 64), (70, 10), (64, 1), (3, 5, 7), (5000,), (0, 3)])
def test_a_tally_of_any_layout(shape: tuple[int, ...], target: Target) -> None:
    x = numbers(shape, "float64" if shape in ((33,), (3, 5, 7)) else "float32")
    views = (x, x.T, x[::-1], x[..., ::2], np.broadcast_to(x[:1], x.shape), strided(x))
    for k, each in enumerate(views):
        tallied(each, target, LAYOUTS[k % 3], *INSIDE[(k + len(shape)) % 4])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_tally_of_zeros_and_of_what_is_not_finite(dtype: str, target: Target) -> None:
    many = numbers((90, 50), dtype)
    many[RANDOM.random(many.shape) < 0.3] = 0
    for first in (0.0, 1.0):  # whether zeros are counted at once
        many[0, :16] = first
        tallied(many, target, "dense", -np.inf, np.inf)
        tallied(many, target, "dense", -0.5, 1.0)
    lone = numbers((4000,), dtype)
    lone[2500] = -0.0
    tallied(lone, target, "dense", -np.inf, np.inf)
    for odd in (np.inf, -np.inf, np.nan):
        lone[17] = odd
        found, _ = run("tally", [lone], {"low": -1.0, "high": 1.0}, target)
        assert found[4] == 1
        assert found[3] == 1
        np.testing.assert_array_equal(found[2], abs(odd))
        assert found[5] == np.count_nonzero(lone < -1) + np.count_nonzero(lone > 1)
    huge = np.full(20, np.finfo(dtype).max, dtype)  # squares that overflow are no number that is not finite
    assert run("tally", [huge], {"low": -np.inf, "high": np.inf}, target)[0].tolist()[2:] == [
        huge[0],
        0,
        0,
        0,
    ]
