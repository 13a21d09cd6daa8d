"""LLVM assembly as text: modules and functions, with loops, memory, arithmetic and vectors.

Text is several times quicker to make than objects are, and `show("llvm")` is what was written here.
Arithmetic on indices that are known happens in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from chainrule.backends.native.values import (
    INDEX,
    POINTER,
    Index,
    Value,
    constant,
    lanes_of,
    mangled,
    scalar_of,
    size_of,
    vector,
)


class Module:
    """Functions, declarations and constants that are compiled together."""

    def __init__(self, triple: str = "") -> None:
        self.triple = triple
        self.functions: dict[str, Function] = {}
        self._declarations: dict[str, str] = {}
        self._globals: dict[str, str] = {}
        self._names: list[str] = []

    def declare(self, name: str, result: str, arguments: Sequence[str]) -> None:
        """Make a function from elsewhere, such as an intrinsic, known."""
        self._declarations.setdefault(name, f"declare {result} @{name}({', '.join(arguments)})")

    def table(self, name: str, type_: str, entries: Iterable[str], align: int = 64) -> Value:
        """A read-only array of constants; the same name is the same table."""
        listed = [f"{type_} {entry}" for entry in entries]
        self._globals.setdefault(
            name,
            f"@{name} = internal constant [{len(listed)} x {type_}] [{', '.join(listed)}], align {align}",
        )
        return Value(f"@{name}", POINTER)

    def variable(self, name: str, type_: str, initial: str = "zeroinitializer") -> Value:
        """A number that all functions of the module see and may change."""
        self._globals.setdefault(name, f"@{name} = internal global {type_} {initial}")
        return Value(f"@{name}", POINTER)

    def named(self, name: str) -> Value:
        """A name as an argument of an intrinsic, such as that of a register of the processor."""
        if name not in self._names:
            self._names.append(name)
        return Value(f"!{self._names.index(name)}", "metadata")

    def text(self) -> str:
        """The whole module in LLVM's assembly language."""
        parts = [f'target triple = "{self.triple}"' if self.triple else "", *self._globals.values()]
        parts += [*(each.text() for each in self.functions.values()), *self._declarations.values()]
        parts += [f'!{number} = !{{!"{name}"}}' for number, name in enumerate(self._names)]
        return "\n".join(part for part in parts if part) + "\n"


class Function:
    """A function while it is written. `arguments` are (name, type) pairs; it returns nothing, or `result`.

    literally: LLVM translates it as it stands; long functions that only call others gain nothing from more.
    """

    def __init__(
        self, module: Module, name: str, arguments: Sequence[tuple[str, str]], *,
        result: str = "void", internal: bool = True, inline: bool = False, literally: bool = False,
    ) -> None:  # fmt: skip
        self.module, self.name, self.result = module, name, result
        self.arguments = [Value(f"%{each}", type_) for each, type_ in arguments]
        self._head = "define internal" if internal else "define"
        self._kind = "alwaysinline" if inline else "noinline optnone" if literally else "noinline"
        self._lines: list[str] = ["entry:"]
        self._entry: list[str] = []
        self._count = 0
        self._label = "entry"
        module.functions[name] = self

    # -- writing ---------------------------------------------------------------------------------------------
    def emit(self, type_: str, text: str) -> Value:
        """A line whose result has a name."""
        self._count += 1
        name = f"%v{self._count}"
        self._lines.append(f"  {name} = {text}")
        return Value(name, type_)

    def line(self, text: str) -> None:
        """A line without a result."""
        self._lines.append(f"  {text}")

    def allocate(self, type_: str, count: int = 1, align: int = 64) -> Value:
        """Memory on the stack, for the whole call."""
        self._count += 1
        name = f"%v{self._count}"
        self._entry.append(f"  {name} = alloca [{count} x {type_}], align {align}")
        return Value(name, POINTER)

    def text(self) -> str:
        """The function in LLVM's assembly language."""
        given = ", ".join(f"{type_} {name}" for name, type_ in self.arguments)
        head = f"{self._head} {self.result} @{self.name}({given}) nounwind {self._kind} {{"
        return "\n".join([head, self._lines[0], *self._entry, *self._lines[1:], "}\n"])

    # -- control ---------------------------------------------------------------------------------------------
    def label(self) -> str:
        """A new name for a block."""
        self._count += 1
        return f"b{self._count}"

    def start(self, label: str) -> None:
        """What follows belongs to the block `label`."""
        self._lines.append(f"{label}:")
        self._label = label

    def branch(self, label: str) -> None:
        self.line(f"br label %{label}")

    def branch_if(self, condition: Value, then: str, otherwise: str) -> None:
        self.line(f"br i1 {condition.text}, label %{then}, label %{otherwise}")

    def give_back(self, value: Value | None = None) -> None:
        """The return instruction."""
        self.line("ret void" if value is None else f"ret {value}")

    def loop(
        self, start: Index, stop: Index, step: int, carried: Sequence[Value],
        body: Callable[[Index, list[Value]], Sequence[Value] | None],
    ) -> list[Value]:  # fmt: skip
        """``for i in range(start, stop, step): carried = body(i, carried)``; returns what is carried at last.

        Runs not at all when start >= stop. A loop known to run once is written without a loop.
        """
        if isinstance(start, int) and isinstance(stop, int):
            if start >= stop:
                return list(carried)
            if start + step >= stop:
                return list(body(start, list(carried)) or [])
            return self._loop_at_least_once(start, stop, step, carried, body)
        before, enter, leave = self._label, self.label(), self.label()
        self.branch_if(self.compare("slt", self.index(start), self.index(stop)), enter, leave)
        self.start(enter)
        results = self._loop_at_least_once(start, stop, step, carried, body)
        last = self._label
        self.branch(leave)
        self.start(leave)
        return [
            self.emit(a.type, f"phi {a.type} [ {a.text}, %{before} ], [ {b.text}, %{last} ]")
            for a, b in zip(carried, results, strict=True)
        ]

    def _loop_at_least_once(
        self, start: Index, stop: Index, step: int, carried: Sequence[Value],
        body: Callable[[Index, list[Value]], Sequence[Value] | None],
    ) -> list[Value]:  # fmt: skip
        before, head, leave = self._label, self.label(), self.label()
        first, end = self.index(start), self.index(stop)
        self.branch(head)
        self.start(head)
        self._count += 1
        position = Value(f"%i{self._count}", INDEX)
        phis = []
        for each in carried:
            self._count += 1
            phis.append(Value(f"%c{self._count}", each.type))
        slot = len(self._lines)  # the phis need values that are not known yet
        new = list(body(position, list(phis)) or [])
        following = self.emit(INDEX, f"add nsw nuw i64 {position.text}, {step}")
        again = self.compare("slt", following, end)
        last = self._label
        self.branch_if(again, head, leave)
        lines = [f"  {position.text} = phi i64 [ {first.text}, %{before} ], [ {following.text}, %{last} ]"]
        lines += [
            f"  {phi.text} = phi {phi.type} [ {each.text}, %{before} ], [ {after.text}, %{last} ]"
            for phi, each, after in zip(phis, carried, new, strict=True)
        ]
        self._lines[slot:slot] = lines
        self.start(leave)
        return new

    def if_then(self, condition: Value, body: Callable[[], None]) -> None:
        """``if condition: body()``, for effects only."""
        then, leave = self.label(), self.label()
        self.branch_if(condition, then, leave)
        self.start(then)
        body()
        self.branch(leave)
        self.start(leave)

    # -- indices ---------------------------------------------------------------------------------------------
    def index(self, value: Index) -> Value:
        """An index as a value."""
        return constant(value, INDEX) if isinstance(value, int) else value

    def add(self, a: Index, b: Index) -> Index:
        """a + b for indices."""
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        if isinstance(b, int) and b == 0:
            return a
        if isinstance(a, int) and a == 0:
            return b
        return self.emit(INDEX, f"add nsw i64 {self.index(a).text}, {self.index(b).text}")

    def mul(self, a: Index, b: Index) -> Index:
        """a * b for indices."""
        if isinstance(a, int) and isinstance(b, int):
            return a * b
        for one, other in ((a, b), (b, a)):
            if isinstance(one, int) and one in (0, 1):
                return 0 if one == 0 else other
        return self.emit(INDEX, f"mul nsw i64 {self.index(a).text}, {self.index(b).text}")

    def smaller(self, a: Index, b: Index) -> Index:
        """min(a, b) for indices."""
        if isinstance(a, int) and isinstance(b, int):
            return min(a, b)
        return self.intrinsic("llvm.smin.i64", INDEX, [self.index(a), self.index(b)])

    def larger(self, a: Index, b: Index) -> Index:
        """max(a, b) for indices."""
        if isinstance(a, int) and isinstance(b, int):
            return max(a, b)
        return self.intrinsic("llvm.smax.i64", INDEX, [self.index(a), self.index(b)])

    def shifted_right(self, a: Index, bits: int) -> Index:
        """a // 2 ** bits for an index that is not negative."""
        return a >> bits if isinstance(a, int) else self.emit(INDEX, f"lshr i64 {a.text}, {bits}")

    def divide(self, a: Index, b: int) -> tuple[Index, Index]:
        """a // b and a % b for an index that is not negative; by a known number that is a multiplication."""
        if isinstance(a, int):
            return divmod(a, b)
        if b == 1:
            return a, 0
        quotient = self.emit(INDEX, f"udiv i64 {a.text}, {b}")
        return quotient, self.emit(INDEX, f"urem i64 {a.text}, {b}")

    # -- memory ----------------------------------------------------------------------------------------------
    def at(self, pointer: Value, offset: Index, type_: str) -> Value:
        """The address `offset` elements of a scalar type behind a pointer."""
        if isinstance(offset, int) and offset == 0:
            return pointer
        return self.emit(POINTER, f"getelementptr inbounds {type_}, {pointer}, i64 {self.index(offset).text}")

    def load(self, pointer: Value, type_: str, align: int | None = None) -> Value:
        """A value of a (vector) type from memory, aligned as its elements unless more is promised."""
        return self.emit(type_, f"load {type_}, {pointer}, align {align or size_of(scalar_of(type_))}")

    def store(self, value: Value, pointer: Value, align: int | None = None) -> None:
        self.line(f"store {value}, {pointer}, align {align or size_of(scalar_of(value.type))}")

    def load_masked(self, pointer: Value, type_: str, mask: Value) -> Value:
        """Lanes where the mask is set, 0 elsewhere; memory behind other lanes is not touched."""
        return self.intrinsic(
            f"llvm.masked.load.{mangled(type_)}.p0", type_,
            [pointer, constant(size_of(scalar_of(type_)), "i32"), mask, Value("zeroinitializer", type_)],
        )  # fmt: skip

    def store_masked(self, value: Value, pointer: Value, mask: Value) -> None:
        if scalar_of(value.type).startswith("i"):
            # LLVM 22 would merge a truncation of 8 x i64 with the store, and lose the mask on the way.
            value = self.emit(value.type, f"freeze {value}")
        alignment = constant(size_of(scalar_of(value.type)), "i32")
        self.intrinsic(
            f"llvm.masked.store.{mangled(value.type)}.p0", "void", [value, pointer, alignment, mask]
        )

    def prefetch(self, pointer: Value, write: bool = False, locality: int = 3) -> None:
        flags = [constant(int(write), "i32"), constant(locality, "i32"), constant(1, "i32")]
        self.intrinsic("llvm.prefetch.p0", "void", [pointer, *flags])

    # -- arithmetic ------------------------------------------------------------------------------------------
    def binary(self, operation: str, a: Value, b: Value, flags: str = "") -> Value:
        """``fadd``, ``fmul``, ``add``, ``and`` …"""
        return self.emit(a.type, f"{operation} {flags + ' ' if flags else ''}{a}, {b.text}")

    def compare(self, condition: str, a: Value, b: Value) -> Value:
        """``fcmp`` for conditions such as "olt", "une" on floats; ``icmp`` ("slt", "eq") on integers."""
        floating = scalar_of(a.type) in ("float", "double")
        kind = "fcmp" if floating else "icmp"
        return self.emit(vector("i1", lanes_of(a.type)), f"{kind} {condition} {a}, {b.text}")

    def opposite(self, condition: Value) -> Value:
        """True where the condition does not hold."""
        return self.binary("xor", condition, constant(True, condition.type))

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        return self.emit(a.type, f"select {condition}, {a}, {b}")

    def convert(self, operation: str, value: Value, type_: str) -> Value:
        """``sext``, ``fptrunc``, ``bitcast`` …"""
        return value if value.type == type_ else self.emit(type_, f"{operation} {value} to {type_}")

    def intrinsic(self, name: str, result: str, arguments: Sequence[Value]) -> Value:
        """A call of a declared function; intrinsics are declared on the way."""
        self.module.declare(name, result, [each.type for each in arguments])
        return self.call(name, result, arguments)

    def call(self, name: str, result: str, arguments: Sequence[Value], flags: str = "") -> Value:
        given = ", ".join(map(str, arguments))
        text = f"call {flags + ' ' if flags else ''}{result} @{name}({given})"
        if result == "void":
            self.line(text)
            return Value("", "void")
        return self.emit(result, text)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once where the processor can."""
        return self.intrinsic(f"llvm.fmuladd.{mangled(a.type)}", a.type, [a, b, c])

    # -- vectors ---------------------------------------------------------------------------------------------
    def splat(self, value: Value, lanes: int) -> Value:
        """A scalar repeated over all lanes."""
        if lanes == 1:
            return value
        type_ = vector(value.type, lanes)
        if not value.text.startswith("%"):
            return Value(f"splat ({value})", type_)
        first = self.emit(type_, f"insertelement {type_} poison, {value}, i64 0")
        return self.shuffle(first, Value("poison", type_), [0] * lanes)

    def widened(self, value: Value, lanes: int) -> Value:
        """A vector as it is, a scalar repeated over all lanes."""
        return value if value.type.startswith("<") else self.splat(value, lanes)

    def shuffle(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        """Lanes of a and b, numbered through."""
        type_ = vector(scalar_of(a.type), len(lanes))
        chosen = "zeroinitializer" if not any(lanes) else f"<{', '.join(f'i32 {each}' for each in lanes)}>"
        return self.emit(type_, f"shufflevector {a}, {b}, <{len(lanes)} x i32> {chosen}")

    def extract(self, value: Value, lane: int) -> Value:
        return self.emit(scalar_of(value.type), f"extractelement {value}, i64 {lane}")

    def insert(self, value: Value, element: Value, lane: int) -> Value:
        return self.emit(value.type, f"insertelement {value}, {element}, i64 {lane}")

    def lane_numbers(self, lanes: int, scalar: str = INDEX) -> Value:
        """0, 1, 2, …"""
        type_ = vector(scalar, lanes)
        return Value("0" if lanes == 1 else f"<{', '.join(f'{scalar} {k}' for k in range(lanes))}>", type_)

    def mask_below(self, count: Index, lanes: int) -> Value:
        """The lanes whose number is below `count`."""
        if isinstance(count, int):
            bits = ", ".join(f"i1 {'true' if k < count else 'false'}" for k in range(lanes))
            return Value(f"<{bits}>", vector("i1", lanes))
        return self.compare("slt", self.lane_numbers(lanes), self.splat(count, lanes))

    def reduce(self, combiner: str, value: Value, unsigned: bool = False) -> Value:
        """All lanes combined ("sum", "max", "min", "any", "all") into one scalar.

        Floating sums are combined pairwise, lower half with upper half.
        """
        lanes = lanes_of(value.type)
        if combiner in ("any", "all") and lanes > 1:
            bits = self.convert("bitcast", value, f"i{lanes}")
            found = ("ne", 0) if combiner == "any" else ("eq", -1)
            return self.compare(found[0], bits, constant(found[1], bits.type))
        if lanes == 1:
            return value
        while lanes > 2:
            lanes //= 2
            low = self.shuffle(value, Value("poison", value.type), range(lanes))
            high = self.shuffle(value, Value("poison", value.type), range(lanes, 2 * lanes))
            value = self.combine(combiner, low, high, unsigned)
        return self.combine(combiner, self.extract(value, 0), self.extract(value, 1), unsigned)

    def combine(self, combiner: str, a: Value, b: Value, unsigned: bool = False) -> Value:
        """Two (vectors of) numbers combined as a reduction does it; NaN wins in "max" and "min"."""
        floating = scalar_of(a.type) in ("float", "double")
        if combiner == "sum":
            return self.binary("fadd" if floating else "add", a, b)
        if combiner in ("any", "all"):
            return self.binary("or" if combiner == "any" else "and", a, b)
        if floating:  # one instruction, whose result is b where one of them is NaN
            chosen = self.select(self.compare("ogt" if combiner == "max" else "olt", a, b), a, b)
            return self.select(self.compare("uno", a, a), a, chosen)
        sign = "u" if unsigned else "s"
        return self.select(self.compare(f"{sign}gt" if combiner == "max" else f"{sign}lt", a, b), a, b)


class Emitted(NamedTuple):
    """What a kernel's function needs: how many units of work it has, and the bytes of scratch per thread."""

    units: int
    scratch: int = 0
