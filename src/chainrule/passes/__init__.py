"""Passes: graph → graph, each a small function that gives the same values with less work.

Dead code needs no pass: a `Graph` has the nodes its outputs need, and no others.

>>> from chainrule import passes
>>> for each in passes.PASSES:
...     print(each.__name__)
fold_constants
simplify_algebra
share_common_subexpressions
inline_calls
fold_constants
simplify_algebra
use_values_while_warm
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from chainrule.graph import Graph
from chainrule.passes.algebra import simplify_algebra
from chainrule.passes.common import share_common_subexpressions
from chainrule.passes.constants import fold_constants
from chainrule.passes.cotangents import gather_cotangents
from chainrule.passes.factors import share_factors
from chainrule.passes.flattening import merge_leading_axes
from chainrule.passes.inlining import inline_calls
from chainrule.passes.ordering import use_values_while_warm
from chainrule.passes.parts import join_parts, place_once
from chainrule.passes.products import (
    gate_by_results,
    multiply_single_products,
    multiply_small_powers,
    pad_before_convolving,
    spell_out_logsumexp,
)
from chainrule.passes.scans import drop_unused_results, simplify_inside
from chainrule.passes.selection import select_instead_of_gather

Pass = Callable[[Graph], Graph]
_WIDTH = 49  # of a line of `report` up to the differences

PASSES: tuple[Pass, ...] = (
    fold_constants,
    simplify_algebra,
    share_common_subexpressions,
    inline_calls,
    fold_constants,
    simplify_algebra,
    use_values_while_warm,
)
"""In their order. Constants that a call was given are known inside of it once it is inlined."""


def simplify(graph: Graph) -> Graph:
    """`graph` after all passes: the same inputs and outputs, the same values."""
    for each in PASSES:
        graph = each(graph)
    return graph


def simplify_loop_bodies(graph: Graph) -> Graph:
    """`graph` with the graphs inside of its scans in the form that kernels are made of."""
    return simplify_inside(graph, simplify_for_kernels)


KERNEL_PASSES: tuple[Pass, ...] = (
    inline_calls,
    simplify_loop_bodies,
    drop_unused_results,
    select_instead_of_gather,
    pad_before_convolving,
    multiply_single_products,
    multiply_small_powers,
    spell_out_logsumexp,
    merge_leading_axes,
    gate_by_results,
    share_factors,
    gather_cotangents,
    join_parts,
    place_once,
)
"""What a backend that makes kernels of its own runs besides, between two rounds of the others."""


FOR_KERNELS: tuple[Pass, ...] = (*PASSES[:-1], *KERNEL_PASSES, *PASSES[:3])
"""Everything that such a backend runs."""


def simplify_for_kernels(graph: Graph) -> Graph:
    """`graph` in the form that kernels are made of."""
    for each in FOR_KERNELS:
        graph = each(graph)
    return graph


def report(graph: Graph, passes: Sequence[Pass] = PASSES) -> str:
    """What each pass leaves of `graph`, a line per pass: how many nodes, and which operations came and went.

    >>> import chainrule as cr
    >>> from chainrule import passes
    >>> from chainrule.trace import trace_program
    >>> y = cr.asarray([1.0, 2.0])
    >>> program = trace_program(lambda x: -(-cr.exp(x)) * 1.0, [y.node.type])
    >>> print(passes.report(program.graph))
         6 nodes as traced
         6 nodes after fold constants
         2 nodes after simplify algebra              -1 constant, -1 multiply, -2 negative
         2 nodes after share common subexpressions
         2 nodes after inline calls
         2 nodes after fold constants
         2 nodes after simplify algebra
         2 nodes after use values while warm
    """
    lines = [f"{len(graph):6} nodes as traced"]
    for each in passes:
        before, graph = graph, each(graph)
        line = f"{len(graph):6} nodes after {each.__name__.replace('_', ' ')}"
        lines.append(f"{line:<{_WIDTH}}{_difference(before, graph)}".rstrip())
    return "\n".join(lines)


def _difference(before: Graph, after: Graph) -> str:
    """Operations that there are more or fewer of than before."""
    count, old = (Counter(node.name for node in graph.nodes) for graph in (after, before))
    count.subtract(old)
    return ", ".join(f"{number:+} {name}" for name, number in sorted(count.items()) if number)
