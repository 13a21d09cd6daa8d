"""Step by hand: a small graph forward and backward, one operation at a time, with the numbers in it.

This is what one would write down with paper and pencil. Forward, each operation makes a value. Backward, the
derivative of the loss by that value times the local derivative is the derivative by each operand, and where
a value is used several times, what comes back over the uses is added up.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, overload

from chainrule.errors import ChainruleError
from chainrule.graph import ITEM, KEEPS_HISTORY, Array, Node, reachable
from chainrule.insight.adjoint import Adjoint, Edge
from chainrule.insight.formula import formula, number, pulled
from chainrule.insight.moment import moment_of
from chainrule.insight.named import leaves_of
from chainrule.origin import at_user_line
from chainrule.program import on_demand
from chainrule.reverse import check_backward
from chainrule.tensor import Tensor
from chainrule.types import Type

FORWARD, BACKWARD = "forward", "backward"
LOSS = "L"  # what the loss is called in formulas
_WIDTH = 100  # of a printed line
_LEGIBLE = 120  # numbers in a formula that is longer help nobody


@dataclass(frozen=True, eq=False)
class Step:
    """One operation, forward or back.

    number     its place, from 1
    phase      "forward" or "backward"
    operation  the operation: of a step back, the one whose local derivative it takes
    formula    what is computed, with names and then with numbers: "z = a * w = 2 * 3 = 6"
    value      what comes out: an array; a tuple of them for an operation with several outputs
    layer      path of the layer, "" outside of any
    line       the user's own source line, "file.py:12"
    """

    number: int
    phase: str
    operation: str
    formula: str
    value: Any
    layer: str
    line: str

    @property
    def where(self) -> str:
        """The layer, or else the user's line; "" for a line typed at a prompt."""
        if self.layer:
            return f"in {self.layer}"
        return "" if self.line.startswith("<") else self.line

    def __str__(self) -> str:
        return f"{self.number}. {self.formula}"


class Steps(Sequence[Step]):
    """All steps of a loss, forward and then backward; a sequence that prints as a table."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = tuple(steps)

    @property
    def forward(self) -> tuple[Step, ...]:
        """The steps from the leaves to the loss."""
        return tuple(step for step in self if step.phase == FORWARD)

    @property
    def backward(self) -> tuple[Step, ...]:
        """The steps from the loss to the leaves."""
        return tuple(step for step in self if step.phase == BACKWARD)

    @overload
    def __getitem__(self, at: int) -> Step: ...

    @overload
    def __getitem__(self, at: slice) -> Steps: ...

    def __getitem__(self, at: int | slice) -> Step | Steps:
        return Steps(self._steps[at]) if isinstance(at, slice) else self._steps[at]

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps)

    def __str__(self) -> str:
        lines, before = list[str](), ""
        width = max((len(step.operation) for step in self), default=0)
        for title, steps in ((FORWARD, self.forward), (BACKWARD, self.backward)):
            lines += [title] if steps else []
            for step in steps:
                head = f"{step.number:>4}  {step.operation:{width}}  "
                remark = f"  # {step.where}" if step.where not in ("", before) else ""
                lines.append(head + _folded(step.formula, len(head), remark))
                before = step.where
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<{len(self.forward)} steps forward, {len(self.backward)} back>"

    def _repr_html_(self) -> str:
        """For notebooks: two tables."""
        return str(on_demand("show.step_table").html(self))


def _folded(equation: str, column: int, remark: str) -> str:
    """An equation that begins in a column, over several lines where one would be too long."""
    if column + len(equation) <= _WIDTH:
        return equation + remark
    first, *others = equation.split(" = ")
    gap = f"\n{' ' * (column + len(first))} = "
    return f"{first} = {others[0]}{remark}" + "".join(gap + each for each in others[1:])


def steps(loss: Tensor, names: Mapping[str, Tensor] | None = None, most: int = 200) -> Steps:
    """Walk forward and backward through a small graph, one operation at a time, the numbers substituted.

    loss   a scalar that was computed eagerly; formulas call it L
    names  what values are called, name → Tensor; left out, as the variables of the caller are. Parameters are
           called by their path, and what has no name is v1, v2, …
    most   how many operations are shown; for a loss of more, ChainruleError says what shows it better

    Derivatives go to parameters and to what `cr.asarray` made. The local derivatives are those in the records
    of the primitives: what is shown is what `loss.backward()` computes.

    >>> import chainrule as cr
    >>> a, w = cr.asarray(2.0), cr.asarray(3.0)
    >>> z = a * w
    >>> print(cr.steps(z**2))
    forward
       1  multiply  z = a * w = 2 * 3 = 6
       2  pow       L = z**2 = 6**2 = 36
    backward
       3  start     dL/dL = 1
       4  pow       dL/dz = dL/dL * 2 * z = 1 * 2 * 6 = 12
       5  multiply  dL/da = dL/dz * dz/da = dL/dz * w = 12 * 3 = 36
       6  multiply  dL/dw = dL/dz * dz/dw = dL/dz * a = 12 * 2 = 24
    """
    node = moment_of(loss).loss.node
    check_backward(node, seeded=False)
    operations = sum(each.primitive is not None for each in reachable([node]))
    if operations > most:
        raise ChainruleError(
            f"this loss was made by {operations:,} operations{at_user_line()}, more than the {most:,} that "
            "cr.steps walks through: cr.ledger(loss) says in a line per layer where a gradient grows or "
            "shrinks, cr.explain(loss, name, index) opens one number of it. Or pass most= to read them all"
        )
    variables = _variables(sys._getframe(1)) if names is None else names
    return Steps(list(_Walk(node, _names(node, variables))))


# -- names ---------------------------------------------------------------------------------------------------
def _variables(frame: FrameType) -> dict[str, Tensor]:
    """The Tensors that have a name where the caller is; `_` and what notebooks keep are no names."""
    seen = {**frame.f_globals, **frame.f_locals}
    return {k: v for k, v in seen.items() if isinstance(v, Tensor) and not k.startswith("_")}


def _names(loss: Node, variables: Mapping[str, Tensor]) -> dict[Node, str]:
    """What every node is called, and nothing else L; what layers and the program put in has no name."""
    leaves = {node: name for name, node in leaves_of(loss).items()}
    names = {loss: LOSS}
    names |= {node: node.cell.name for node in leaves if node.cell is not None and node.cell.name}
    taken, chosen = set(names.values()), dict[Node, str]()
    for variable, tensor in variables.items():
        if variable not in taken:
            chosen.setdefault(tensor.node, variable)
    taken |= set(chosen.values())
    for node in reachable([loss]):
        name = chosen.get(node) or leaves.get(node)
        if node not in names and (name or node.primitive is not None):
            names[node] = name or _numbered(taken)
            taken.add(names[node])
    return names


def _numbered(taken: set[str]) -> str:
    k = 1
    while f"v{k}" in taken:
        k += 1
    return f"v{k}"


def _by(name: str) -> str:
    """The derivative of the loss by what has this name."""
    return f"d{LOSS}/{_d(name)}"


def _d(name: str) -> str:
    return f"d{name}" if name.isidentifier() else f"d({name})"


# -- the walk ------------------------------------------------------------------------------------------------
class _Walk:
    """The steps of a loss, in order."""

    def __init__(self, loss: Node, names: Mapping[Node, str]) -> None:
        self.names = names
        self.nodes = reachable([loss])
        leaves = [node for node in self.nodes if node.primitive is None]
        wanted = [node for node in leaves if node.floating and node.status in KEEPS_HISTORY]
        self.adjoint = Adjoint(loss, wanted)
        self.count = 0

    def __iter__(self) -> Iterator[Step]:
        for node in self.nodes:
            if node.primitive is not None:
                yield self._step(FORWARD, node, self._forward(node), node.value)
        for node in self.adjoint.backward_order:
            yield from self._backward(node)

    def _step(self, phase: str, node: Node, text: str, value: Any, operation: str = "") -> Step:
        self.count += 1
        line = node.origins[0].where() if node.origins else ""
        return Step(self.count, phase, operation or node.name, text, value, node.layer, line)

    def _forward(self, node: Node) -> str:
        symbols = formula(node, {each: self._name(each) for each in node.operands})
        numbers = formula(node, {each: number(each.value) for each in node.operands})
        between = [symbols] if node.name == ITEM else [symbols, numbers]
        return _equation(self.names[node], *between, number(node.value))

    def _name(self, node: Node) -> str:
        """What a node is called; what has no name is its own number."""
        return self.names.get(node) or number(node.value)

    def _backward(self, node: Node) -> Iterator[Step]:
        """The derivative by a node, where it has to be added up, and what that makes of its operands'."""
        uses = self.adjoint.uses.get(node, [])
        if node is self.adjoint.loss:
            yield self._step(BACKWARD, node, f"{_by(LOSS)} = 1", self.adjoint.cotangents[node][0], "start")
        elif len(uses) > 1 and isinstance(node.type, Type):
            (total,) = self.adjoint.cotangents[node]
            yield self._step(BACKWARD, node, self._together(node, uses, total), total, "sum of uses")
        for operand in range(len(node.operands)):
            part = self.adjoint.parts.get(Edge(node, operand))
            if part is not None:
                yield self._step(BACKWARD, node, self._part(Edge(node, operand), part), part[0])

    def _together(self, node: Node, uses: Sequence[Edge], total: Array) -> str:
        first, *others = [number(self.adjoint.parts[edge][0]) for edge in uses]
        added = " + ".join([first, *(f"({part})" if part.startswith("-") else part for part in others)])
        return f"{_equation(_by(self.names[node]), added, number(total))}, over {len(uses)} uses"

    def _part(self, edge: Edge, part: tuple[Array, ...]) -> str:
        """What comes back over one use, by the rule in the record of the operation that uses it."""
        node, value = edge.user, number(part[0])
        if not isinstance(node.type, Type):
            return _equation(self._target(edge), f"{node.name} pulled back", value)
        if node.name == ITEM:
            return _equation(self._target(edge), _by(self.names[node]), value)
        rule = pulled(node, edge.operand)
        symbols = {rule.cotangent: _by(self.names[node]), rule.node: self.names[node]}
        numbers = {rule.cotangent: number(self.adjoint.cotangents[node][0]), rule.node: number(node.value)}
        for symbol, operand in zip(rule.operands, node.operands, strict=True):
            symbols[symbol], numbers[symbol] = self._name(operand), number(operand.value)
        texts = [formula(rule.part, symbols), formula(rule.part, numbers)]
        if len(texts[0]) > _LEGIBLE:
            texts = [f"{node.name} pulled back"]
        return _equation(self._target(edge), self._chain(edge), *texts, value)

    def _target(self, edge: Edge) -> str:
        """The derivative by what is used; where it is used several times, the part of it over this use."""
        node, name = edge.value, self.names[edge.value]
        if edge.user.name == ITEM:
            return _by(f"{name}[{edge.user.attributes['index']}]")
        uses = self.adjoint.uses[node]
        if len(uses) == 1:
            return _by(name)
        here = [each.operand for each in uses if each.user is edge.user]
        place = f", operand {edge.operand}" if len(here) > 1 else ""
        return f"{_by(name)} via {self.names[edge.user]}{place}"

    def _chain(self, edge: Edge) -> str:
        """The chain rule in words of derivatives, where it is a product of numbers, element by element."""
        node, primitive = edge.user, edge.user.primitive
        assert primitive is not None
        if node is self.adjoint.loss or not primitive.elementwise or edge.value.shape != node.shape:
            return ""
        name = self.names[node]
        return f"{_by(name)} * {_d(name)}/{_d(self.names[edge.value])}"


def _equation(*texts: str) -> str:
    """Texts that are equal, one behind the other; what is said already, or is too long to read, is not."""
    first, *others = dict.fromkeys(filter(None, texts))
    *between, last = others or [""]
    legible = [text for text in between if len(text) <= _LEGIBLE]
    return " = ".join([first, *legible, *filter(None, [last])])
