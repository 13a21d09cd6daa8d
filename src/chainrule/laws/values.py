"""Laws about types and values, and about which elements make an element."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from chainrule.errors import ChainruleError, DTypeError, LawError
from chainrule.graph import Array, Graph, Node
from chainrule.laws.case import (
    Case,
    Traced,
    feeding,
    must_agree,
    must_be_identical,
    rounding,
    run,
    size,
)
from chainrule.nest import nest_of
from chainrule.primitive import Primitive
from chainrule.types import type_of

ORACLE = 1e-13  # another library's rounding, in units of the largest number that takes part
CHOSEN = 4  # elements of the output for which what feeds them is tried out
VARIANTS = ("float32", "int64", "int32", "uint8", "bool")


def types(case: Case) -> None:
    """The type rule of every node, pullback included, is the actual type of its value."""
    _check_types(case.traced.value, case.arrays)
    cotangents = case.draw([each.type for each in case.traced.cotangents])
    _check_types(case.traced.pullback, (*case.arrays, *cotangents))


def _check_types(graph: Graph, values: Sequence[Any]) -> None:
    everything = Graph(graph.inputs, graph.nodes)
    for node, value in zip(graph.nodes, everything.evaluate(np, *values), strict=True):
        for said, actual in zip(node.types, value if isinstance(value, tuple) else (value,), strict=True):
            if type_of(np.asarray(actual)) != said:
                raise LawError(f"{node.name} says {said}, the value has {type_of(np.asarray(actual))}")


def oracle(case: Case) -> None:
    """The value is that of an independent function, and the known answer where one is published."""
    values = run(case.traced.value, *case.arrays)
    if case.sample.value is not None:
        bound = ORACLE * size([*case.arrays, case.sample.value], least=0)
        must_agree("value, against the known answer", values[0], case.sample.value, bound)
    if case.oracle is None:
        return
    answer = case.oracle(*case.arrays)
    for value, wanted in zip(values, answer if isinstance(answer, tuple) else (answer,), strict=True):
        bound = ORACLE * size([*case.arrays, wanted], least=0)
        must_agree("value, against the oracle", value, wanted, bound)
        if value.dtype != np.asarray(wanted).dtype:
            raise LawError(f"dtype {value.dtype}, the oracle gives {np.asarray(wanted).dtype}")


def dtypes(case: Case) -> None:
    """Called as users do with float32, integers or booleans: types as the rules say, all else as in NumPy.

    NumPy's float16 for small integers is not followed, because the engine has none: it gives float64.
    """
    for dtype in VARIANTS:
        variant = case.cast(dtype)
        try:
            traced = Traced(variant.spelled, [type_of(each) for each in variant.arrays], case.walk)
            wanted = (
                np.asarray(case.oracle(*variant.arrays)) if case.oracle and case.oracle_is_numpy else None
            )
        except (DTypeError, ValueError, OverflowError):
            continue  # the record, or NumPy, does not take them
        _check_types(traced.value, variant.arrays)
        if wanted is None or wanted.dtype == np.float16:
            continue
        (value,) = run(traced.value, *variant.arrays)
        if value.dtype != wanted.dtype:
            raise LawError(f"of {dtype}: {value.dtype}, NumPy gives {wanted.dtype}")
        bound = rounding(traced.value) * size([*variant.arrays, wanted], least=0)
        must_agree(f"of {dtype}", value, wanted, bound)


def eager_value(case: Case) -> None:
    """Computing on values gives bit for bit what the traced graph gives."""
    _, outputs = case.eager()
    for node, traced in zip(outputs, run(case.traced.value, *case.arrays), strict=True):
        must_be_identical("eager value", node.value, traced)


def single_precision(case: Case) -> None:
    """float32 values and pullbacks are within the record's ulps of float64 on the same numbers."""
    for each in _in_single_precision(case):
        must_agree(each.what, each.by_reference.astype(np.float64), each.wanted, each.bound)


def on_backends(case: Case) -> None:
    """Every backend computes the values and the pullback that the reference computes, in every dtype.

    float32 is held to the same bound as the reference: how a backend rounds is its own affair, how far it
    gets from the truth is not. All of it is one graph, which costs a backend that compiles least.
    """
    if not case.backends:
        return
    expected = [*_in_double_precision(case), *_in_single_precision(case), *_in_other_dtypes(case)]
    given = {node: value for each in expected for node, value in each.given.items()}
    graph = Graph(tuple(given), tuple(each.output for each in expected))
    for name, compile_graph in case.backends.items():
        for each, got in zip(expected, compile_graph(graph)(list(given.values())), strict=True):
            must_agree(f"{each.what} on {name}", got, each.wanted, each.bound)
            if np.asarray(got).dtype != each.by_reference.dtype:
                raise LawError(
                    f"{each.what} on {name}: {np.asarray(got).dtype} instead of {each.by_reference.dtype}"
                )


class _Expected(NamedTuple):
    """An output of a graph: what it has to be, within a bound, and what the reference makes of it."""

    what: str
    output: Node
    given: dict[Node, Array]
    wanted: Array
    bound: float
    by_reference: Array


def _by_reference(what: str, graph: Graph, values: Sequence[Any]) -> Iterator[_Expected]:
    given = dict(zip(graph.inputs, values, strict=True))
    for output, value in zip(graph.outputs, run(graph, *values), strict=True):
        yield _Expected(what, output, given, value, 10 * rounding(graph) * size([*values, value]), value)


def _in_double_precision(case: Case) -> Iterator[_Expected]:
    cotangents = case.draw([each.type for each in case.traced.cotangents])
    yield from _by_reference("value", case.traced.value, case.arrays)
    yield from _by_reference("pullback", case.traced.pullback, (*case.arrays, *cotangents))


def _in_single_precision(case: Case) -> Iterator[_Expected]:
    """The floating values and cotangents in float32; what is wanted is computed in float64."""
    single = case.cast("float32")
    try:
        traced = single.traced
    except ChainruleError:
        return  # the record's attributes are for float64, as a sub-graph's types are
    double = Traced(case.call, [type_of(_widened(each)) for each in single.arrays], case.walk)
    g = [each.astype(np.float32) for each in case.draw([node.type for node in double.floating])]
    if [each.dtype for each in g] != [each.dtype for each in traced.cotangents]:
        return  # its result is float64 whatever it is given
    for what, graph, exact, given in (
        ("value", traced.value, double.value, single.arrays),
        ("pullback", traced.pullback, double.pullback, (*single.arrays, *g)),
    ):
        for each, wanted in zip(
            _by_reference(f"float32 {what}", graph, given), run(exact, *map(_widened, given)), strict=True
        ):
            if each.by_reference.dtype == np.float32 and wanted.dtype == np.float64:
                scale = size([*given, wanted], least=0)
                bound = case.record.ulps * float(np.finfo(np.float32).eps) * scale
                yield each._replace(wanted=wanted, bound=bound)


def _in_other_dtypes(case: Case) -> Iterator[_Expected]:
    for dtype in VARIANTS:
        variant = case.cast(dtype)
        try:
            traced = Traced(variant.spelled, [type_of(each) for each in variant.arrays], case.walk)
            expected = list(_by_reference(f"value of {dtype}", traced.value, variant.arrays))
        except (ChainruleError, ValueError, OverflowError):
            continue  # the record does not take them
        yield from expected


def _widened(array: Any) -> Any:
    return array.astype(np.float64) if array.dtype == np.float32 else array


# -- elements ----------------------------------------------------------------------------------------------
def nest(case: Case) -> None:
    """The nest, element by element, computes the meaning."""
    if not isinstance(case.record, Primitive):
        return
    loop = nest_of(case.record, *map(type_of, case.arrays), **case.sample.attributes)
    if loop is None:
        return
    (wanted,) = run(case.traced.value, *case.arrays)
    got = loop.evaluate(*case.arrays)
    must_agree("nest", got, wanted, rounding(case.traced.value) * size([*case.arrays, wanted]))
    if got.dtype != wanted.dtype:
        raise LawError(f"nest: dtype {got.dtype} instead of {wanted.dtype}")


def feeds(case: Case) -> None:
    """An element changes only when one of those changes that are said to feed it."""
    if not isinstance(case.record, Primitive) or len(case.traced.outputs) != 1:
        return
    (before,) = run(case.traced.value, *case.arrays)
    places = list(np.ndindex(before.shape))
    told = {place: feeding(case, place) for place in places[:: max(1, len(places) // CHOSEN)]}
    if None in told.values():
        return  # the record says nothing about its elements
    for k, array in enumerate(case.arrays):
        for element in np.ndindex(array.shape):
            (after,) = run(
                case.traced.value, *case.arrays[:k], case.changed(array, element), *case.arrays[k + 1 :]
            )
            for place, by in told.items():
                if (k, element) not in (by or ()) and not np.array_equal(
                    before[place], after[place], equal_nan=True
                ):
                    raise LawError(f"element {place} changes with element {element} of operand {k}, untold")
