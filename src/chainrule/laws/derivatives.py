"""Laws about pullbacks: they are the derivative, linear, summed over uses, and say what they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.errors import LawError
from chainrule.graph import Graph, Node
from chainrule.laws.case import (
    ROUNDING,
    Case,
    Traced,
    difference,
    filled,
    inner,
    must_agree,
    must_be_identical,
    pairs_of_operands,
    rounding,
    run,
    size,
)
from chainrule.primitive import Primitive
from chainrule.types import type_of

DIFFERENCE = 1e-9  # of a 4th-order central difference; its error is about 1e-11, third derivatives up to 100


def pullback(case: Case) -> None:
    """⟨g, Df·v⟩ by a difference is ⟨pullback(g), v⟩, for random g and v, one operand at a time."""
    traced = case.traced
    if not case.smooth:
        return
    g = case.draw([each.type for each in traced.floating])
    cotangents = run(traced.pullback, *case.arrays, *g)
    value = Graph(traced.inputs, tuple(traced.floating))
    for operand, cotangent in zip(traced.active, cotangents, strict=True):
        k = traced.inputs.index(operand)
        (v,) = case.draw([operand.type])
        moved = difference(value, case.arrays, {k: v}, case.exact(value))
        _must_match(case, value, f"pullback through operand {k}", inner([cotangent], [v]), g, moved)


def _must_match(
    case: Case, graph: Graph, what: str, got: float, g: Sequence[Any], moved: Sequence[Any]
) -> None:
    """Compare a vector-Jacobian product in one direction with the difference `moved` in that direction."""
    count = sum(each.size for each in moved)
    relative = ROUNDING if case.exact(graph) else DIFFERENCE
    bound = relative * max(1, count) * size(g) * size(moved)
    wanted = inner(g, moved)
    if not abs(got - wanted) <= bound:
        raise LawError(f"{what} gives {got!r}, the difference {wanted!r} (bound {bound:.1e})")


def convention(case: Case) -> None:
    """At a tie or a kink, a cotangent of ones gives what the sample says."""
    if case.sample.convention is None:
        return
    ones = [np.ones(each.shape, each.dtype) for each in case.traced.floating]
    cotangents = run(case.traced.pullback, *case.arrays, *ones)
    for k, (got, wanted) in enumerate(zip(cotangents, case.sample.convention, strict=True)):
        must_agree(f"derivative through operand {k}", got, wanted, ROUNDING * size([wanted]))


def barrier(case: Case) -> None:
    """No cotangent passes where the record has no rule, or says that it is a barrier."""
    if not isinstance(case.record, Primitive) or not case.traced.floating:
        return
    for node, found in zip(case.traced.active, case.traced.found, strict=True):
        k = case.traced.inputs.index(node)
        ruled = callable(case.record.pullback) or case.record.rule(k) is not None
        if found is not None and (case.record.barrier or not ruled):
            raise LawError(f"a cotangent reached operand {k}, through which none may flow")


def linear(case: Case) -> None:
    """The pullback is linear in the cotangent: forward mode rests on it."""
    graph, types_ = case.traced.pullback, [each.type for each in case.traced.cotangents]
    first, second = case.draw(types_), case.draw(types_)
    mixed = [2 * a - 3 * b for a, b in zip(first, second, strict=True)]
    of_first, of_second = run(graph, *case.arrays, *first), run(graph, *case.arrays, *second)
    for k, (got, a, b) in enumerate(zip(run(graph, *case.arrays, *mixed), of_first, of_second, strict=True)):
        must_agree(f"pullback {k} of 2a - 3b", got, 2 * a - 3 * b, 10 * rounding(graph) * size([a, b]))


def eager_pullback(case: Case) -> None:
    """Walking over values gives bit for bit what the traced pullback gives."""
    leaves, outputs = case.eager()
    floating = [each for each in outputs if each.floating]
    g = case.draw([each.type for each in case.traced.cotangents])
    seeds = [
        Node(None, (), {}, type_of(each), value=each, status=node.status)
        for each, node in zip(g, floating, strict=True)
    ]
    found = case.walk(floating, seeds, [each for each in leaves if each.floating])
    for eager, traced in zip(found, run(case.traced.pullback, *case.arrays, *g), strict=True):
        if eager is not None:
            must_be_identical("eager pullback", eager.value, traced)


def fan_out(case: Case) -> None:
    """An operand that is used twice receives the sum of both cotangents."""
    traced = case.traced
    types_ = [each.type for each in traced.cotangents]
    first, second = case.draw(types_), case.draw(types_)
    sums = [a + b for a, b in zip(first, second, strict=True)]
    wanted = run(traced.pullback, *case.arrays, *sums)
    for k, (got, want) in enumerate(
        zip(run(traced.twice, *case.arrays, *first, *second), wanted, strict=True)
    ):
        must_agree(f"operand {k}, used twice", got, want, 10 * rounding(traced.twice) * size([want]))


def unused_outputs(case: Case) -> None:
    """Of several outputs, those that nobody uses count as if their cotangent were zero."""
    traced = case.traced
    for k, output in enumerate(traced.floating if len(traced.floating) > 1 else ()):
        g = [np.zeros(each.shape, each.dtype) for each in traced.floating]
        (g[k],) = case.draw([output.type])
        found = case.walk([output], [traced.cotangents[k]], traced.active)
        alone = Graph((*traced.inputs, *traced.cotangents), tuple(filled(found, traced.active)))
        for got, wanted in zip(
            run(alone, *case.arrays, *g), run(traced.pullback, *case.arrays, *g), strict=True
        ):
            must_agree(f"pullback of output {k} alone", got, wanted, rounding(alone) * size([wanted]))


def repeated_operand(case: Case) -> None:
    """p(x, x): one array in two places receives the cotangents of both."""
    if not case.smooth:
        return
    for i, j in pairs_of_operands(case.traced):

        def call(nodes: Sequence[Node], i: int = i, j: int = j) -> list[Node]:
            return case.call([nodes[i] if k == j else node for k, node in enumerate(nodes)])

        traced = Traced(call, [type_of(each) for each in case.arrays], case.walk)
        value = Graph(traced.inputs, tuple(traced.floating))
        g, (v,) = case.draw([each.type for each in traced.floating]), case.draw([traced.inputs[i].type])
        cotangent = run(traced.pullback, *case.arrays, *g)[traced.active.index(traced.inputs[i])]
        moved = difference(value, case.arrays, {i: v}, case.exact(value))
        if all(np.all(np.isfinite(each)) for each in moved):
            _must_match(
                case, value, f"pullback of p(x, x), operands {i} and {j},", inner([cotangent], [v]), g, moved
            )


def forward_mode(case: Case) -> None:
    """The pullback transposed gives the derivative in a direction, whatever cotangent it is evaluated at."""
    traced = case.traced
    if not case.smooth:
        return
    g, other = case.draw([n.type for n in traced.floating]), case.draw([n.type for n in traced.floating])
    v = case.draw([each.type for each in traced.active])
    tangents = run(traced.tangent, *case.arrays, *g, *v)
    value = Graph(traced.inputs, tuple(traced.floating))
    along = {traced.inputs.index(node): each for node, each in zip(traced.active, v, strict=True)}
    for got, wanted in zip(tangents, difference(value, case.arrays, along, case.exact(value)), strict=True):
        bound = 10 * (ROUNDING if case.exact(value) else DIFFERENCE) * size([wanted])
        must_agree("tangent", got, wanted, bound)
    for got, wanted in zip(run(traced.tangent, *case.arrays, *other, *v), tangents, strict=True):
        must_agree("tangent, at another cotangent", got, wanted, ROUNDING * size([wanted]))


# -- second derivatives ------------------------------------------------------------------------------------
def second_derivative(case: Case) -> None:
    """The derivative of ⟨u, pullback(g)⟩ is a difference of the pullback, and symmetric in its directions."""
    traced = case.traced
    if not case.smooth or not any(traced.found):
        return
    g = case.draw([each.type for each in traced.floating])
    u, v = case.draw([n.type for n in traced.active]), case.draw([n.type for n in traced.active])
    by_u, by_v = run(traced.second, *case.arrays, *g, *u), run(traced.second, *case.arrays, *g, *v)
    along = {traced.inputs.index(node): each for node, each in zip(traced.active, v, strict=True)}
    moved = difference(traced.pullback, [*case.arrays, *g], along, case.exact(traced.pullback))
    _must_match(case, traced.pullback, "second derivative", inner(by_u, v), u, moved)
    bound = ROUNDING * 10 * size([*by_u, *by_v]) * sum(1 + each.size for each in u)
    if not abs(inner(by_u, v) - inner(by_v, u)) <= bound:
        raise LawError(f"second derivative: v·H·u = {inner(by_u, v)!r} but u·H·v = {inner(by_v, u)!r}")


def origins(case: Case) -> None:
    """Every node of the pullback says which node and operand it is the derivative of."""
    before = set(case.traced.value.nodes)
    for node in case.traced.pullback.nodes:
        if node in before or node.primitive is None:
            continue
        reasons = node.origins
        if not reasons:
            raise LawError(f"{node.name} in the pullback has no origin")
        for reason in reasons:
            told = reason.role == "fan-out" or (
                reason.role == "pullback" and reason.operand in range(len(reason.of.operands))
            )
            if reason.of not in before or not told:
                raise LawError(f"{node.name} in the pullback has the origin {reason}, which names no operand")
