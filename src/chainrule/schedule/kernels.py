"""What a schedule is made of: buffers, accesses, scalar expressions, kernels.

A kernel is a loop nest over elements whose accesses are affine: point (i, j, …) of the loop reads or writes
element ``offset + Σ position × stride`` of a buffer. Two kinds do nearly all work: `Contraction`, a sum of
products with whatever happens to each sum afterwards, and `Loops`, elementwise work and reductions that share
their rows. What is neither (gather, scatter, sorting) is a `Special`. A `Repeat` runs kernels many times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from chainrule.graph import Array, Node
from chainrule.types import Shape

Strides = tuple[int, ...]


class Unsupported(Exception):
    """A graph has something for which there is no kernel; the message names it and the user's line."""


# -- memory --------------------------------------------------------------------------------------------------
@dataclass(eq=False)
class Buffer:
    """An array in memory; shape and strides are in elements.

    role   "input" and "output" are given by the caller, "constant" has a `value`, "temporary" lives in the
           arena, and so does "state", which keeps its value from run to run; a "window" is a part of another
           buffer, as the kernels of a `Repeat` see it
    home   the buffer in whose memory this one lies: the new value of a state that takes the place of the old
    slack  whole vectors may be read beyond the end of every row and of the array: the memory is ours. False
           for arrays of the caller, which may end at the edge of a page
    """

    name: str
    dtype: np.dtype[Any]
    shape: Shape
    strides: Strides
    size: int
    role: str = "temporary"
    value: Array | None = None
    slack: bool = True
    home: Buffer | None = None


@dataclass(frozen=True, eq=False)
class Access:
    """The elements of a buffer that a kernel visits: a stride for every axis of the kernel's loop.

    overrun  for a target: whole vectors may be stored beyond the end of the lane axis (nobody reads those)
    """

    buffer: Buffer
    offset: int
    strides: Strides
    overrun: bool = False


@dataclass(frozen=True, eq=False)
class View:
    """An array of some shape that lies in a buffer."""

    buffer: Buffer
    offset: int
    shape: Shape
    strides: Strides


# -- scalar expressions --------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Expression:
    """One number of a loop's point, made from others.

    op is the name of an elementwise primitive, whose `attributes` are those of its node, or one of
      "constant"  attributes["value"], a NumPy scalar
      "load"      attributes["access"]
      "position"  attributes["axis"]: where the loop stands on that axis, as int64
      "sum"       the accumulated sum of a Contraction
      "result"    attributes["statement"]: the value of an earlier statement of the same kernel
    Shared subexpressions are one object: a kernel computes each object once per point.
    """

    op: str
    arguments: tuple[Expression, ...]
    dtype: np.dtype[Any]
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Statement:
    """One value that a kernel computes at every point, where it goes, and how points are combined.

    value     the expression
    target    where it is stored; None for a value that only later statements of the kernel use
    combiner  "sum", "max", "min", "any", "all": the points along the axes `over` become one; None: each is
              stored
    over      axes that are combined (their stride in `target` is 0). All inner axes and no row axis: then the
              result belongs to a row, and later statements may use it. Or some, row axes among them: then it
              is complete when the kernel ends, and no statement uses it
    per_row   the value belongs to a row: it is computed once for all points of the inner axes, from loads
              with stride 0 along them and results of other statements that belong to the row. A combined
              value that is per_row is combined over row axes only
    """

    value: Expression
    target: Access | None
    combiner: str | None = None
    over: tuple[int, ...] = ()
    per_row: bool = False

    @cached_property
    def accesses(self) -> tuple[Access, ...]:
        """What it loads, each once, and stores."""
        stored = () if self.target is None else (self.target,)
        return (*_loaded(expressions([self.value])), *stored)

    @cached_property
    def results(self) -> tuple[Statement, ...]:
        """The earlier statements that it uses."""
        return tuple(
            each.attributes["statement"] for each in expressions([self.value]) if each.op == "result"
        )


# -- kernels -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Loops:
    """Elementwise work and reductions over one space.

    The first `rows` axes are the rows. For every point of them the statements run in order, each over the
    inner axes (unless it is `per_row`); a statement may use "result"s of earlier ones: elementwise at the
    same point, or the row's combined value. Those that wait for the same combined values are one walk: what
    they need at a point is read before any of them stores there (and the row's before that). `lane` is the
    axis to vectorise (of rows or inner ones): along it most accesses have stride 1 or 0, any stride must
    work. An axis may have length 0 or 1. There may be no axis.
    """

    extents: Shape
    rows: int
    lane: int
    statements: tuple[Statement, ...]
    nodes: tuple[Node, ...] = ()

    @cached_property
    def places(self) -> tuple[Access, ...]:
        """See `places`."""
        return (*loads(self), *targets(self))


@dataclass(frozen=True, eq=False)
class Contraction:
    """A sum of products, and statements about every sum.

    The first `outputs` axes are those of the output, the others are summed over. left and right are read with
    a stride per axis, 0 on axes they do not move along; both may move along an axis (batched products,
    convolutions). A length may be 0. `lane` is the axis to vectorise: an output axis, along which `right`
    moves and `left` does not, or a summed axis, along which both move.
    The statements are elementwise over the output axes and use "sum", loads and "result"s of earlier ones;
    their accesses have one stride per output axis. A statement with combiner "sum", over all output axes,
    leaves partial sums: place k of its target gets the sum of a stretch of units that begins with unit k;
    places where no stretch begins are not touched, and there are never more units than vectors.
    """

    extents: Shape
    outputs: int
    lane: int
    left: Access
    right: Access
    statements: tuple[Statement, ...]
    nodes: tuple[Node, ...] = ()

    @cached_property
    def places(self) -> tuple[Access, ...]:
        """See `places`."""
        return (*loads(self), *targets(self))


@dataclass(frozen=True, eq=False)
class Special:
    """A primitive that is no nest: the name of its record, its node's attributes, operands and result."""

    record: str
    attributes: dict[str, Any]
    operands: tuple[View, ...]
    target: View
    nodes: tuple[Node, ...] = ()


Kernel = Loops | Contraction | Special


@dataclass(frozen=True, eq=False)
class Window:
    """A part of a buffer that moves with the iterations of a `Repeat`.

    In iteration t, `buffer` begins at element ``offset + t % period × step`` of `source`, which may itself be
    a window of a loop around this one.
    """

    buffer: Buffer
    source: Buffer
    offset: int
    step: int
    period: int


@dataclass(frozen=True, eq=False)
class Repeat:
    """Kernels that run in order, `count` times (1 at least), and see other parts of memory through windows.

    What they write besides windows is their own: temporaries whose value nobody needs in the next iteration,
    or behind the loop.
    """

    count: int
    kernels: tuple[Work, ...]
    windows: tuple[Window, ...]
    nodes: tuple[Node, ...] = ()


Work = Kernel | Repeat


ALWAYS = (0, 1 << 30)
"""For every detail."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """Kernels in the order in which they run; where the caller's inputs and outputs lie.

    details  for every kernel the least and the most detail, asked for in a run, with which it runs; empty
             where all of them always run
    """

    inputs: tuple[View, ...]
    outputs: tuple[View, ...]
    kernels: tuple[Work, ...]
    details: tuple[tuple[int, int], ...] = ()

    @property
    def timed(self) -> tuple[tuple[Work, tuple[int, int]], ...]:
        """Every kernel, and with which details it runs."""
        details = self.details or (ALWAYS,) * len(self.kernels)
        return tuple(zip(self.kernels, details, strict=True))

    @property
    def has_details(self) -> bool:
        """True where some kernels do not always run."""
        return any(each != ALWAYS for each in self.details)

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """Every buffer that has memory, once, in the order of first use."""
        found: dict[Buffer, None] = {view.buffer: None for view in self.inputs}
        for kernel in self.innermost:
            found.update({place.buffer: None for place in places(kernel)})
        found.update({window.source: None for window in self.windows})
        found.update({view.buffer: None for view in self.outputs})
        return tuple(each for each in found if each.role != "window")

    @property
    def innermost(self) -> tuple[Kernel, ...]:
        """The kernels, and those inside of loops in the place of the loop."""
        return tuple(each for each in walked(self.kernels) if not isinstance(each, Repeat))

    @property
    def windows(self) -> tuple[Window, ...]:
        """The windows of all loops."""
        loops = [each for each in walked(self.kernels) if isinstance(each, Repeat)]
        return tuple(window for each in loops for window in each.windows)


# -- walking -------------------------------------------------------------------------------------------------
def walked(kernels: Iterable[Work]) -> Iterator[Work]:
    """Every kernel, a loop before what is inside of it."""
    for each in kernels:
        yield each
        if isinstance(each, Repeat):
            yield from walked(each.kernels)


def read_and_written(kernel: Work) -> tuple[set[Buffer], set[Buffer]]:
    """The buffers that a kernel reads and those that it writes; of a loop, as they are seen from outside."""
    if isinstance(kernel, Special):
        return {view.buffer for view in kernel.operands}, {kernel.target.buffer}
    if not isinstance(kernel, Repeat):
        stored = {access.buffer for access in targets(kernel)}
        first = len(kernel.places) - sum(1 for _ in targets(kernel))
        return {access.buffer for access in kernel.places[:first]}, stored
    read, written = _inside(kernel)
    source = {window.buffer: window.source for window in kernel.windows}
    own = written - source.keys()
    return {source.get(each, each) for each in read - own}, {source[each] for each in written - own}


def own_buffers(loop: Repeat) -> set[Buffer]:
    """What the kernels inside of a loop write besides its windows."""
    return _inside(loop)[1] - {window.buffer for window in loop.windows}


def _inside(loop: Repeat) -> tuple[set[Buffer], set[Buffer]]:
    pairs = [read_and_written(each) for each in loop.kernels]
    return set().union(*(read for read, _ in pairs)), set().union(*(written for _, written in pairs))


def expressions(roots: Iterable[Expression]) -> Iterator[Expression]:
    """Every expression that `roots` are made of, once, arguments first; results are not entered."""
    found: dict[Expression, None] = {}
    pending = list(roots)[::-1]
    while pending:
        each = pending[-1]
        missing = [argument for argument in each.arguments if argument not in found]
        if missing:
            pending += missing[::-1]
        else:
            found[each] = None
            pending.pop()
    return iter(found)


def loads(kernel: Loops | Contraction) -> Iterator[Access]:
    """Everything a kernel reads, in a fixed order."""
    if isinstance(kernel, Contraction):
        yield from (kernel.left, kernel.right)
    yield from _loaded(expressions(statement.value for statement in kernel.statements))


def _loaded(found: Iterable[Expression]) -> Iterator[Access]:
    return (each.attributes["access"] for each in found if each.op == "load")


def targets(kernel: Loops | Contraction) -> Iterator[Access]:
    """Everything a kernel writes, in a fixed order."""
    for statement in kernel.statements:
        if statement.target is not None:
            yield statement.target


def places(kernel: Kernel) -> tuple[Access | View, ...]:
    """Every place in memory that a kernel touches, reads first: the pointer arguments of its function.

    A kernel's function is ``void f(ptr place 0, …, ptr scratch, i64 first, i64 last)``: a pointer per place,
    to its element at `offset`; memory for itself; and which of its units of work to do. Units are independent
    of each other, so that threads can share them; a kernel that cannot be cut has one.
    """
    if isinstance(kernel, Special):
        return (*kernel.operands, kernel.target)
    return kernel.places
