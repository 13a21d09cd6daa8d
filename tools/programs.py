"""Random programs: what people write with `cr`, drawn at random, as text that runs anywhere.

A program is a list of steps, each one line of Python about earlier values; it is drawn line by line, with the
values at hand, so that every line runs. Removing lines leaves a program: so what fails is made small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

import chainrule as cr
from chainrule.errors import ChainruleError
from chainrule.graph import Graph
from chainrule.trace import trace_program
from chainrule.types import type_of

Array = np.ndarray[Any, Any]
LARGEST = 4000  # elements of one value
LONGEST = 10**6  # points of a loop
FAR = 1e4  # magnitude up to which values are drawn on
EXTENTS = (1, 1, 2, 2, 3, 3, 4, 5, 7, 8, 9, 13, 16, 17, 31, 33)
INTEGERS = ("int64", "int32", "int64", "uint8", "int8", "uint32", "int16")


# -- inputs --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Input:
    """One array: drawn in some style from a seed, or given."""

    shape: tuple[int, ...]
    dtype: str
    style: str = "normal"
    seed: int = 0
    given: Array | None = None

    @property
    def array(self) -> Array:
        return self.given if self.given is not None else draw(self.shape, self.dtype, self.style, self.seed)

    @property
    def text(self) -> str:
        if self.given is not None:
            return f"np.array({self.given.tolist()!r}, np.{self.dtype}).reshape({self.shape})"
        return f"draw({self.shape}, {self.dtype!r}, {self.style!r}, {self.seed})"


def draw(shape: tuple[int, ...], dtype: str, style: str, seed: int) -> Array:
    """Numbers for tests. Styles of floats: "normal", "coarse" (ties), "wild" (with zeros, huge ones, NaN)."""
    random = np.random.default_rng(seed)
    kind = np.dtype(dtype).kind
    if kind == "b":
        return random.random(shape) < 0.5
    if kind in "iu":
        low = 0 if kind == "u" else -9
        return random.integers(low, 10, shape).astype(dtype)
    if style == "coarse":
        return (random.integers(-6, 7, shape) / 4).astype(dtype)
    values = np.asarray(random.normal(size=shape))
    if style == "wild":
        odd = np.array([0.0, 1e30, -1e-30, 1.0, -np.inf, np.nan])
        values = np.where(random.random(shape) < 0.2, random.choice(odd, shape), values)
    return values.astype(dtype)


# -- programs ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Step:
    """One line: an expression in which @0, @1, … stand for values that are there already."""

    text: str
    operands: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """Values are numbered: inputs first, then one per step. `transform` wraps the function."""

    inputs: tuple[Input, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    transform: str = "@"

    def name(self, value: int) -> str:
        return f"x{value}" if value < len(self.inputs) else f"v{value}"

    @cached_property
    def source(self) -> str:
        """The function `run`, as Python."""
        names = ", ".join(self.name(k) for k in range(len(self.inputs)))
        lines = [f"def program({names}):"]
        for k, step in enumerate(self.steps, len(self.inputs)):
            lines.append(f"    {self.name(k)} = {_filled(step, self.name)}")
        lines.append(f"    return {', '.join(map(self.name, self.outputs))}")
        return "\n".join([*lines, "", "", f"run = {self.transform.replace('@', 'program')}"])

    @property
    def script(self) -> str:
        """A file that runs the program by itself."""
        drawn = ["from tools.programs import draw"] if any(each.given is None for each in self.inputs) else []
        values = [f"    {each.text}," for each in self.inputs]
        head = ["import numpy as np", "", "import chainrule as cr", *drawn, "", ""]
        return "\n".join([*head, self.source, "", "arrays = [", *values, "]"])

    @property
    def arrays(self) -> list[Array]:
        return [each.array for each in self.inputs]

    def graph(self) -> Graph:
        """The program traced; raises what tracing raises."""
        names: dict[str, Any] = {"cr": cr, "np": np}
        exec(compile(self.source, "<program>", "exec"), names)
        return trace_program(names["run"], [type_of(each) for each in self.arrays]).graph

    def without(self, value: int, instead: int) -> Program:
        """The program with one step's value taken from an earlier one."""
        first = len(self.inputs)
        moved = [k if k < value else instead if k == value else k - 1 for k in range(first + len(self.steps))]
        steps = [
            replace(step, operands=tuple(moved[k] for k in step.operands))
            for k, step in enumerate(self.steps, first)
            if k != value
        ]
        return replace(self, steps=tuple(steps), outputs=tuple(moved[k] for k in self.outputs))

    def alive(self) -> Program:
        """Without steps and inputs nobody uses; gradients name inputs, so then those stay."""
        used = set(self.outputs)
        for k in reversed(range(len(self.steps))):
            if k + len(self.inputs) in used:
                used.update(self.steps[k].operands)
        kept = [k for k in range(len(self.inputs)) if k in used or self.transform != "@"]
        kept += [k for k in range(len(self.inputs), len(self.inputs) + len(self.steps)) if k in used]
        moved = {k: number for number, k in enumerate(kept)}
        first = len(self.inputs)
        return replace(
            self,
            inputs=tuple(self.inputs[k] for k in kept if k < first),
            steps=tuple(
                replace(
                    self.steps[k - first], operands=tuple(moved[o] for o in self.steps[k - first].operands)
                )
                for k in kept
                if k >= first
            ),
            outputs=tuple(moved[k] for k in self.outputs),
        )


def _filled(step: Step, name: Callable[[int], str]) -> str:
    text = step.text
    for k, operand in reversed(list(enumerate(step.operands))):
        text = text.replace(f"@{k}", name(operand))
    return text


# -- drawing lines -------------------------------------------------------------------------------------------
SMOOTH = (
    "cr.tanh(@0)", "cr.sin(@0)", "cr.cos(@0)", "cr.sigmoid(@0)", "cr.softplus(@0)", "cr.erf(@0)",
    "cr.atan(@0)", "cr.asinh(@0)", "cr.square(cr.tanh(@0))", "cr.exp(cr.tanh(@0))", "cr.exp(-cr.abs(@0))",
    "cr.expm1(cr.sin(@0))", "cr.log(cr.abs(@0) + 0.5)", "cr.log1p(cr.abs(@0))", "cr.log2(cr.abs(@0) + 0.25)",
    "cr.log10(cr.square(@0) + 1.0)", "cr.sqrt(cr.square(@0) + 0.1)", "cr.rsqrt(cr.square(@0) + 0.2)",
    "cr.reciprocal(cr.abs(@0) + 0.3)", "cr.asin(0.9 * cr.tanh(@0))", "cr.acos(0.9 * cr.sin(@0))",
    "cr.atanh(0.8 * cr.tanh(@0))", "cr.acosh(1.5 + cr.abs(@0))", "cr.tan(cr.tanh(@0))",
    "cr.sinh(cr.tanh(@0))", "cr.cosh(cr.sin(@0))", "cr.pow(cr.abs(@0) + 0.1, 1.7)", "cr.tanh(@0) ** 3",
    "0.5 * @0 - 0.25", "@0 * @0", "1.0 - @0", "-@0", "cr.nn.functional.gelu(@0)", "cr.nn.functional.silu(@0)",
)  # fmt: skip
BROKEN = (
    "cr.relu(@0)", "cr.abs(@0)", "cr.sign(@0)", "cr.floor(@0)", "cr.ceil(2.0 * @0)", "cr.round(@0)",
    "cr.trunc(3.0 * @0)", "cr.clip(@0, -0.5, 0.75)", "cr.stop_gradient(@0)",
    "cr.where(@0 > 0.25, @0, 0.1 * @0)", "cr.nn.functional.leaky_relu(@0)",
)  # fmt: skip
WILD = (
    "cr.log(@0)", "cr.sqrt(@0)", "1.0 / @0", "cr.exp(60.0 * @0)", "cr.isnan(@0)", "cr.isfinite(@0)",
    "cr.isinf(@0)", "cr.signbit(@0)", "cr.pow(@0, 2.5)", "cr.tan(@0)", "cr.acosh(@0)", "@0 ** -2",
)  # fmt: skip
PAIRS = (
    "@0 + @1", "@0 - @1", "@0 * @1", "@0 * @1 + @0", "cr.maximum(@0, @1)", "cr.minimum(@0, @1)",
    "@0 / (cr.abs(@1) + 0.4)", "cr.atan2(@0, cr.abs(@1) + 0.2)", "cr.hypot(@0, @1)", "cr.logaddexp(@0, @1)",
    "cr.copysign(@0, @1)", "cr.remainder(@0, cr.abs(@1) + 0.5)", "cr.floor_divide(@0, cr.abs(@1) + 0.5)",
    "cr.pow(cr.abs(@0) + 0.2, cr.tanh(@1))", "cr.where(@0 > @1, @0, cr.sin(@1))",
    "cr.checkpoint(lambda a, b: cr.tanh(a) * b)(@0, @1)", "cr.nextafter(@0, @1)", "cr.outer(@0, @1)",
    "cr.vecdot(@0, @1)",
)  # fmt: skip
RELATIONS = ("@0 < @1", "@0 <= @1", "@0 > @1", "@0 >= @1", "@0 == @1", "@0 != @1")
COUNTED = (
    "@0 + @1", "@0 * @1", "cr.maximum(@0, @1)", "cr.minimum(@0, @1)", "cr.bitwise_xor(@0, @1)",
    "cr.bitwise_and(@0, @1)", "cr.bitwise_or(@0, @1)", "cr.floor_divide(@0, @1)", "cr.remainder(@0, @1)",
    "@0 - @1", "cr.bitwise_left_shift(@0, 3)", "cr.bitwise_right_shift(@0, 1)", "cr.bitwise_invert(@0)",
    "cr.square(@0)", "cr.abs(@0)", "cr.sign(@0)",
)  # fmt: skip
LOGICAL = (
    "cr.logical_and(@0, @1)", "cr.logical_or(@0, @1)", "cr.logical_xor(@0, @1)", "cr.logical_not(@0)",
)  # fmt: skip
NORMED = (
    "(@0 - cr.mean(@0, axis=-1, keepdims=True)) / cr.sqrt(cr.var(@0, axis=-1, keepdims=True) + 1e-3)",
    "cr.softmax(@0, axis=AXIS)", "cr.log_softmax(@0, axis=AXIS)", "cr.cumulative_sum(@0, axis=AXIS)",
    "cr.cumulative_sum(@0, axis=AXIS, reverse=True)",
    "@0 / (cr.sum(cr.abs(@0), axis=AXIS, keepdims=True) + 1.0)",
    "cr.sort(@0, axis=AXIS)", "@0 - cr.max(@0, axis=AXIS, keepdims=True)",
    "cr.vmap(lambda row: cr.tanh(row) * cr.sum(row))(@0)",
    "cr.scan(lambda c, row: (0.5 * c + cr.sin(row), c * row), cr.zeros_like(@0[0]), @0)[1]",
)  # fmt: skip
PRODUCTS = (
    "@0 @ @1", "@0 @ @1", "cr.matmul(@0, cr.matrix_transpose(@1))", "cr.matmul(cr.matrix_transpose(@0), @1)",
    "cr.relu(@0 @ cr.matrix_transpose(@1))", "cr.matmul(@0, cr.matrix_transpose(@0))",
    "cr.tanh(cr.matmul(@0, cr.matrix_transpose(@1)) + 0.1)", "cr.matmul(cr.matrix_transpose(@0), @0)",
    "cr.softmax(cr.matmul(@0, cr.matrix_transpose(@0))) @ @0",
)  # fmt: skip
REDUCTIONS = ("sum", "mean", "max", "min", "logsumexp", "prod", "var", "std", "sum", "sum")
MOVES = (
    "cr.flip(@0, axis=AXIS)", "cr.roll(@0, 2, axis=AXIS)", "cr.expand_dims(@0, axis=AXIS)", "cr.squeeze(@0)",
    "cr.pad(@0, 1)", "cr.pad(@0, ((1, 0),) + ((0, 2),) * (@0.ndim - 1), constant_value=0.5)",
    "cr.repeat(@0, 2, axis=AXIS)", "cr.tile(@0, (2, 1))", "cr.matrix_transpose(@0)", "cr.tril(@0)",
    "cr.triu(@0, 1)", "cr.moveaxis(@0, AXIS, 0)", "cr.reshape(@0, (-1,))", "@0[::-1]", "@0[..., ::2]",
    "@0[1:]", "@0[..., None]", "@0[-1]", "cr.concat([@0, @0], axis=AXIS)", "cr.stack([@0, -@0], axis=AXIS)",
    "cr.nn.functional.max_pool1d(@0, 2)", "cr.concat([@0[:1], cr.tanh(@0)], axis=0)",
)  # fmt: skip


class Drawing:
    """A program under construction, with the values it has got."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.float = "float32" if self.random.random() < 0.7 else "float64"
        self.extents = [int(each) for each in self.random.choice(EXTENTS, 3)]
        if self.random.random() < 0.08:
            self.extents[0] = 0
        if self.random.random() < 0.05:
            self.extents[1] = int(self.random.integers(40, 200))
        self.wild = self.random.random() < 0.12
        self.inputs: list[Input] = []
        self.steps: list[Step] = []
        self.values: list[Array] = []

    # -- choosing
    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.random.integers(len(options)))]

    def value(self, kind: str = "f", least: int = 0) -> int | None:
        """A value of a kind ("f", "iu", "b") with at least so many axes; later ones are likelier."""
        found = [k for k, v in enumerate(self.values) if v.dtype.kind in kind and v.ndim >= least]
        if not found:
            return None
        return found[-1 - min(int(self.random.geometric(0.35)) - 1, len(found) - 1)]

    def partner(self, value: int, kind: str | None = None) -> int | None:
        """A value that broadcasts with another one, of the same dtype or of a kind."""
        mine = self.values[value]
        found = []
        for k, other in enumerate(self.values):
            if (other.dtype.kind in kind) if kind else (other.dtype == mine.dtype):
                try:
                    size = int(np.prod(np.broadcast_shapes(mine.shape, other.shape)))
                except ValueError:
                    continue
                if size <= LARGEST:
                    found.append(k)
        return self.pick(found) if found else None

    def axis(self, value: int, at: str) -> str:
        """`at` with an axis of a value in the place of AXIS."""
        ndim = self.values[value].ndim
        return at.replace("AXIS", str(int(self.random.integers(-ndim, ndim)) if ndim else 0))

    # -- lines
    def line(self) -> tuple[str, list[int | None]]:
        """The text of a step and its operands; None among them where nothing suits."""
        weights = {
            self.smooth: 5, self.broken: 2, self.pair: 6, self.relation: 1.5, self.chosen: 1.5,
            self.counted: 1.5, self.logical: 0.7, self.reduced: 4, self.counting: 1, self.normed: 2.5,
            self.moved: 3, self.shaped: 2, self.product: 3, self.einsum: 1.2, self.taken: 2,
            self.scattered: 1, self.cast: 1, self.random_numbers: 0.6, self.convolved: 0.5,
            self.untamed: 1.5 if self.wild else 0.15,
        }  # fmt: skip
        shares = np.array(list(weights.values()), dtype=float)
        kinds = list(weights)
        line: tuple[str, list[int | None]] = kinds[
            int(self.random.choice(len(kinds), p=shares / shares.sum()))
        ]()
        return line

    def smooth(self) -> Any:
        return self.pick(SMOOTH), [self.value()]

    def broken(self) -> Any:
        return self.pick(BROKEN), [self.value()]

    def untamed(self) -> Any:
        return self.pick(WILD), [self.value()]

    def _two(self, texts: Sequence[str], kind: str, partner: str | None = None) -> Any:
        first = self.value(kind)
        return self.pick(texts), [first, None if first is None else self.partner(first, partner)]

    def pair(self) -> Any:
        return self._two(PAIRS, "f")

    def relation(self) -> Any:
        return self._two(RELATIONS, "fiub")

    def counted(self) -> Any:
        return self._two(COUNTED, "iu", "iub")

    def logical(self) -> Any:
        return self._two(LOGICAL, "b", "b")

    def chosen(self) -> Any:
        first = self.value("b")
        if first is None:
            return "", [None]
        second = self.partner(first, "f")
        return "cr.where(@0, @1, @2)", [first, second, None if second is None else self.partner(second)]

    def reduced(self) -> Any:
        value = self.value("f")
        return "" if value is None else f"cr.{self.pick(REDUCTIONS)}(@0{self.axes(value)})", [value]

    def counting(self) -> Any:
        """Reductions of integers and truth values, and to positions."""
        name = self.pick(("argmax", "argmin", "argsort", "any", "all", "sum", "max", "min", "prod"))
        value = self.value(
            {"any": "b", "all": "b", "argmax": "fiu", "argmin": "fiu", "argsort": "fiu"}.get(name, "iub")
        )
        if value is None:
            return "", [None]
        if name.startswith("arg"):
            return self.axis(value, f"cr.{name}(@0, axis=AXIS)"), [value]
        return f"cr.{name}(@0{self.axes(value)})", [value]

    def axes(self, value: int) -> str:
        ndim = self.values[value].ndim
        if ndim == 0 or self.random.random() < 0.15:
            return ""
        chosen = [
            k - ndim * int(self.random.random() < 0.5) for k in range(ndim) if self.random.random() < 0.5
        ]
        keep = ", keepdims=True" if self.random.random() < 0.5 else ""
        return f", axis={tuple(chosen)!r}{keep}"

    def normed(self) -> Any:
        value = self.value("f", 1)
        return "" if value is None else self.axis(value, self.pick(NORMED)), [value]

    def moved(self) -> Any:
        value = self.value("fiub", 1)
        return "" if value is None else self.axis(value, self.pick(MOVES)), [value]

    def shaped(self) -> Any:
        """A reshape, a permutation, or repetition to a larger shape."""
        value = self.value("fiub")
        if value is None:
            return "", [None]
        shape, kind = self.values[value].shape, self.random.random()
        if kind < 0.4:
            return f"cr.permute_dims(@0, {tuple(int(k) for k in self.random.permutation(len(shape)))})", [
                value
            ]
        if kind < 0.7:
            return f"cr.broadcast_to(@0, {(self.pick(self.extents), *shape)})", [value]
        cuts: list[int] = []
        rest = int(np.prod(shape))
        while rest > 1 and len(cuts) < 3:
            divisors = [d for d in range(1, rest + 1) if rest % d == 0]
            cuts.append(self.pick(divisors))
            rest //= cuts[-1]
        return f"cr.reshape(@0, {(*cuts, rest)})", [value]

    def product(self) -> Any:
        """Matrix products in all orientations, batched ones among them; a layer."""
        kind = "iu" if self.random.random() < 0.05 else "f"
        left, right = self.value(kind, 1), self.value(kind, 1)
        text = self.pick(PRODUCTS)
        return text, [left, right]

    def einsum(self) -> Any:
        """Labels for the axes of one to three values; axes of one length share a label at random."""
        count = self.pick((1, 2, 2, 2, 3))
        values = [self.value("f", 1) for _ in range(count)]
        if None in values:
            return "", [None]
        of_length: dict[int, list[str]] = {}
        letters, terms = iter("ijklmnopqrst"), []
        for value in values:
            assert value is not None
            term = ""
            for extent in self.values[value].shape:
                known = [
                    each
                    for each in of_length.get(extent, [])
                    if each not in term or self.random.random() < 0.2
                ]
                label = self.pick(known) if known and self.random.random() < 0.7 else next(letters, "")
                of_length.setdefault(extent, []).append(label)
                term += label
            terms.append(term)
        labels = list(dict.fromkeys("".join(terms)))
        if math.prod(next(n for n, known in of_length.items() if each in known) for each in labels) > LONGEST:
            return "", [None]
        output = "".join(each for each in self.random.permutation(labels) if self.random.random() < 0.6)
        names = ", ".join(f"@{k}" for k in range(count))
        return f"cr.einsum({','.join(terms) + '->' + output!r}, {names})", values

    def taken(self) -> Any:
        """Elements at positions: constants, or integers that were computed."""
        value = self.value("fiub", 1)
        if value is None:
            return "", [None]
        shape = self.values[value].shape
        axis = int(self.random.integers(len(shape)))
        extent, indices = shape[axis], self.value("iu")
        if not extent:
            return "", [None]
        if indices is not None and self.random.random() < 0.5:
            if self.values[value].size // extent * self.values[indices].size > LARGEST:
                return "", [None]  # not even to be tried: it might not fit into memory
            return f"cr.take(@0, cr.remainder(cr.astype(@1, 'int64'), {extent}), axis={axis})", [
                value,
                indices,
            ]
        chosen = self.random.integers(-extent, extent, self.pick(((2,), (3, 2), (), (5,), (0,))))
        listed = f"np.array({chosen.tolist()}, {self.pick(('np.int64', 'np.int32'))})"
        if self.random.random() < 0.3:
            return f"cr.sum(cr.one_hot(cr.argmax(@0, axis={axis}), {extent}, '{self.float}'), axis=0)", [
                value
            ]
        return f"cr.take(@0, {listed}, axis={axis})", [value]

    def scattered(self) -> Any:
        value = self.value("f", 1)
        if value is None or not self.values[value].shape[0]:
            return "", [None]
        rows = self.values[value].shape[0]
        chosen = self.random.integers(-4, 4, rows).tolist()
        zeros = f"cr.zeros((4, *@0.shape[1:]), dtype='{self.float}')"
        return f"cr.scatter_add({zeros}, np.array({chosen}), @0)", [value]

    def cast(self) -> Any:
        value = self.value(self.pick(("f", "iu", "b")))
        return f"@0.astype('{self.pick((self.float, self.float, 'int64', 'int32', 'bool'))}')", [value]

    def random_numbers(self) -> Any:
        shape, seed = tuple(self.extents[: self.pick((1, 2))]), int(self.random.integers(1000))
        name = self.pick(("uniform", "normal"))
        return f"cr.random.{name}(cr.random.key({seed}), {shape}, dtype='{self.float}')", []

    def convolved(self) -> Any:
        value = self.value("f", 3)
        if value is None or self.values[value].ndim > 3:
            return "", [None]
        channels = self.values[value].shape[1]
        weights = f"cr.random.normal(cr.random.key(7), (3, {channels}, 2), dtype='{self.float}')"
        options = f"stride={self.pick((1, 2))}, padding={self.pick((0, 1))}"
        return f"cr.nn.functional.conv1d(@0, {weights}, {options})", [value]

    # -- building
    def add_input(self) -> None:
        kind = self.random.random()
        dtype = (
            self.float if kind < 0.7 or not self.inputs else self.pick(INTEGERS) if kind < 0.88 else "bool"
        )
        shape = tuple(int(self.pick(self.extents)) for _ in range(self.pick((0, 1, 1, 2, 2, 2, 3))))
        style = (
            "wild" if self.wild and self.random.random() < 0.5 else self.pick(("normal", "normal", "coarse"))
        )
        each = Input(shape, dtype, style, int(self.random.integers(2**31)))
        self.inputs.append(each)
        self.values.append(each.array)

    def add_step(self) -> None:
        """One more line, if the one that is drawn runs."""
        text, operands = self.line()
        if None in operands:
            return
        step = Step(text, tuple(each for each in operands if each is not None))
        names: dict[str, Any] = {f"x{k}": cr.asarray(value) for k, value in enumerate(self.values)}
        names |= {"cr": cr, "np": np}
        try:
            exec(f"result = {_filled(step, lambda k: f'x{k}')}", names)
            value = names["result"].numpy()
        except (ChainruleError, ValueError, TypeError, AttributeError, IndexError, ZeroDivisionError):
            return
        floating = value.dtype.kind == "f"
        far = floating and not self.wild and bool(np.any(np.abs(value) > FAR))
        if value.size > LARGEST or far or (floating and value.dtype != self.float):
            return
        self.steps.append(step)
        self.values.append(value)


def random_program(seed: int) -> Program:
    """The program of a seed."""
    drawing = Drawing(seed)
    with np.errstate(all="ignore"):
        for _ in range(drawing.pick((1, 2, 2, 3, 3, 4))):
            drawing.add_input()
        wanted = int(drawing.random.integers(1, 16))
        for _ in range(4 * wanted):
            if len(drawing.steps) < wanted:
                drawing.add_step()
        return _transformed(drawing).alive()


def _transformed(drawing: Drawing) -> Program:
    """Some programs are asked for their derivatives: of first and second order, or forward."""
    first, count = len(drawing.inputs), len(drawing.values)
    outputs = [*range(max(first, count - drawing.pick((1, 1, 2, 3))), count)] or [0]
    program = Program(tuple(drawing.inputs), tuple(drawing.steps), tuple(outputs))
    floating = [k for k, each in enumerate(drawing.inputs) if each.dtype == drawing.float]
    kind = drawing.random.random()
    if kind > 0.65 or not floating:
        return program
    scalar = _as_scalar(drawing, program)
    if scalar is None:
        return program
    argnums = tuple(floating)
    wrapped = "cr.checkpoint(@)" if kind < 0.06 else "@"
    if kind < 0.1:
        squared = f"lambda *x: sum(cr.sum(cr.square(g)) for g in cr.grad(@, argnums={argnums})(*x))"
        return replace(scalar, transform=f"cr.grad({squared}, argnums={argnums})")
    return replace(scalar, transform=f"cr.value_and_grad({wrapped}, argnums={argnums})")


def _as_scalar(drawing: Drawing, program: Program) -> Program | None:
    """The program with one number as its result: a weighted sum of all floating values it returned."""
    terms = [k for k in program.outputs if drawing.values[k].dtype.kind == "f"]
    if not terms:
        return None
    weights = [round(float(drawing.random.uniform(0.2, 1.0)), 3) for _ in terms]
    text = " + ".join(
        f"{weight} * cr.{drawing.pick(('sum', 'mean'))}(@{k})" for k, weight in enumerate(weights)
    )
    last = len(program.inputs) + len(program.steps)
    return replace(program, steps=(*program.steps, Step(text, tuple(terms))), outputs=(last,))
