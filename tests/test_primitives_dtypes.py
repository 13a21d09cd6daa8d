"""Dtypes and values as NumPy has them, for every function that NumPy has too.

Two differences are on purpose: float32 with float64 raises, and where NumPy answers small integers and
booleans in float16 or float32, chainrule answers in float64.
"""

from importlib import import_module

import numpy as np
import pytest

import chainrule as cr
from chainrule.errors import ChainruleError
from chainrule.laws import records
from chainrule.primitive import Primitive

DTYPES = ("float32", "float64", "int32", "int64", "uint8", "bool")
SCALARS = (True, 3, 1.5)
VALUES = np.array([1, 2, 3, 0, 1])
OTHERS = np.array([2, 1, 3, 1, 1])


def numpy_function(record):
    module, _, name = record.oracle.rpartition(".")
    return getattr(import_module(module), name)


ELEMENTWISE = [
    record
    for record in records()
    if isinstance(record, Primitive)
    and record.elementwise
    and str(record.oracle).startswith("numpy.")
    and record.name not in {"astype", "identity", "stop_gradient"}
]
UNARY = [record for record in ELEMENTWISE if len(record.samples[0].operands) == 1]
BINARY = [record for record in ELEMENTWISE if len(record.samples[0].operands) == 2]


def numpy_answer(function, *operands):
    """What NumPy returns, or None where it refuses."""
    try:
        with np.errstate(all="ignore"):
            return np.asarray(function(*operands))
    except (TypeError, ValueError, OverflowError):
        return None


def our_answer(record, *operands):
    """What chainrule returns, or None where it refuses, with an error of its own or with NumPy's."""
    given = [cr.asarray(each) if isinstance(each, np.ndarray) else each for each in operands]
    try:
        with np.errstate(all="ignore"):
            return getattr(cr, record.name)(*given).numpy()
    except (ChainruleError, ValueError, OverflowError):
        return None


def widened(dtype, operands):
    """The dtype we promise: NumPy's, but float64 where NumPy answers integers in less than that."""
    floating = any(getattr(each, "dtype", np.dtype(int)).kind == "f" for each in operands)
    return np.dtype("float64") if dtype.kind == "f" and not floating else dtype


def compare(record, *operands):
    wanted, got = numpy_answer(numpy_function(record), *operands), our_answer(record, *operands)
    if wanted is None:
        assert got is None, f"{record.name}: NumPy refuses, chainrule gives {got!r}"
        return
    assert got is not None, f"{record.name}: chainrule refuses, NumPy gives {wanted!r}"
    if record.name == "round" and operands[0].dtype == bool:
        wanted = wanted.astype(np.int8)  # NumPy's float16
    assert got.dtype == widened(wanted.dtype, operands), (record.name, got.dtype, wanted.dtype)
    if record.name == "nextafter" and wanted.dtype == np.float16:
        return  # how far the next number is depends on the dtype
    tolerance = {"float16": 1e-3, "float32": 1e-6}.get(str(wanted.dtype), 1e-14)
    np.testing.assert_allclose(got, wanted.astype(got.dtype), rtol=tolerance, err_msg=record.name)


@pytest.mark.parametrize("record", UNARY, ids=lambda record: record.name)
@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_of_one_array(record, dtype):
    compare(record, VALUES.astype(dtype))


@pytest.mark.parametrize("record", BINARY, ids=lambda record: record.name)
@pytest.mark.parametrize("left", DTYPES)
def test_functions_of_two_arrays(record, left):
    for right in DTYPES:
        operands = VALUES.astype(left), OTHERS.astype(right)
        if {left, right} == {"float32", "float64"}:
            with pytest.raises(ChainruleError):
                getattr(cr, record.name)(*map(cr.asarray, operands))
            continue
        compare(record, *operands)


@pytest.mark.parametrize("record", BINARY, ids=lambda record: record.name)
@pytest.mark.parametrize("dtype", DTYPES)
def test_python_scalars_are_weak(record, dtype):
    """On either side, as NumPy 2 has it."""
    for scalar in SCALARS:
        compare(record, OTHERS.astype(dtype), scalar)
        compare(record, scalar, OTHERS.astype(dtype))


REDUCTIONS = ("sum", "prod", "mean", "var", "std", "max", "min", "any", "all", "argmax", "argmin")


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_reductions(name, dtype):
    x = np.array([[1, 2, 0], [3, 1, 1]]).astype(dtype)
    for options in ({}, {"axis": 1}, {"axis": -2, "keepdims": True}):
        got = getattr(cr, name)(cr.asarray(x), **options).numpy()
        wanted = np.asarray(getattr(np, name)(x, **options))
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_allclose(got, wanted, rtol=1e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_contractions_and_running_sums(dtype):
    a, b = np.array([[1, 0, 2], [1, 1, 0]]).astype(dtype), np.array([[1, 1], [0, 2], [1, 0]]).astype(dtype)
    for got, wanted in (
        (cr.matmul(cr.asarray(a), cr.asarray(b)), a @ b),
        (cr.einsum("ij,jk->ik", cr.asarray(a), cr.asarray(b)), np.einsum("ij,jk->ik", a, b)),
        (cr.tensordot(cr.asarray(a), cr.asarray(b), axes=1), np.tensordot(a, b, axes=1)),
        (cr.vecdot(cr.asarray(a), cr.asarray(a)), np.vecdot(a, a)),
        (cr.outer(cr.asarray(a[0]), cr.asarray(a[1])), np.outer(a[0], a[1])),
        (cr.cumulative_sum(cr.asarray(a), axis=1), np.cumulative_sum(a, axis=1)),
        (
            cr.cumulative_sum(cr.asarray(a), axis=1, include_initial=True),
            np.cumulative_sum(a, axis=1, include_initial=True),
        ),
    ):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got.numpy(), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_moves_elements_keeps_their_dtype(dtype):
    x = np.array([[1, 0, 2], [1, 1, 0]]).astype(dtype)
    t = cr.asarray(x)
    for got, wanted in (
        (cr.reshape(t, (3, 2)), x.reshape(3, 2)),
        (cr.permute_dims(t, (1, 0)), x.T),
        (cr.concat([t, t], axis=1), np.concat([x, x], axis=1)),
        (cr.stack([t, t]), np.stack([x, x])),
        (cr.pad(t, ((1, 0), (0, 2))), np.pad(x, ((1, 0), (0, 2)))),
        (cr.pad(t, 1, constant_value=1), np.pad(x, 1, constant_values=1)),
        (cr.flip(t), np.flip(x)),
        (cr.roll(t, 1, axis=1), np.roll(x, 1, axis=1)),
        (cr.tile(t, (2, 1)), np.tile(x, (2, 1))),
        (cr.repeat(t, 2, axis=0), np.repeat(x, 2, axis=0)),
        (cr.tril(t), np.tril(x)),
        (cr.take(t, cr.asarray([0, 0, 2]), axis=1), np.take(x, [0, 0, 2], axis=1)),
        (cr.sort(t, axis=1), np.sort(x, axis=1)),
        (t[:, ::-1], x[:, ::-1]),
        (cr.where(t == 0, t, t), x),
        (cr.clip(t, min=False, max=True), np.clip(x, False, True)),
        (cr.clip(t, max=True), np.clip(x, None, True)),
    ):
        assert got.dtype == wanted.dtype, (got, wanted)
        np.testing.assert_array_equal(got.numpy(), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_promotes_its_branches_and_weakly_so_for_scalars(dtype):
    x, mask = np.array([1, 0, 2]).astype(dtype), np.array([True, False, True])
    for scalar in SCALARS:
        got, wanted = cr.where(cr.asarray(mask), cr.asarray(x), scalar), np.where(mask, x, scalar)
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got.numpy(), wanted)


def test_mixed_floating_dtypes_raise_and_say_the_cure():
    with pytest.raises(ChainruleError, match=r"float32 meets float64.*\.astype"):
        cr.add(cr.asarray(np.ones(2, np.float32)), cr.asarray(np.ones(2)))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda flag: -flag, "booleans have no sign"),
        (lambda flag: flag - flag, "booleans have no sign"),
        (cr.sign, "booleans have no sign"),
        (lambda flag: cr.bitwise_and(flag, cr.asarray(1.5)), "takes integers"),
    ],
)
def test_what_numpy_refuses_is_refused_in_a_sentence(call, says):
    with pytest.raises(ChainruleError, match=says):
        call(cr.asarray([True, False]))
