"""What a law is checked on: one record on one sample, its derivatives traced, and differences to compare."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np

from chainrule.control import items
from chainrule.errors import LawError
from chainrule.graph import ACTIVE, Array, Graph, Node
from chainrule.nest import nest_of
from chainrule.ops import ops
from chainrule.primitive import Composite, Primitive, Rule, Sample
from chainrule.reverse import ReverseWalk, walk
from chainrule.trace import Trace
from chainrule.types import Type, type_of

Record = Primitive | Composite
Executable = Callable[[Sequence[Any]], Sequence[Any]]
Backend = Callable[[Graph], Executable]

ROUNDING = 1e-13  # a few hundred roundings of float64
SINGLE_ROUNDING = 1e-5  # and of float32
IMAGINARY_STEP = 1e-30  # f(x + ih) = f(x) + ih f'(x) + O(h²): far below rounding, no truncation error is left
REAL_STEP = 2.0**-14  # small, so that few intervals hold a kink; rounding is then 1e-11, truncation 1e-18


@dataclass(eq=False)
class Case:
    """One record on one sample; `arrays` are the operands' values."""

    record: Record
    sample: Sample
    arrays: tuple[Array, ...]
    walk: ReverseWalk = walk
    backends: Mapping[str, Backend] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seed("")

    def seed(self, law: str) -> None:
        """Begin the numbers of one law; they do not depend on which other laws and records there are."""
        self.random = np.random.default_rng(zlib.crc32(f"{self.record.name} {law}".encode()))

    @cached_property
    def traced(self) -> Traced:
        return Traced(self.call, [type_of(each) for each in self.arrays], self.walk)

    def call(self, operands: Sequence[Node]) -> list[Node]:
        """The record applied to nodes: all its outputs."""
        if isinstance(self.record, Primitive):
            return outputs_of(ops.apply(self.record, operands, **self.sample.attributes))
        return self.spelled(operands)

    def spelled(self, operands: Sequence[Node]) -> list[Node]:
        """The record applied as users write it: promotion of dtypes included."""
        return outputs_of(self.write(ops.surface(self.record), operands))

    def write(self, function: Rule, operands: Sequence[Any]) -> Any:
        """The sample's call, written with `function`."""
        if self.record.spelling is None:
            return function(*operands, **self.sample.attributes)
        return self.record.spelling(function, *operands, **self.sample.attributes)

    @cached_property
    def oracle(self) -> Rule | None:
        """The record's independent function, called like the sample."""
        named = self.record.oracle
        if named is None:
            return None
        if not isinstance(named, str):
            return lambda *arrays: named(*arrays, **self.sample.attributes)
        module, _, name = named.rpartition(".")
        function = getattr(import_module(module), name)
        return lambda *arrays: self.write(function, arrays)

    @property
    def oracle_is_numpy(self) -> bool:
        return isinstance(self.record.oracle, str) and self.record.oracle.startswith("numpy.")

    def cast(self, dtype: str) -> Case:
        """The same case with its float64 operands in another dtype (unsigned ones without their sign)."""
        unsigned = np.dtype(dtype).kind in "ub"
        arrays = tuple(
            (np.abs(each) if unsigned else each).astype(dtype) if each.dtype == np.float64 else each
            for each in self.arrays
        )
        return Case(self.record, self.sample, arrays, self.walk, self.backends)

    def draw(self, types: Sequence[Type]) -> list[Array]:
        """Random cotangents or directions."""
        return [self.random.normal(size=each.shape).astype(each.dtype) for each in types]

    def changed(self, array: Array, element: tuple[int, ...]) -> Array:
        """`array` with one element exchanged; an integer by one that occurs, so that indices stay valid."""
        other = array.copy()
        if array.dtype.kind == "f":
            other[element] = array[element] * 1.5 + self.random.uniform(0.1, 0.2)
        elif array.dtype.kind == "b":
            other[element] = not array[element]
        else:
            occurring = np.setdiff1d(array, array[element])
            other[element] = self.random.choice(occurring) if occurring.size else array[element] ^ 1
        return other

    def eager(self) -> tuple[list[Node], list[Node]]:
        """Operands as active leaves with values, and the outputs computed from them."""
        leaves = [
            Node(None, (), {}, type_of(each), value=each, status=ACTIVE if each.dtype.kind == "f" else 0)
            for each in self.arrays
        ]
        return leaves, self.call(leaves)

    @property
    def smooth(self) -> bool:
        """True where there is a derivative, and a limit instead of a convention: differences can check it."""
        barrier = isinstance(self.record, Primitive) and self.record.barrier
        return (
            self.sample.convention is None
            and not barrier
            and bool(self.traced.floating and self.traced.active)
        )

    def exact(self, graph: Graph) -> bool:
        """True when `difference` of the graph has no truncation error."""
        return self.record.analytic and is_analytic(graph)


class Traced:
    """A call traced into graphs: its value, its pullback, and the derivatives of that pullback.

    The inputs of every graph begin with the call's operands; the names of the others say what follows.
    """

    def __init__(
        self, call: Callable[[Sequence[Node]], list[Node]], types: Sequence[Type], walk: ReverseWalk
    ) -> None:
        self._trace, self._call, self._walk = Trace(), call, walk
        self.inputs = self._new(types)
        self.outputs = call(self.inputs)
        self.value = Graph(self.inputs, tuple(self.outputs))
        self.active = [each for each in self.inputs if each.floating]
        self.floating = [each for each in self.outputs if each.floating]

    def _new(self, types: Sequence[Type]) -> tuple[Node, ...]:
        return tuple(self._trace.input(each) for each in types)

    @cached_property
    def cotangents(self) -> tuple[Node, ...]:
        return self._new([each.type for each in self.floating])

    @cached_property
    def found(self) -> list[Node | None]:
        """The cotangent of every floating operand, None where none came back."""
        return self._walk(self.floating, self.cotangents, self.active)

    @cached_property
    def pullback(self) -> Graph:
        """Operands, cotangents of floating outputs → cotangents of floating operands."""
        return Graph((*self.inputs, *self.cotangents), tuple(filled(self.found, self.active)))

    @cached_property
    def second(self) -> Graph:
        """Operands, cotangents, a direction u per floating operand → derivative of ⟨u, pullback⟩ by each."""
        directions = self._new([each.type for each in self.active])
        found = self._walk(*_reached(self.found, directions), self.active)
        return Graph((*self.inputs, *self.cotangents, *directions), tuple(filled(found, self.active)))

    @cached_property
    def tangent(self) -> Graph:
        """Operands, cotangents, one tangent per floating operand → tangents of the floating outputs.

        The pullback transposed; as that is linear, the value of the cotangents does not matter.
        """
        tangents = self._new([each.type for each in self.active])
        found = self._walk(*_reached(self.found, tangents), self.cotangents)
        return Graph((*self.inputs, *self.cotangents, *tangents), tuple(filled(found, self.floating)))

    @cached_property
    def twice(self) -> Graph:
        """Operands, cotangents of two calls on the same operands → cotangents of the floating operands."""
        again = [each for each in self._call(self.inputs) if each.floating]
        more = self._new([each.type for each in again])
        found = self._walk([*self.floating, *again], [*self.cotangents, *more], self.active)
        return Graph((*self.inputs, *self.cotangents, *more), tuple(filled(found, self.active)))


def filled(found: Sequence[Node | None], like: Sequence[Node]) -> list[Node]:
    """Cotangents, with zeros where none came back."""
    return [ops.zeros(node.type) if each is None else each for each, node in zip(found, like, strict=True)]


def _reached(found: Sequence[Node | None], seeds: Sequence[Node]) -> tuple[list[Node], list[Node]]:
    """The nodes that were found, and the seeds that belong to them."""
    pairs = [(each, seed) for each, seed in zip(found, seeds, strict=True) if each is not None]
    return [each for each, _ in pairs], [seed for _, seed in pairs]


def outputs_of(result: Any) -> list[Node]:
    """What a call returned, as a list of nodes."""
    if isinstance(result, list | tuple):
        return list(result)
    return [result] if isinstance(result.type, Type) else items(result)


# -- numbers -----------------------------------------------------------------------------------------------
def feeding(case: Case, place: tuple[int, ...]) -> set[tuple[int, tuple[int, ...]]] | None:
    """Every (operand, element) that may feed one element of the output; None where the record is silent."""
    record, attributes = case.record, case.sample.attributes
    assert isinstance(record, Primitive)
    nest = nest_of(record, *map(type_of, case.arrays), **attributes)
    if nest is not None:
        return nest.feeds(place)
    if record.feeds is None:
        return None
    told = record.feeds(place, *case.arrays, **attributes)
    return {(k, each) for k, elements in enumerate(told) for each in elements}


def run(graph: Graph, *values: Any) -> list[Array]:
    """The values of the graph's outputs, by the reference."""
    return [np.asarray(each) for each in graph.evaluate(np, *values)]


def difference(graph: Graph, values: Sequence[Array], along: Mapping[int, Array], exact: bool) -> list[Array]:
    """Derivative of the graph's outputs when input k moves along ``along[k]``.

    `exact`: by a complex step, which has no error but rounding (Squire and Trapp, SIAM Review 1998). Else by
    the central difference of 4th order, whose error is about 1e-11 for values and derivatives of order 1.
    """
    if exact:
        moved = [
            each + 1j * IMAGINARY_STEP * along[k] if k in along else each for k, each in enumerate(values)
        ]
        return [each.imag / IMAGINARY_STEP for each in run(graph, *moved)]

    def at(steps: float) -> list[Array]:
        return run(
            graph, *(v + steps * REAL_STEP * along[k] if k in along else v for k, v in enumerate(values))
        )

    return [
        (8 * (near - mirrored) - (far - opposite)) / (12 * REAL_STEP)
        for near, mirrored, far, opposite in zip(at(1), at(-1), at(2), at(-2), strict=True)
    ]


def is_analytic(graph: Graph) -> bool:
    """True when every floating node has a meaning that runs on complex numbers; sub-graphs included."""
    return all(
        (node.primitive is None or node.primitive.analytic or not node.floating)
        and all(is_analytic(each) for each in node.attributes.values() if isinstance(each, Graph))
        for node in graph.nodes
    )


def inner(left: Sequence[Array], right: Sequence[Array]) -> float:
    """⟨left, right⟩ over all arrays."""
    return float(sum(np.sum(a * b) for a, b in zip(left, right, strict=True)))


def rounding(graph: Graph) -> float:
    """A few hundred roundings, in the lowest precision that the graph computes in."""
    types = [each for node in graph.nodes for each in node.types]
    return SINGLE_ROUNDING if any(each.dtype == np.float32 for each in types) else ROUNDING


def size(arrays: Sequence[Any], least: float = 1.0) -> float:
    """The largest finite magnitude in `arrays`, at least `least`: the scale of errors."""
    finite = (np.abs(each[np.isfinite(each)]) for each in map(np.asarray, arrays) if each.dtype.kind == "f")
    return max([least, *(float(np.max(each)) for each in finite if each.size)])


def must_agree(what: str, got: Any, wanted: Any, bound: float) -> None:
    """Raise unless two arrays have one shape and differ by at most `bound`, integers by nothing."""
    left, right = np.asarray(got), np.asarray(wanted)
    if left.shape != right.shape:
        raise LawError(f"{what}: shape {left.shape} instead of {right.shape}")
    same = (left == right) | ((left != left) & (right != right))
    if "f" in (left.dtype.kind, right.dtype.kind):
        with np.errstate(invalid="ignore"):  # inf - inf, where both are infinite
            same |= np.abs(left - right) <= bound
    if not np.all(same):
        at = tuple(int(k) for k in np.argwhere(~same)[0])
        raise LawError(
            f"{what}: {left[at]!r} instead of {right[at]!r} at {at} ({np.sum(~same)} of {left.size} differ, "
            f"bound {bound:.1e})"
        )


def must_be_identical(what: str, got: Array, traced: Array) -> None:
    """Raise unless two arrays are the same bit for bit."""
    if got.dtype != traced.dtype or not np.array_equal(got, traced, equal_nan=got.dtype.kind == "f"):
        raise LawError(f"{what} {got!r}, traced {traced!r}")


def pairs_of_operands(traced: Traced) -> Iterator[tuple[int, int]]:
    """Pairs of floating operands that could be one and the same array."""
    for i, first in enumerate(traced.inputs):
        for j, second in enumerate(traced.inputs[:i]):
            if first.floating and first.type == second.type:
                yield j, i
