"""The space of a `Loops` kernel, made as simple as it can be before code is written for it.

Axes of length 1 go; neighbours that every access walks through as if they were one axis become one, so that
dense elementwise work is a single flat loop; the border between rows and inner axes moves to where the
reductions are cheapest, if no statement depends on it; and the order of loops is the order in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule.backends.native.target import Target
from chainrule.schedule.kernels import Access, Expression, Loops, Statement, expressions, loads, targets

_CHEAP = frozenset((
    "add", "subtract", "multiply", "negative", "positive", "square", "abs", "sign", "relu", "maximum",
    "minimum", "where", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "isnan",
    "isfinite", "isinf", "logical_and", "logical_or", "logical_not", "logical_xor", "astype", "floor", "load",
    "position",
))  # fmt: skip
_SLOW = frozenset(("divide", "sqrt", "reciprocal", "rsqrt", "ceil", "round", "trunc"))
SLACK = 64
"""Bytes that may be read, or overrun, beyond the end of a row or an array."""
_OF_BOOLS = {"max": "any", "min": "all", "sum": "any"}


@dataclass(eq=False)
class Form:
    """A statement in the simplified space.

    combiner, over  as in `Statement`; no combiner where nothing is left to combine
    per_row         its value belongs to the row: it does not move along inner axes
    """

    statement: Statement
    combiner: str | None
    over: frozenset[int]
    per_row: bool

    @property
    def value(self) -> Expression:
        return self.statement.value

    @property
    def target(self) -> Access | None:
        return self.statement.target

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.statement.value.dtype

    @property
    def identity(self) -> Any:
        """What changes nothing when it is combined."""
        if self.combiner in ("sum", "any", "all"):
            return int(self.combiner == "all")
        lowest = self.combiner == "max"
        if self.dtype.kind == "f":
            return -np.inf if lowest else np.inf
        limits = np.iinfo(self.dtype)
        return limits.min if lowest else limits.max


@dataclass
class _Axis:
    """One axis while the space is being simplified; `fastest` is the member that moves by its own stride."""

    extent: int
    strides: dict[Access, int]
    members: frozenset[int]
    fastest: int


@dataclass(eq=False)
class Space:
    """What a kernel is after simplification. Axes are numbered anew, rows first, outermost first.

    extents   the length of every axis; that of the lane axis is rounded up to whole vectors where every
              access allows that (`whole`)
    lane      the axis to vectorise, None if there is no axis; lanes: elements in a vector
    spare     accesses whose whole vectors fit in the slack behind an array, where it has any
    overrun   whether `Access.overrun` holds for the lane axis as it is now
    """

    extents: tuple[int, ...]
    rows: int
    lane: int | None
    lanes: int
    whole: bool
    spare: frozenset[Access]
    overrun: bool
    forms: tuple[Form, ...]
    strides: dict[Access, tuple[int, ...]]
    places: dict[int, int]

    def __post_init__(self) -> None:
        self.form_of = {form.statement: form for form in self.forms}
        self._axes: dict[Expression, tuple[int, ...]] = {}
        self._levels: dict[Expression, int] = {}
        self.every = tuple(range(len(self.extents)))
        self.inner = self.every[self.rows :]

    def stride(self, access: Access, axis: int | None) -> int:
        """How far apart in memory neighbours along an axis are."""
        return 0 if axis is None else self.strides[access][axis]

    def readable(self, access: Access) -> bool:
        """Whether a whole vector may be read where only its first lanes are in the array."""
        return access.buffer.slack and access in self.spare and self.stride(access, self.lane) == 1

    def writable(self, access: Access) -> bool:
        """Whether a whole vector may be stored where only its first lanes are in the array."""
        return (
            self.overrun and access.overrun and access in self.spare and self.stride(access, self.lane) == 1
        )

    def totals(self) -> list[Form]:
        """Statements that are complete only when the kernel ends."""
        return [form for form in self.forms if form.combiner and not self.of_row(form)]

    def of_row(self, form: Form) -> bool:
        """Whether what a statement combines belongs to a row."""
        return not form.per_row and form.over == frozenset(self.inner)

    # -- expressions -----------------------------------------------------------------------------------------
    def arguments(self, expression: Expression) -> tuple[Expression, ...]:
        """What an expression is computed from at the same point; elementwise results are entered."""
        if expression.op == "result":
            form = self.form_of[expression.attributes["statement"]]
            return () if form.combiner else (form.value,)
        return expression.arguments

    def axes(self, expression: Expression) -> tuple[int, ...]:
        """The axes along which the value of an expression changes, ascending."""
        if expression not in self._axes:
            found: set[int] = set()
            if expression.op == "load":
                strides = self.strides[expression.attributes["access"]]
                found = {axis for axis, stride in enumerate(strides) if stride}
            elif expression.op == "position":
                found = {self.places[axis] for axis in [expression.attributes["axis"]] if axis in self.places}
            elif expression.op == "result" and not self.arguments(expression):
                found = set(range(self.rows))
            for each in self.arguments(expression):
                found.update(self.axes(each))
            self._axes[expression] = tuple(sorted(found))
        return self._axes[expression]

    def level(self, expression: Expression) -> int:
        """How many walks over the inner axes have to be finished before the expression can be computed."""
        if expression not in self._levels:
            level = 0
            if expression.op == "result" and not self.arguments(expression):
                level = self.level(self.form_of[expression.attributes["statement"]].value) + 1
            for each in self.arguments(expression):
                level = max(level, self.level(each))
            self._levels[expression] = level
        return self._levels[expression]

    def walk(self, roots: Iterable[Expression]) -> Iterator[Expression]:
        """Every expression needed at the same point, once, arguments first."""
        seen: set[Expression] = set()

        def enter(each: Expression) -> Iterator[Expression]:
            if each not in seen:
                seen.add(each)
                for argument in self.arguments(each):
                    yield from enter(argument)
                yield each

        for root in roots:
            yield from enter(root)


def cost(expression: Expression) -> int:
    """About how many instructions an operation takes."""
    if expression.op in ("constant", "result"):
        return 0
    if expression.op in _CHEAP:
        return 1
    return 4 if expression.op in _SLOW else 20


# -- simplification ------------------------------------------------------------------------------------------
def simplified(kernel: Loops, target: Target) -> Space:
    """The same work in a simpler space."""
    accesses = list(dict.fromkeys((*loads(kernel), *targets(kernel))))
    axes = {
        axis: _Axis(extent, {each: each.strides[axis] for each in accesses}, frozenset((axis,)), axis)
        for axis, extent in enumerate(kernel.extents)
        if extent != 1
    }
    forms = [_form(statement, frozenset(axes)) for statement in kernel.statements]
    inner = _inner(kernel, forms, frozenset(axes))
    if any(axis < kernel.rows for axis in inner) or not inner:
        for form in forms:
            form.per_row = False
    lane = kernel.lane if kernel.lane in axes else _best_lane(axes, accesses)
    stored = [*targets(kernel)]
    if lane is not None and not inner and any(axes[lane].strides[each] not in (0, 1) for each in stored):
        lane = _best_lane(axes, stored)
    lanes = 1 if lane is None else _lanes(forms, axes[lane], lane, target)
    spare = {each for each in accesses if lanes * each.buffer.dtype.itemsize <= SLACK}
    whole = lane is not None and _whole(kernel, forms, axes[lane], lane, spare)
    if lane is not None and whole:
        axes[lane].extent = -(-axes[lane].extent // lanes) * lanes
    fixed = {each.attributes["axis"] for each in _every(forms) if each.op == "position"}
    ordered = []
    for side in (frozenset(axes) - inner, inner):
        merged = _merged([axes[axis] for axis in side], accesses, forms, fixed)
        ordered.append(sorted(merged, key=lambda axis: lane in axis.members))
    final = [*ordered[0], *ordered[1]]
    number = {member: k for k, axis in enumerate(final) for member in axis.members}
    for form in forms:
        form.over = frozenset(number[axis] for axis in form.over)
    return Space(
        extents=tuple(axis.extent for axis in final),
        rows=len(ordered[0]),
        lane=None if lane is None else number[lane],
        lanes=lanes,
        whole=whole,
        spare=frozenset(spare),
        overrun=lane == kernel.lane and any(axis.fastest == lane for axis in final),
        forms=tuple(forms),
        strides={each: tuple(axis.strides[each] for axis in final) for each in accesses},
        places={axis: number[axis] for axis in fixed if axis in number},
    )


def _form(statement: Statement, axes: frozenset[int]) -> Form:
    over = frozenset(statement.over) & axes
    combiner = statement.combiner if over else None
    if combiner and statement.value.dtype.kind == "b":
        combiner = _OF_BOOLS.get(combiner, combiner)
    return Form(statement, combiner, over, statement.per_row)


def _every(forms: Iterable[Form]) -> Iterator[Expression]:
    return expressions(form.value for form in forms)


def _inner(kernel: Loops, forms: Sequence[Form], axes: frozenset[int]) -> frozenset[int]:
    """The axes that become inner ones: as given, if a statement knows about rows; else the combined ones."""
    given = frozenset(axis for axis in axes if axis >= kernel.rows)
    combined = {form.statement for form in forms if form.combiner}
    known = {each.attributes["statement"] for each in _every(forms) if each.op == "result"}
    if given and (any(form.per_row for form in forms) or combined & known):
        return given
    over = {form.over for form in forms if form.combiner}
    return frozenset.intersection(*over) if over else frozenset()


def _best_lane(axes: dict[int, _Axis], accesses: Sequence[Access]) -> int | None:
    """The axis along which most accesses are neighbours in memory."""

    def merit(axis: int) -> tuple[int, int]:
        strides = [axes[axis].strides[each] for each in accesses]
        return sum(stride == 1 for stride in strides) - sum(stride > 1 for stride in strides), axis

    return max(axes, key=merit, default=None)


def _lanes(forms: Sequence[Form], lane: _Axis, number: int, target: Target) -> int:
    """Elements in a vector: what a register holds of the widest floating dtype that moves along the lane."""
    moving: set[Expression] = set()
    dtypes = set()
    for each in _every(forms):
        if (
            (each.op == "load" and lane.strides[each.attributes["access"]])
            or (each.op == "position" and each.attributes["axis"] == number)
            or each.op == "result"
            or any(argument in moving for argument in each.arguments)
        ):
            moving.add(each)
            dtypes.add(each.dtype)
    dtypes |= {form.dtype for form in forms if not dtypes}
    floating = {dtype for dtype in dtypes if dtype.kind == "f"}
    return target.lanes(max(floating or dtypes, key=lambda dtype: dtype.itemsize))


def _whole(kernel: Loops, forms: Sequence[Form], lane: _Axis, number: int, spare: set[Access]) -> bool:
    """Whether the lane axis may be walked in whole vectors: nothing is harmed beyond its end."""
    moving = {access for access, stride in lane.strides.items() if stride}
    if number != kernel.lane or any(number in form.over for form in forms) or not moving <= spare:
        return False
    return all(access.buffer.slack and lane.strides[access] in (0, 1) for access in loads(kernel)) and all(
        access.overrun and lane.strides[access] == 1 for access in targets(kernel) if lane.strides[access]
    )


def _merged(
    axes: Sequence[_Axis], accesses: Sequence[Access], forms: Sequence[Form], fixed: set[int]
) -> list[_Axis]:
    """Axes in the order of memory, smallest strides last, neighbours made one where that changes nothing."""

    def weight(axis: _Axis) -> int:
        return sum(abs(axis.strides[each]) * each.buffer.dtype.itemsize for each in accesses)

    def alike(outer: _Axis, inner: _Axis) -> bool:
        if fixed & (outer.members | inner.members) or 0 in (outer.extent, inner.extent):
            return False
        if any(bool(form.over & outer.members) != bool(form.over & inner.members) for form in forms):
            return False
        return all(outer.strides[each] == inner.strides[each] * inner.extent for each in accesses)

    result: list[_Axis] = []
    for axis in sorted(axes, key=weight, reverse=True):
        if result and alike(result[-1], axis):
            outer = result.pop()
            members = outer.members | axis.members
            axis = _Axis(outer.extent * axis.extent, axis.strides, members, axis.fastest)
        result.append(axis)
    return result
