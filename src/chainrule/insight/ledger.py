"""The ledger: the chain rule as bookkeeping.

The norm of a weight's gradient is a product: the error at the loss, what every later layer makes of it on the
way back, the norm of what comes in, and how well error and input are aligned. In decades, log10 of each, that
is a sum, and the ledger writes it down, exactly, for any graph.

The way back from the loss to a value leads over *gates*: nodes that every path from the value to the loss
passes. From gate to gate the norm of the cotangent changes by a factor, and all factors together make the
whole, whatever lies between two gates. Where that is one operation, the factor is its own. Where it is
several paths (a residual sum, attention), it is a block: one term, beside which stands what share of the
cotangent came back over each branch. Shares are projections on the sum, so they add up to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np

from chainrule.graph import Array, Node
from chainrule.insight.adjoint import Adjoint, decades, flat, parameters_of
from chainrule.insight.cause import Cause, causes_of
from chainrule.insight.gates import gates_of, place_of
from chainrule.insight.moment import Given, moment_of
from chainrule.insight.stages import axis_of_units, is_product, made_of_parameters
from chainrule.insight.unrolled import Times, unrolled
from chainrule.optim.base import Transform
from chainrule.representation import html_of
from chainrule.reverse import check_backward
from chainrule.types import Type

ERROR, WEIGHT, ACTIVATION, BLOCK = "error at the loss", "weight gain", "activation gain", "block gain"
USES, UNIT, INPUT, ALIGNMENT = "uses together", "error of the unit", "input norm", "alignment"
_DIRECTLY = "directly"  # the label of a branch on which nothing lies
_FEW = 4  # shares that are listed one by one
KINDS = (ERROR, WEIGHT, ACTIVATION, BLOCK, USES, UNIT, INPUT, ALIGNMENT)
"""What a factor may be, from the loss to the weight."""


class Share(NamedTuple):
    """What came back over one branch.

    share    its part of the whole: all parts add up to 1, and one that works against the others is negative
    decades  log10 of its gain
    """

    label: str
    share: float
    decades: float

    @property
    def way(self) -> str:
        """Over which branch, in words."""
        return self.label if self.label == _DIRECTLY else f"over {self.label}"


class _Pair(NamedTuple):
    label: str
    decades: float


class Term(_Pair):
    """One factor of a gradient's norm, a pair ``label, decades``.

    label    the layer and the kind, such as "layers.2 weight gain"
    decades  log10 of the factor; -inf for a zero, nan for what is undefined behind it
    kind     one of `KINDS`
    layer    path of the layer that it belongs to, "" outside of all; then the label names the user's line
    shares   of the branches of a block, and of the uses of a parameter
    """

    kind: str
    layer: str
    shares: tuple[Share, ...]

    def __new__(
        cls, label: str, decades: float, kind: str, layer: str = "", shares: tuple[Share, ...] = ()
    ) -> Self:
        """A pair that knows more."""
        term = super().__new__(cls, label, decades)
        term.kind, term.layer, term.shares = kind, layer, shares
        return term

    def plus(self, decades: float) -> Term:
        """The same factor, larger by so much; behind a zero it is zero, whatever is undefined there."""
        total = -math.inf if -math.inf in (self.decades, decades) else self.decades + decades
        return Term(self.label, total, self.kind, self.layer, self.shares)


@dataclass(frozen=True, repr=False)
class Entry:
    """One parameter: log10 of the norm of its gradient, and the terms that add up to it."""

    name: str
    shape: tuple[int, ...]
    log10_norm: float
    terms: tuple[Term, ...]

    def total(self, *kinds: str) -> float:
        """The sum of the terms, or of those of some kinds; -inf with a zero among the factors."""
        listed = [term.decades for term in self.terms if not kinds or term.kind in kinds]
        return -math.inf if -math.inf in listed else math.fsum(listed)

    def __str__(self) -> str:
        rows = [f"{_number(term.decades):>9}  {term.label}{_told(term.shares)}" for term in self.terms]
        whole = f"{_number(self.log10_norm):>9}  log10 of the norm of the gradient of {self.name}"
        return "\n".join([*rows, whole])

    __repr__ = __str__


@dataclass(frozen=True, repr=False)
class Ledger:
    """The entries of all parameters on which a loss depends, in the order in which they were made."""

    loss: float
    entries: tuple[Entry, ...]
    _causes: Callable[[], tuple[Cause, ...]] = field(default=tuple, repr=False, compare=False)
    _units: Callable[[str], tuple[Entry, ...]] = field(default=lambda _: (), repr=False, compare=False)

    def units(self, name: str) -> tuple[Entry, ...]:
        """An entry for each unit of a parameter, "0.weight[3]" for the fourth: its first axis counts them.

        What comes before a unit is common to all; its own are the share of the error that it gets, and how
        well that is aligned with the input.

        >>> import numpy as np, chainrule as cr
        >>> layer = cr.nn.Linear(2, 3)
        >>> layer.weight.assign(np.eye(3, 2, dtype=np.float32))
        >>> layer.bias.assign(np.float32([0, 0, -9]))
        >>> found = cr.ledger(cr.sum(cr.nn.functional.relu(layer(np.ones((4, 2), np.float32)))))
        >>> [unit.log10_norm for unit in found.units("weight")][2]  # no error passes the third ReLU
        -inf
        """
        self[name]
        return self._units(name)

    @cached_property
    def causes(self) -> tuple[Cause, ...]:
        """What departs from what it should be, given what reaches it; the likeliest cause first."""
        return self._causes()

    @property
    def cause(self) -> Cause | None:
        """The likeliest cause, should this network not learn; None where nothing departs."""
        return self.causes[0] if self.causes else None

    @property
    def kinds(self) -> list[str]:
        """The kinds of factors that there are, from the loss to the weights."""
        found = {term.kind for entry in self.entries for term in entry.terms}
        return [kind for kind in KINDS if kind in found]

    def __getitem__(self, name: str) -> Entry:
        """The entry of a parameter, by its path."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(f"there is no parameter {name!r}, but {', '.join(each.name for each in self.entries)}")

    def __str__(self) -> str:
        kinds = self.kinds
        width = max([len("parameter"), *(len(each.name) for each in self.entries)])
        head = "  ".join([f"{'parameter':{width}}", *kinds, "gradient norm"])
        rows = [head]
        for entry in self.entries:
            totals = [(len(kind), entry.total(kind)) for kind in kinds] + [(13, entry.log10_norm)]
            figures = [f"{_number(total, 2):>{size}}" for size, total in totals]
            rows.append("  ".join([f"{entry.name:{width}}", *figures]))
        return "\n".join([f"loss {self.loss:.6g}; all in decades, log10:", *rows])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """For notebooks: the waterfall of the first weight, and a table of all parameters."""
        return html_of("ledger", self)


def ledger(loss: Given, step: int | None = None, *, optimizer: Transform | None = None) -> Ledger:
    """Why every gradient is as large as it is: log10 of its norm as an exact sum, layer by layer.

    loss  a scalar that was computed eagerly from a model's parameters; or a run, or its folder
    step  of the run, counted from 0, negative numbers from the end; None is the last
    optimizer  what makes steps of the gradients, for `cause`: Adam learns from gradients so small that SGD
          does not. A run knows its own; where nobody knows, SGD is assumed, which more harms

    >>> import numpy as np, chainrule as cr
    >>> weight = cr.nn.Parameter(np.array([[3.0, 4.0]]))
    >>> found = cr.ledger(cr.sum(weight * np.array([[10.0, 10.0]])))
    >>> [(term.kind, round(term.decades, 3)) for term in found.entries[0].terms]
    [('error at the loss', 0.151), ('input norm', 1.151), ('alignment', -0.151)]
    >>> round(10 ** found.entries[0].log10_norm, 3)  # the norm of [10, 10]
    14.142
    """
    moment = moment_of(loss, step)
    node = moment.loss.node
    check_backward(node, seeded=False)
    leaves = parameters_of(node)
    steps_by = optimizer or moment.optimizer
    with np.errstate(all="ignore"):  # what is not finite is told as undefined
        written = unrolled(node)
        adjoint = Adjoint(written.output, list(leaves.values()))
        book = _Book(adjoint, written.times)
        entries = tuple(book.entry(name, leaf) for name, leaf in leaves.items())
    return Ledger(
        float(node.value),
        entries,
        lambda: causes_of(
            Adjoint(node, list(leaves.values())) if written.known else adjoint, moment.step, steps_by
        ),
        lambda name: book.units(name, leaves[name]),
    )


class _Book:
    """What the entries of one loss have in common."""

    def __init__(self, adjoint: Adjoint, times: Mapping[Node, Times]) -> None:
        self._adjoint, self._times = adjoint, times
        self._of_parameters = made_of_parameters(adjoint)
        self._gates = gates_of(adjoint)
        self._decades = {node: decades(cotangent) for node, cotangent in adjoint.cotangents.items()}
        self._steps: dict[Node, Term] = {}

    def entry(self, name: str, leaf: Node) -> Entry:
        """The entry of one parameter."""
        if leaf is self._adjoint.loss:
            return Entry(name, leaf.shape, 0.0, ())
        if leaf not in self._gates:
            return Entry(name, leaf.shape, -math.inf, (Term("no derivative flows to it", -math.inf, ERROR),))
        common, met = self._way(leaf)
        return Entry(name, leaf.shape, self._decades[leaf], (*common, *self._local(leaf, met)))

    def units(self, name: str, leaf: Node) -> tuple[Entry, ...]:
        """An entry for each place on the first axis of a parameter."""
        if leaf not in self._gates or not leaf.ndim:
            return ()
        common, met = self._way(leaf)
        entrance = self._gates[met]
        (gradient,), (error, *_) = (self._adjoint.cotangents[each] for each in (leaf, entrance))
        apart = len(self._adjoint.uses[met]) == 1 and isinstance(entrance.type, Type)
        axis = axis_of_units(leaf, entrance) if apart else None
        entries = []
        for k, own in enumerate(gradient):
            norm = decades((own,))
            terms = self._of_unit(leaf, met, k, norm, None if axis is None else np.take(error, k, axis))
            entries.append(Entry(f"{name}[{k}]", own.shape, norm, (*common, *terms)))
        return tuple(entries)

    def _place(self, node: Node) -> str:
        """The layer of a node, or its operation and line; inside of loops with their steps."""
        return "@".join([place_of(node), *map(str, self._times.get(node, ()))])

    def _of_unit(self, leaf: Node, met: Node, k: int, norm: float, error: Array | None) -> Iterator[Term]:
        """From the error where a parameter meets the data to the gradient of one unit."""
        entrance = self._gates[met]
        common, place, layer = list(self._local(leaf, met)), self._place(entrance), entrance.layer
        before = self._decades[entrance]
        if len(common) == 1:  # several uses
            yield Term(common[0].label, _factor(norm, before), USES, layer)
        elif error is None:
            yield Term(f"{place} {UNIT} {k}", _factor(norm, before), UNIT, layer)
        else:
            incoming, alignment = common
            mine = decades((error,))
            yield Term(f"{place} {UNIT} {k}", _factor(mine, before), UNIT, layer)
            yield incoming
            yield Term(alignment.label, _factor(norm, mine) - incoming.decades, ALIGNMENT, layer)

    def _way(self, leaf: Node) -> tuple[tuple[Term, ...], Node]:
        """The terms from the loss to where a parameter meets the data; and what does, its transpose say."""
        way = [leaf]
        while way[-1] in self._gates:
            way.append(self._gates[way[-1]])
        entrance = next((k for k, node in enumerate(way) if node not in self._of_parameters), 1)
        steps = [self._step(node) for node in reversed(way[entrance:-1])]
        return tuple(_merged(_from_the_loss(steps))), way[entrance - 1]

    def _step(self, inner: Node) -> Term:
        """What becomes of the error between a node's gate and the node: the same on all ways through both."""
        if inner not in self._steps:
            self._steps[inner] = self._made_step(inner)
        return self._steps[inner]

    def _made_step(self, inner: Node) -> Term:
        outer, uses = self._gates[inner], self._adjoint.uses[inner]
        gain = _factor(self._decades[inner], self._decades[outer])
        shares, place, kind = self._shares(inner), self._place(outer), ACTIVATION
        if {each.label for each in shares} - {place, _DIRECTLY}:
            layers = [outer.layer, *(edge.user.layer for edge in uses)]
            return Term(f"{place} {BLOCK}", gain, BLOCK, next(filter(None, layers), ""), shares)
        if len(uses) == 1 and uses[0].user is outer and is_product(outer):
            others = (each for each in outer.operands if each is not inner)
            kind = WEIGHT if any(each in self._of_parameters for each in others) else ACTIVATION
        return Term(f"{place} {kind}", gain, kind, outer.layer)

    def _local(self, leaf: Node, met: Node) -> Iterator[Term]:
        """From the error where a parameter meets the data to its gradient."""
        entrance = self._gates[met]
        place, layer = self._place(entrance), entrance.layer
        ratio = _factor(self._decades[leaf], self._decades[entrance])
        uses = self._adjoint.uses[met]
        data = [each for each in entrance.operands if each not in self._of_parameters and each.floating]
        if len(uses) > 1 or len(data) > 1 or not isinstance(entrance.type, Type):
            yield Term(f"{place} {USES}", ratio, USES, layer, self._shares(met))
            return
        if data and is_product(entrance):
            norm = decades((data[0].value,))
        else:  # a sum: as if it were multiplied with a column of ones
            norm = 0.5 * math.log10(max(1, entrance.size) / max(1, leaf.size))
        yield Term(f"{place} {INPUT}", norm, INPUT, layer)
        yield Term(f"{place} {ALIGNMENT}", _factor(ratio, norm), ALIGNMENT, layer)

    def _shares(self, node: Node) -> tuple[Share, ...]:
        """What came back to a node over each branch, named by the layers or lines that used it.

        A value may also pass on to the gate by itself; a layer there uses its parameter like any other.
        """
        branches: dict[str, Any] = {}
        gate = self._gates[node]
        for edge in self._adjoint.uses[node]:
            part = flat(self._adjoint.parts[edge])
            used = node in self._of_parameters and edge.user.layer
            place = _DIRECTLY if edge.user is gate and not used else self._place(edge.user)
            branches[place] = branches[place] + part if place in branches else part
        scale = max(float(np.abs(part).max(initial=0.0)) for part in branches.values()) or 1.0
        whole = sum(part / scale for part in branches.values())
        square = float(np.vdot(whole, whole))
        return tuple(
            Share(
                label,
                float(np.vdot(part / scale, whole)) / square if square else math.nan,
                _factor(decades((part,)), self._decades[gate]),
            )
            for label, part in branches.items()
        )


# -- the way back --------------------------------------------------------------------------------------------
def _from_the_loss(steps: Iterable[Term]) -> Iterator[Term]:
    """Steps from the loss on; the first ones, outside of all layers, are the error that it sends back."""
    outside = True
    for step in steps:
        outside = outside and not step.layer and step.kind != WEIGHT
        yield Term(ERROR, step.decades, ERROR) if outside else step


def _merged(steps: Iterable[Term]) -> Iterator[Term]:
    """Neighbours of one layer and kind as one term; what changes nothing is left out."""
    held: Term | None = None
    for step in steps:
        if held and (held.label, held.shares, step.shares) == (step.label, (), ()):
            held = held.plus(step.decades)
            continue
        if held and held.decades:
            yield held
        held = step
    if held and held.decades:
        yield held


# -- decades -------------------------------------------------------------------------------------------------
def _factor(decades: float, before: float) -> float:
    """A factor from the norms after and before it; undefined behind a zero."""
    return math.nan if math.isinf(before) else decades - before


def _number(decades: float, digits: int = 3) -> str:
    if math.isnan(decades):
        return "undefined"
    return "zero" if decades == -math.inf else f"{round(decades, digits) + 0.0:+.{digits}f}"


def _told(shares: tuple[Share, ...]) -> str:
    """What came over the branches; nothing where that is undefined."""
    told = [f"{each.share:.0%} {each.way}" for each in telling(shares) if not math.isnan(each.share)]
    return f" ({', '.join(told)})" if told else ""


def telling(shares: Sequence[Share]) -> list[Share]:
    """All shares where they are few; of many the largest, and what the others come to."""
    if len(shares) <= _FEW + 1:
        return list(shares)
    first = sorted(shares, key=lambda each: -abs(each.share))
    rest = math.fsum(each.share for each in first[_FEW:])
    return [*first[:_FEW], Share(f"{len(first) - _FEW:,} others", rest, math.nan)]
