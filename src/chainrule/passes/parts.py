"""Parts of arrays: what is put into zeros piece by piece is joined at once, and zeros are filled in once.

The pullback of a slice puts a cotangent among zeros. Where an array was cut into parts, the backward pass
would add up as many arrays, each of the whole size, of which nearly everything is 0.

Exact, except that a -0.0 that was added to 0.0 became 0.0, and here stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from chainrule.graph import Graph, Node
from chainrule.ops import ops
from chainrule.origin import because
from chainrule.passes.rewriting import Known, copied, rewrite_knowing_uses
from chainrule.primitives import REGISTRY
from chainrule.types import Shape, normalise_axes

ADD, WHERE, SUM, CONCAT, PLACE, GREATER = (
    REGISTRY[name] for name in ("add", "where", "sum", "concat", "place", "greater")
)
SLICE: Any = REGISTRY["slice"]


@dataclass(frozen=True)
class Window:
    """Which elements of an array a `slice` takes, or a `place` fills: per axis a start, a stop and a step."""

    start: Shape
    stop: Shape
    step: Shape

    @staticmethod
    def of(node: Node) -> Window:
        return Window(*(node.attributes[name] for name in ("start", "stop", "step")))

    @property
    def whole(self) -> bool:
        """True without gaps between elements."""
        return set(self.step) <= {1}

    def inside(self, outer: Window) -> Window:
        """This window of what `outer` shows, as a window of the same array."""
        start = tuple(b + a * s for a, b, s in zip(self.start, outer.start, outer.step, strict=True))
        step = tuple(a * b for a, b in zip(self.step, outer.step, strict=True))
        last = [len(range(a, b, s)) for a, b, s in zip(self.start, self.stop, self.step, strict=True)]
        stop = tuple(a + max(n - 1, -1) * s + 1 for a, n, s in zip(start, last, step, strict=True))
        return Window(start, tuple(map(max, start, stop)), step)

    def of_slice(self, x: Node) -> Node:
        made: Node = ops.apply(SLICE, [x], start=self.start, stop=self.stop, step=self.step)
        return made

    def placed(self, x: Node, shape: Shape) -> Node:
        """x among zeros; x itself where there is no room for any."""
        if x.shape == shape:
            return x
        made: Node = ops.place(x, shape, self.start, self.stop, self.step)
        return made


def join_parts(graph: Graph) -> Graph:
    """Join what is put side by side into zeros and added: parts of an array become the array.

    >>> import chainrule as cr
    >>> from chainrule import passes
    >>> from chainrule.trace import trace_program
    >>> def loss(x):
    ...     return cr.sum(x[1] * x[0])
    >>> graph = passes.simplify(trace_program(cr.grad(loss), [cr.zeros((2, 3)).node.type]).graph)
    >>> sum(node.name == "place" for node in graph.nodes), len(join_parts(graph)) < len(graph)
    (2, True)
    >>> join_parts(graph).nodes[-1].name
    'concat'
    """

    def rule(node: Node, alone: set[Node]) -> Node:
        if node.primitive is not ADD or not node.floating:
            return node
        places = _places(node, alone)
        if len(places) < 2:
            return node
        with because(node.origins[0]):
            return _joined(places, alone) or node

    return rewrite_knowing_uses(graph, rule)


def _places(node: Node, alone: set[Node]) -> list[Node]:
    """What an addition adds, and what those of its operands add that nobody else uses.

    Empty if any of that is no part put into zeros. Long sums, such as the norm of all gradients, are left at
    the first operand that is none.
    """
    found: list[Node] = []
    sums = [node]
    while sums:
        for each in sums.pop().operands:
            if each.primitive is ADD and each in alone:
                sums.append(each)
            elif _is_simple(each, node):
                found.append(each)
            else:
                return []
    return found


def _is_simple(part: Node, node: Node) -> bool:
    return part.primitive is PLACE and part.type == node.type and Window.of(part).whole


def _joined(places: list[Node], alone: set[Node]) -> Node | None:
    """The sum of places that follow each other along one axis; None where they do not."""
    windows = [Window.of(each) for each in places]
    starts, stops = [each.start for each in windows], [each.stop for each in windows]
    apart = [
        axis
        for axis in range(places[0].ndim)
        if len({(a[axis], b[axis]) for a, b in zip(starts, stops, strict=True)}) > 1
    ]
    if len(apart) != 1:
        return None
    (axis,) = apart
    order = sorted(range(len(places)), key=lambda k: starts[k][axis])
    if any(stops[a][axis] != starts[b][axis] for a, b in pairwise(order)):
        return None
    pieces: list[Node] = []
    for k in order:
        (piece,) = places[k].operands
        known = piece.primitive is CONCAT and piece in alone and piece.attributes["axis"] == axis
        pieces += piece.operands if known else [piece]
    whole = ops.concat(pieces, axis=axis)
    alone.add(whole)
    first, last = windows[order[0]], windows[order[-1]]
    return Window(first.start, last.stop, first.step).placed(whole, places[0].shape)


def place_once(graph: Graph) -> Graph:
    """Put into zeros late, and once: places of places are one, choices and sums look at what is placed.

    And of several places of the same values that differ only in how many zeros are around them, all but the
    widest are parts of it.
    """
    return _share_places(rewrite_knowing_uses(graph, _after_place))


def _after_place(node: Node, alone: set[Node]) -> Node:
    if node.primitive is None or not node.origins:
        return node
    with because(node.origins[0]):
        if node.primitive is PLACE and node.operands[0].primitive is PLACE:
            inner = node.operands[0]
            return Window.of(inner).inside(Window.of(node)).placed(inner.operands[0], node.shape)
        if node.primitive is WHERE:
            return _choice(node, alone)
        if node.primitive is SUM and node.operands[0].primitive is PLACE:
            return _sum(node)
    return node


def _choice(node: Node, alone: set[Node]) -> Node:
    """where(c, place(x), 0) as place(where(part of c, x, 0))."""
    condition, placed, other = node.operands
    if placed.primitive is not PLACE or placed not in alone or placed.type != node.type:
        return node
    if other.value is None or other.size != 1 or other.value.flat[0] != 0:
        return node
    window = Window.of(placed)
    part = _part(condition, node.shape, window)
    if part is None:
        return node
    chosen: Node = ops.where(part, placed.operands[0], other)
    alone.add(chosen)
    return window.placed(chosen, node.shape)


def _part(x: Node, shape: Shape, window: Window) -> Node | None:
    """A window of x; of a comparison, the comparison of windows, which is cheaper than to keep it."""
    if x.size == 1:
        return x
    if x.shape != shape:
        return None
    if x.primitive is GREATER:
        operands = [_part(each, shape, window) for each in x.operands]
        if not any(each is None for each in operands):
            made: Node = ops.greater(*operands)
            return made
    return window.of_slice(x)


def _sum(node: Node) -> Node:
    """A sum of what was placed, if the zeros are on axes that are summed over."""
    placed = node.operands[0]
    (x,) = placed.operands
    axes = normalise_axes(node.attributes["axis"], placed.ndim)
    if any(a != b for k, (a, b) in enumerate(zip(x.shape, placed.shape, strict=True)) if k not in axes):
        return node
    made: Node = ops.sum(x, axis=axes, keepdims=node.attributes["keepdims"])
    return made if made.type == node.type else node


def _share_places(graph: Graph) -> Graph:
    """Places of the same values with fewer zeros around them as parts of the one with most."""
    widest: dict[Node, Node] = {}
    for node in graph.nodes:
        if node.primitive is PLACE and node.size > widest.get(node.operands[0], node).size - 1:
            widest[node.operands[0]] = node
    if not widest:
        return graph
    known: Known = {node: node for node in graph.inputs}
    for node in graph.nodes:
        if node in known:
            continue
        outer = widest[node.operands[0]] if node.primitive is PLACE else node
        window = None if outer is node else _window_in(node, outer)
        if window is None:
            known[node] = copied(node, known) if node.primitive is not None else node
        else:
            if outer not in known:
                known[outer] = copied(outer, known)
            known[node] = _because_of(node, window.of_slice(known[outer]))
    return Graph(graph.inputs, tuple(known[node] for node in graph.outputs))


def _window_in(node: Node, outer: Node) -> Window | None:
    """Where in `outer` there is what `node` is; None where it has more zeros on some side."""
    mine, other = Window.of(node), Window.of(outer)
    start = tuple(b - a for a, b in zip(mine.start, other.start, strict=True))
    stop = tuple(a + n for a, n in zip(start, node.shape, strict=True))
    inside = all(a >= 0 and b <= n for a, b, n in zip(start, stop, outer.shape, strict=True))
    return Window(start, stop, (1,) * node.ndim) if inside and mine.step == other.step else None


def _because_of(node: Node, made: Node) -> Node:
    made.origins = node.origins
    return made
