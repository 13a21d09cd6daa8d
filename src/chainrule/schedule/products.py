"""Sums of products: what they read, and what becomes of those that are no contraction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.graph import Node, describe
from chainrule.nest import Index, Nest, Read
from chainrule.schedule.choices import lane_of
from chainrule.schedule.kernels import (
    Access,
    Expression,
    Loops,
    Statement,
    Unsupported,
    View,
)
from chainrule.schedule.views import Axes
from chainrule.types import Shape


def affine(read: Read, view: View, order: Sequence[int], loop: Shape, node: Node) -> Access:
    """What a read visits, as strides along the axes of a loop in the kernel's order."""
    strides, offset = [0] * len(loop), view.offset
    for index, extent, stride in zip(read.index, view.shape, view.strides, strict=True):
        if not _stays_inside(index, extent, loop):
            raise Unsupported(f"the native backend reads beyond an edge in {describe(node)}")
        offset += index.offset * stride
        for axis, coefficient in index.terms:
            strides[axis] += coefficient * stride
    return Access(view.buffer, offset, tuple(strides[axis] for axis in order))


def _stays_inside(index: Index, extent: int, loop: Shape) -> bool:
    if index.divisor != 1 or (index.modulus is not None and index.modulus != extent):
        return False
    ends = [(coefficient * (loop[axis] - 1)) for axis, coefficient in index.terms]
    if any(loop[axis] == 0 for axis, _ in index.terms):
        return True
    low = index.offset + sum(min(0, each) for each in ends)
    high = index.offset + sum(max(0, each) for each in ends)
    return low >= 0 and high < max(extent, 1)


def positions(nest: Nest, order: Sequence[int]) -> Axes:
    """The axes of the output of a nest, in the kernel's order."""
    return tuple(() if axis is None else (list(order).index(axis),) for axis in nest.output)


def as_loops(
    extents: Shape, outputs: int, reads: Sequence[Access], statements: Sequence[Statement],
    dtype: np.dtype[Any], nodes: tuple[Node, ...],
) -> Loops:  # fmt: skip
    """A sum of products with no axis for a contraction's lane, as a loop with rows."""
    product: Expression | None = None
    for read in reads:
        load = Expression("load", (), read.buffer.dtype, {"access": read})
        product = load if product is None else Expression("multiply", (product, load), dtype)
    assert product is not None
    inner = tuple(range(outputs, len(extents)))
    if product.dtype != dtype:
        product = Expression("astype", (product,), dtype, {"dtype": dtype})
    extra = (0,) * len(inner)
    if inner:
        total = Statement(product, None, "sum", inner)
        value = Expression("result", (), dtype, {"statement": total})
        first: tuple[Statement, ...] = (total,)
    else:
        value, first = product, ()
    known: dict[Expression, Expression] = {}

    def rewritten(each: Expression) -> Expression:
        if each in known:
            return known[each]
        if each.op == "sum":
            made = value
        elif each.op == "load":
            access = each.attributes["access"]
            wide = Access(access.buffer, access.offset, access.strides + extra, access.overrun)
            made = Expression("load", (), each.dtype, {"access": wide})
        else:
            made = Expression(each.op, tuple(map(rewritten, each.arguments)), each.dtype, each.attributes)
        known[each] = made
        return made

    after = []
    for each in statements:
        target = each.target
        if target is not None:
            target = Access(target.buffer, target.offset, target.strides + extra, target.overrun)
        over = tuple(range(outputs)) if each.combiner else ()
        after.append(Statement(rewritten(each.value), target, each.combiner, over, bool(inner)))
    every = (*first, *after)
    return Loops(extents, outputs, lane_of(extents, outputs, every), every, nodes)
