"""Breaks records on purpose, one small fault at a time: the mutants on which the laws are tested.

Nobody writes these faults by hand. A rule is run with an `ops` that counts operations, and every operation it
uses is spoilt in every way that fits its arguments; type rules, meanings and the walk are spoilt likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from chainrule.graph import Node
from chainrule.laws.case import Case, Record
from chainrule.nest import Nest, nest_of
from chainrule.ops import ops
from chainrule.origin import Origin
from chainrule.primitive import Composite, Primitive, Rule
from chainrule.reverse import ReverseWalk, walk
from chainrule.types import Type, type_of

Spoilt = dict[str, Callable[[], Any]]
Log = Callable[[int, str, Spoilt], None]

PLUMBING = frozenset({"node", "constant", "promote", "zeros", "full"})  # makes operands, computes nothing
COMMUTATIVE = frozenset(
    {
        "add", "multiply", "equal", "not_equal", "maximum", "minimum", "logaddexp", "hypot", "logical_and",
        "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor",
    }
)  # fmt: skip
MIXED_UP = {
    "add": "subtract", "subtract": "add", "multiply": "add", "divide": "multiply", "negative": "abs",
    "exp": "expm1", "log": "log1p", "square": "abs", "sqrt": "square", "rsqrt": "sqrt", "sigmoid": "tanh",
    "sin": "cos", "cos": "sin", "sinh": "cosh", "cosh": "sinh", "tanh": "sin", "arctan": "arctanh",
    "sign": "abs", "floor_divide": "divide", "floor": "ceil", "ceil": "floor", "trunc": "floor",
    "round": "trunc", "equal": "greater", "greater": "greater_equal", "greater_equal": "greater",
    "less": "less_equal", "less_equal": "less", "logical_and": "logical_or", "logical_or": "logical_and",
    "any": "all", "all": "any", "isnan": "isinf", "isinf": "isnan", "isfinite": "isnan",
    "maximum": "minimum", "minimum": "maximum", "max": "min", "min": "max", "sum": "max",
    "argmax": "argmin", "argmin": "argmax", "cumsum": "cumprod", "triu": "tril", "tril": "triu",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Mutant:
    """A record with one fault, or the walk with one."""

    name: str
    record: Record
    walk: ReverseWalk = walk


def mutants_of(record: Record) -> list[Mutant]:
    """Every fault that fits the record."""
    found = [*_rewritten(record)]
    if isinstance(record, Primitive):
        found += [*_types(record), *_meanings(record), *_whole_rules(record), *_elements(record)]
    return found


# -- operations inside of a rule ----------------------------------------------------------------------------
class Tampered:
    """A vocabulary, `ops` or an array namespace, in which each operation is counted and perhaps spoilt."""

    def __init__(
        self, honest: Any, names: Mapping[str, Any], log: Log | None, at: tuple[int, str] | None
    ) -> None:
        self._honest, self._names, self._log, self._at = honest, names, log, at
        self._count = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._honest, name)
        if name in PLUMBING or not callable(found) or isinstance(found, type) or name.startswith("__"):
            return found
        if name == "apply":
            return self._apply
        return lambda *arguments, **keywords: self._operation(name, found, arguments, keywords)

    def _apply(self, primitive: Primitive, operands: Sequence[Node], **attributes: Any) -> Any:
        def found(*nodes: Any, **keywords: Any) -> Any:
            return ops.apply(primitive, [ops.node(each) for each in nodes], **keywords)

        return self._operation(primitive.name, found, tuple(operands), attributes)

    def _operation(self, name: str, found: Rule, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        index, self._count = self._count, self._count + 1
        if self._at is not None and self._at[0] != index:
            return found(*arguments, **keywords)
        spoilt = spoil(self._honest, name, found, arguments, keywords, self._names)
        if self._at is not None:
            faulty = spoilt.get(f"{name}: {self._at[1]}")
            return faulty() if faulty is not None else found(*arguments, **keywords)
        result = found(*arguments, **keywords)
        if self._log is not None:
            idle = {f"{name}: operand {k} alone" for k, each in enumerate(arguments) if each is result}
            self._log(index, name, {way: faulty for way, faulty in spoilt.items() if way not in idle})
        return result


def spoil(
    honest: Any,
    name: str,
    found: Rule,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    names: Mapping[str, Any],
) -> Spoilt:
    """Every way to get one operation wrong, by what it does."""
    ways: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        **dict(_other_order(name, arguments, keywords)),
        **dict(_other_arguments(arguments, keywords, names)),
        **dict(_other_keywords(arguments, keywords)),
    }
    spoilt: Spoilt = {f"{name}: {way}": partial(found, *a, **k) for way, (a, k) in ways.items()}
    spoilt[f"{name}: sign flipped"] = lambda: _negated(honest, found(*arguments, **keywords))
    if name in MIXED_UP and hasattr(honest, MIXED_UP[name]):
        other = getattr(honest, MIXED_UP[name])
        spoilt[f"{name}: {MIXED_UP[name]} instead"] = partial(other, *arguments, **keywords)
    for k, each in enumerate(arguments):
        if len(arguments) > 1 and _is_array(each):
            spoilt[f"{name}: operand {k} alone"] = partial(_itself, each)
    return spoilt


Call = tuple[str, tuple[tuple[Any, ...], dict[str, Any]]]


def _other_order(name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Iterator[Call]:
    if len(arguments) == 2 and any(map(_is_array, arguments)) and name not in COMMUTATIVE:
        yield "operands swapped", (arguments[::-1], keywords)
    if len(arguments) == 3:
        yield "last two operands swapped", ((arguments[0], arguments[2], arguments[1]), keywords)


def _other_arguments(
    arguments: tuple[Any, ...], keywords: dict[str, Any], names: Mapping[str, Any]
) -> Iterator[Call]:
    for k, each in enumerate(arguments):
        for way, changed in _other_values(each):
            yield f"argument {k} {way}", ((*arguments[:k], changed, *arguments[k + 1 :]), keywords)
        for said, other in names.items():
            if other is not each and _exchangeable(other, each):
                yield f"{said} as operand {k}", ((*arguments[:k], other, *arguments[k + 1 :]), keywords)


def _other_keywords(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Iterator[Call]:
    for key, value in keywords.items():
        for way, changed in _other_values(value):
            if (key, way) != ("axis", "reversed"):  # a set of axes has no order
                yield f"{key} {way}", (arguments, {**keywords, key: changed})


def _is_array(value: Any) -> bool:
    return isinstance(value, Node | np.ndarray)


def _itself(value: Any) -> Any:
    return value


def _negated(honest: Any, result: Any) -> Any:
    if isinstance(result, Node):
        return ops.logical_not(result) if result.dtype.kind == "b" else ops.multiply(result, -1)
    return ~result if np.asarray(result).dtype.kind == "b" else -result


def _other_values(value: Any) -> Iterator[tuple[str, Any]]:
    """Values that an attribute or a constant could have been by mistake."""
    if type(value) is bool:
        yield "negated", not value
    elif type(value) is int:
        yield "one too large", value + 1
    elif type(value) is float:
        yield "one per cent too large", value * 1.01
    elif isinstance(value, str) and "->" in value:
        left, _, right = value.partition("->")
        if len(right) > 1:
            yield "with its output reversed", f"{left}->{right[::-1]}"
        yield "with its output summed", f"{left}->"
    elif isinstance(value, tuple) and value and all(isinstance(each, int) for each in value):
        yield "with its first one larger", (value[0] + 1, *value[1:])
        if value != value[::-1]:
            yield "reversed", value[::-1]


def _exchangeable(one: Any, other: Any) -> bool:
    return isinstance(one, Node) and isinstance(other, Node) and one.type == other.type


def _rewritten(record: Record) -> Iterator[Mutant]:
    """Mutants of what is written with operations: pullback rules, and the whole of a composite."""
    for place, function, put in _written(record):
        names: dict[tuple[int, str], None] = {}

        def log(index: int, name: str, spoilt: Spoilt, names: dict[tuple[int, str], None] = names) -> None:
            for way in spoilt:
                names[index, way] = None

        _exercise(put(_tampered(function, place, log, None)))
        for index, way in names:
            name, _, fault = way.partition(": ")
            yield Mutant(
                f"{record.name} {place}, operation {index} {name}: {fault}",
                put(_tampered(function, place, None, (index, fault))),
            )


def _written(record: Record) -> Iterator[tuple[str, Rule, Callable[[Rule], Record]]]:
    """(place, function, how to put another there) for all that is written with ops in a record."""
    if isinstance(record, Composite):
        yield "surface", record.surface, lambda other: replace(record, surface=other)
    elif callable(record.pullback):
        yield "pullback", record.pullback, lambda other: replace(record, pullback=other)
    else:
        for k, rule in enumerate(record.pullback or ()):
            if rule is not None:
                yield f"pullback {k}", rule, partial(_with_rule, record, k)


def _with_rule(record: Primitive, k: int, rule: Rule | None) -> Primitive:
    assert isinstance(record.pullback, tuple)
    return replace(record, pullback=(*record.pullback[:k], rule, *record.pullback[k + 1 :]))


def _tampered(function: Rule, place: str, log: Log | None, at: tuple[int, str] | None) -> Rule:
    def tampered(honest: Any, *arguments: Any, **keywords: Any) -> Any:
        roles = ["g", "y"] if place.startswith("pullback") else []
        labels = roles + [f"operand {k} of the record" for k in range(len(arguments) - len(roles))]
        return function(
            Tampered(honest, dict(zip(labels, arguments, strict=True)), log, at), *arguments, **keywords
        )

    return tampered


def _exercise(record: Record) -> None:
    """Run everything a record says once on each sample."""
    for case in _cases(record):
        case.traced.pullback  # noqa: B018 - traced for what it logs


def _cases(record: Record) -> list[Case]:
    return [
        Case(record, sample, tuple(np.asarray(each) for each in sample.arrays(seed=index)))
        for index, sample in enumerate(record.samples)
    ]


# -- what a record says as a whole --------------------------------------------------------------------------
def _whole_rules(record: Primitive) -> Iterator[Mutant]:
    """A rule is missing, doubled, or stands for another operand."""
    rules = record.pullback
    if rules is None and any(each.traced.floating and each.traced.active for each in _cases(record)):
        yield Mutant(
            f"{record.name} pullback: a rule where there is none", replace(record, pullback=_through)
        )
    elif isinstance(rules, tuple):
        for k, rule in enumerate(rules):
            if rule is not None:
                yield Mutant(f"{record.name} pullback {k}: missing", _with_rule(record, k, None))
                yield Mutant(f"{record.name} pullback {k}: doubled", _with_rule(record, k, _doubled(rule)))
        if len(rules) > 1:
            turned = replace(record, pullback=rules[1:] + rules[:1])
            yield Mutant(f"{record.name} pullback: rules of other operands", turned)
    elif rules is not None:
        joint = rules
        for way, change in {
            "in another order": lambda found: [*found[1:], *found[:1]],
            "all but the first": lambda found: [None, *found[1:]],
        }.items():
            changed = lambda *a, change=change, **k: change(list(joint(*a, **k)))  # noqa: E731
            yield Mutant(f"{record.name} pullback: {way}", replace(record, pullback=changed))


def _doubled(rule: Rule) -> Rule:
    return lambda ops, *arguments, **keywords: ops.multiply(rule(ops, *arguments, **keywords), 2)


def _through(ops: Any, g: Node, y: Node, *operands: Node, **_: Any) -> list[Node | None]:
    """The cotangent itself for every operand like the output."""
    return [g if each.type == y.type else None for each in operands]


def _types(record: Primitive) -> Iterator[Mutant]:
    """The type rule is wrong about dtype or shape."""
    faults: dict[str, Callable[[Type], Type]] = {
        "another dtype": lambda t: Type(
            t.shape, np.dtype(np.float32 if t.dtype == np.float64 else np.float64)
        ),
        "one element more": lambda t: Type((*t.shape[:-1], t.shape[-1] + 1) if t.shape else (1,), t.dtype),
        "a lost axis": lambda t: Type(t.shape[1:], t.dtype),
        "reversed shape": lambda t: Type(t.shape[::-1], t.dtype),
    }
    said = [each for types in map(_said, _cases(record)) for each in types]
    for way, fault in faults.items():
        if any(fault(each) != each for each in said):
            yield Mutant(f"{record.name} type: {way}", replace(record, infer=_after(record.infer, fault)))


def _said(case: Case) -> tuple[Type, ...]:
    return tuple(each.type for each in case.traced.outputs)


def _after(infer: Rule, fault: Callable[[Type], Type]) -> Rule:
    def wrong(*types: Type, **attributes: Any) -> Any:
        said = infer(*types, **attributes)
        return fault(said) if isinstance(said, Type) else tuple(map(fault, said))

    return wrong


def _meanings(record: Primitive) -> Iterator[Mutant]:
    """The meaning computes something else."""
    whole: dict[str, Callable[..., Any]] = {
        "sign flipped": lambda value, arrays: ~value if value.dtype.kind == "b" else -value,
        "one per mille too large": lambda value, arrays: value * 1.001,
        "off by one element": lambda value, arrays: np.roll(value, 1),
        "first operand": lambda value, arrays: arrays[0] if arrays else value + 1,
    }
    for way, fault in whole.items():
        yield Mutant(
            f"{record.name} meaning: {way}", replace(record, meaning=_misread(record.meaning, fault))
        )
    names: dict[tuple[int, str], None] = {}

    def log(index: int, name: str, spoilt: Spoilt) -> None:
        for way in spoilt:
            names[index, way] = None

    _exercise_meaning(replace(record, meaning=_in_namespace(record.meaning, log, None)))
    for index, way in names:
        name, _, fault_ = way.partition(": ")
        changed = _in_namespace(record.meaning, None, (index, fault_))
        yield Mutant(
            f"{record.name} meaning, call {index} {name}: {fault_}", replace(record, meaning=changed)
        )


def _misread(meaning: Rule, fault: Callable[..., Any]) -> Rule:
    def wrong(xp: Any, *arrays: Any, **attributes: Any) -> Any:
        value = meaning(xp, *arrays, **attributes)
        return (
            tuple(fault(np.asarray(v), arrays) for v in value)
            if isinstance(value, tuple)
            else fault(np.asarray(value), arrays)
        )

    return wrong


def _in_namespace(meaning: Rule, log: Log | None, at: tuple[int, str] | None) -> Rule:
    def wrong(xp: ModuleType, *arrays: Any, **attributes: Any) -> Any:
        return meaning(Tampered(xp, {}, log, at), *arrays, **attributes)

    return wrong


def _exercise_meaning(record: Primitive) -> None:
    with np.errstate(all="ignore"):
        for index, sample in enumerate(record.samples):
            record.meaning(np, *(np.asarray(each) for each in sample.arrays(seed=index)), **sample.attributes)


# -- which elements make an element -------------------------------------------------------------------------
def _elements(record: Primitive) -> Iterator[Mutant]:
    """The nest reads or combines other elements, or `feeds` forgets an operand."""
    if record.feeds is not None:
        told = record.feeds
        forgetful = replace(record, feeds=lambda *a, **k: [[], *told(*a, **k)[1:]])
        if any(case.arrays for case in _cases(record)):
            yield Mutant(f"{record.name} feeds: the first operand forgotten", forgetful)
    nests = [nest_of(record, *map(type_of, case.arrays), **case.sample.attributes) for case in _cases(record)]
    for way, fault in _NEST_FAULTS.items():
        if any(nest is not None and fault(nest) is not nest for nest in nests):
            yield Mutant(f"{record.name} nest: {way}", replace(record, nest=partial(_misled, record, fault)))


def _misled(record: Primitive, fault: Callable[[Nest], Nest], *types: Type, **attributes: Any) -> Nest:
    nest = nest_of(record, *types, **attributes)
    assert nest is not None
    return fault(nest)


def _shifted(nest: Nest) -> Nest:
    """The first operand is read one element further on its last axis."""
    if not nest.reads or not nest.reads[0].index:
        return nest
    first = nest.reads[0]
    last = replace(first.index[-1], offset=first.index[-1].offset + 1)
    return replace(nest, reads=(replace(first, index=(*first.index[:-1], last)), *nest.reads[1:]))


def _stopping_early(nest: Nest) -> Nest:
    """The last point of the last combined axis is left out."""
    if not nest.combined or not nest.extents[nest.combined[-1]]:
        return nest
    last = nest.combined[-1]
    return replace(nest, extents=tuple(n - (k == last) for k, n in enumerate(nest.extents)))


def _combined_otherwise(nest: Nest) -> Nest:
    others = {"sum": "max", "max": "min", "min": "max", "any": "all", "all": "any", "logsumexp": "sum"}
    return nest if nest.combiner is None else replace(nest, combiner=others[nest.combiner])


def _turned(nest: Nest) -> Nest:
    """The axes of the output in another order."""
    return nest if nest.output == nest.output[::-1] else replace(nest, output=nest.output[::-1])


def _all_from_the_first(nest: Nest) -> Nest:
    """Every operand is taken for the first."""
    if len({read.shape for read in nest.reads}) != 1 or len(nest.reads) < 2:
        return nest
    return replace(nest, reads=tuple(replace(read, operand=nest.reads[0].operand) for read in nest.reads))


_NEST_FAULTS: dict[str, Callable[[Nest], Nest]] = {
    "one element further": _shifted,
    "one point short": _stopping_early,
    "another combiner": _combined_otherwise,
    "axes in another order": _turned,
    "one operand for all": _all_from_the_first,
}


# -- the walk -----------------------------------------------------------------------------------------------
class _LastUseOnly(ReverseWalk):
    """Loses the fan-out: keeps the last contribution."""

    def fan_out(self, node: Node, came_back: Sequence[Node]) -> Node:
        return came_back[-1]


class _FirstUseOnly(ReverseWalk):
    """Loses the fan-out: keeps the first contribution."""

    def fan_out(self, node: Node, came_back: Sequence[Node]) -> Node:
        return came_back[0]


class _FanOutTwice(ReverseWalk):
    """Adds the last contribution of a fan-out twice."""

    def fan_out(self, node: Node, came_back: Sequence[Node]) -> Node:
        total = super().fan_out(node, came_back)
        return self.ops.add(total, came_back[-1]) if len(came_back) > 1 else total


class _NeverSumsBroadcasts(ReverseWalk):
    """Skips the un-broadcast: takes the first of the repeated elements."""

    def fit(self, node: Node, index: int, cotangent: Node, wanted: Type) -> Node:
        while cotangent.ndim > wanted.ndim:
            cotangent = self.ops.getitem(cotangent, 0)
        cut = tuple(slice(0, extent) for extent in wanted.shape)
        return super().fit(node, index, self.ops.getitem(cotangent, cut), wanted)


class _AveragesBroadcasts(ReverseWalk):
    """Takes the mean over broadcast axes where the sum belongs."""

    def fit(self, node: Node, index: int, cotangent: Node, wanted: Type) -> Node:
        fitted = super().fit(node, index, cotangent, wanted)
        return self.ops.multiply(fitted, wanted.size / cotangent.size) if cotangent.size else fitted


class _SumsOtherAxes(ReverseWalk):
    """Sums over the last axes where the first were added."""

    def fit(self, node: Node, index: int, cotangent: Node, wanted: Type) -> Node:
        extra = cotangent.ndim - wanted.ndim
        if extra and cotangent.shape[: wanted.ndim] == wanted.shape:
            return self.ops.sum(cotangent, axis=tuple(range(wanted.ndim, cotangent.ndim)))
        return super().fit(node, index, cotangent, wanted)


class _LosesFirstOperand(ReverseWalk):
    """Carries no cotangent to the first of several operands."""

    def contributions(self, node: Node, total: Any, needed: set[Node]) -> Iterator[tuple[int, Node]]:
        for index, cotangent in super().contributions(node, total, needed):
            if index or len(node.operands) == 1:
                yield index, cotangent


class _ForgetsReasons(ReverseWalk):
    """Makes nodes that do not say which operand they are the derivative of."""

    def contributions(self, node: Node, total: Any, needed: set[Node]) -> Iterator[tuple[int, Node]]:
        for index, cotangent in list(super().contributions(node, total, needed)):
            yield index, self.ops.add(cotangent, 0)


class _BlamesTheWrongNode(ReverseWalk):
    """Gives fan-out sums a reason that names no node."""

    def fan_out(self, node: Node, came_back: Sequence[Node]) -> Node:
        total = super().fan_out(node, came_back)
        if len(came_back) > 1:
            total.origins = (Origin("fan-out"),)
        return total


WALKS: dict[str, type[ReverseWalk]] = {
    str(each.__doc__).rstrip("."): each
    for each in (
        _LastUseOnly, _FirstUseOnly, _FanOutTwice, _NeverSumsBroadcasts, _AveragesBroadcasts, _SumsOtherAxes,
        _LosesFirstOperand, _ForgetsReasons, _BlamesTheWrongNode,
    )
}  # fmt: skip
