"""Random programs on a backend, held to the bounds that rounding leaves. `make fuzz`, or
`python -m tools.fuzz --seed N --count M --backend native --jobs 2`.

Every seed is one program (`programs`), every number it returns has to lie in its enclosure (`enclosures`);
so have the reference's, or the enclosures were wrong. What fails is made small and printed as a file that
runs by itself. Programs run in child processes: one that crashes or hangs is a fault like any other.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from chainrule import passes
from chainrule.backends.native.engine import Executable
from chainrule.backends.native.target import restricted
from chainrule.graph import Graph
from chainrule.program import BACKENDS
from chainrule.schedule.interpret import interpret
from chainrule.schedule.kernels import Unsupported
from chainrule.schedule.lower import schedule
from chainrule.verify import verify
from tools.enclosures import enclose
from tools.programs import Input, Program, random_program
from tools.verdict import Verdict

BLOCK = 64  # programs that a child runs before the next one takes over
PATIENCE = 120.0  # seconds after which a program hangs
NOWHERE = os.path.join(os.devnull, "cache")
"""For CHAINRULE_CACHE: no program comes twice, so compiled code is not kept."""
Backend = Callable[[Graph], Callable[[Sequence[Any]], Sequence[Any]]]


@dataclass(frozen=True)
class Outcome:
    """What one program gave.

    The fault ("" for none), how many numbers were compared, of how many of them nothing is known, and whether
    the backend left the program to the reference.
    """

    seed: int
    fault: str = ""
    numbers: int = 0
    unknown: int = 0
    left: bool = False


# -- backends ------------------------------------------------------------------------------------------------
def interpreter(graph: Graph) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """The schedule that the native backend would run, run by the interpreter of schedules."""
    lowered = schedule(verify(passes.simplify_for_kernels(graph)))
    return lambda values: interpret(lowered, values)


def in_place(graph: Graph) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """As a training step is lowered: outputs end in the memory of inputs of their type, in padded rows."""
    kernels = verify(passes.simplify_for_kernels(graph))
    free = dict(enumerate(kernels.inputs))
    state: dict[int, int] = {}
    for number, output in enumerate(kernels.outputs):
        like = next((k for k, each in free.items() if each.type == output.type), None)
        if like is not None:
            state[number] = like
            del free[like]
    lowered = schedule(kernels, owned=True, state=state)
    return lambda values: interpret(lowered, values)


def backend_called(name: str) -> Backend:
    """A backend of the engine; an interpreter of schedules; or native code of a special kind.

    "avx2" and "x86-64" are made for those targets; "guarded" has pages around every array, and a touch of
    them ends the process.
    """
    special: dict[str, Backend] = {
        "interpreter": interpreter,
        "in-place": in_place,
        "guarded": lambda graph: Executable(graph, guarded=True),
        "avx2": lambda graph: Executable(graph, restricted("avx2")),
        "x86-64": lambda graph: Executable(graph, restricted("x86-64")),
    }
    return special[name] if name in special else BACKENDS[name]


# -- one program ---------------------------------------------------------------------------------------------
def outcome_of(program: Program, backend: Backend, seed: int = 0) -> Outcome:
    """Run a program on a backend and compare."""
    graph, arrays = program.graph(), program.arrays
    enclosures = enclose(graph, arrays)
    with np.errstate(all="ignore"):
        reference = [np.asarray(each) for each in graph.evaluate(np, *arrays)]
    left = False
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            got = backend(graph)([each.copy() for each in arrays])
        except Unsupported:
            got, left = reference, True
    left = left or any("runs on the numpy backend" in str(each.message) for each in told)
    numbers = sum(each.size for each in reference)
    unknown = sum(int(np.count_nonzero(each.anything & ~each.certain)) for each in enclosures)
    fault = ""
    for who, values in (("the reference", reference), ("the backend", got)):
        for k, (value, enclosure, wanted) in enumerate(zip(values, enclosures, reference, strict=True)):
            fault = fault or _difference(f"output {k} of {who}", np.asarray(value), enclosure, wanted)
    return Outcome(seed, fault, numbers, unknown, left)


def _difference(what: str, value: Any, enclosure: Any, wanted: Any) -> str:
    if (value.shape, value.dtype) != (wanted.shape, wanted.dtype):
        return f"{what} is {value.dtype} {value.shape}, not {wanted.dtype} {wanted.shape}"
    refused = enclosure.refuses(value)
    if not refused.any():
        return ""
    at = tuple(int(each) for each in np.argwhere(refused)[0])
    bounds = f"[{enclosure.low[at]!r}, {enclosure.high[at]!r}]"
    count = f"{np.count_nonzero(refused)} of {value.size} do"
    return f"{what} at {at} is {value[at]!r}, outside of {bounds}; the reference has {wanted[at]!r} ({count})"


def tried(program: Program, backend: Backend, seed: int = 0) -> Outcome:
    """`outcome_of`, with an error as a fault."""
    try:
        return outcome_of(program, backend, seed)
    except Exception as error:
        return Outcome(seed, f"{type(error).__name__}: {error}")


# -- in a child process --------------------------------------------------------------------------------------
def in_child(work: Callable[[TextIO], None]) -> tuple[int, int]:
    """A forked process that does `work`, and the end of a pipe from which its lines can be read."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    status = 1
    try:
        os.close(reading)
        with os.fdopen(writing, "w") as file:
            work(file)
        status = 0
    finally:
        os._exit(status)


def _ended(pid: int) -> str:
    """How a child ended, in words; "" if well."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 0:
        return ""
    return (
        f"the process died of {signal.Signals(-code).name}" if code < 0 else f"the process left with {code}"
    )


def alone(program: Program, backend: Backend) -> str:
    """The fault of a program, which runs in a process of its own."""
    pid, reading = in_child(lambda file: json.dump(asdict(tried(program, backend)), file))
    with selectors.DefaultSelector() as selector, os.fdopen(reading) as file:
        selector.register(file, selectors.EVENT_READ)
        if not selector.select(PATIENCE):
            os.kill(pid, signal.SIGKILL)
        text = file.read()
    ended = _ended(pid)
    return ended or str(json.loads(text)["fault"])


@dataclass
class _Child:
    """A child that runs a block of seeds, one line at the beginning and one at the end of each."""

    pid: int
    file: TextIO
    seeds: deque[int]
    since: float = field(default_factory=time.monotonic)
    hung: bool = False


def _block(seeds: Sequence[int], backend: Backend) -> Callable[[TextIO], None]:
    def work(file: TextIO) -> None:
        for seed in seeds:
            print(seed, file=file, flush=True)
            print(json.dumps(asdict(tried(random_program(seed), backend, seed))), file=file, flush=True)

    return work


def outcomes(seeds: Sequence[int], backend: Backend, jobs: int = 1) -> Iterator[Outcome]:
    """What every seed gave, in the order in which they finish."""
    waiting = deque(deque(seeds[k : k + BLOCK]) for k in range(0, len(seeds), BLOCK))
    with selectors.DefaultSelector() as selector:
        running = 0
        while waiting or running:
            while waiting and running < jobs:
                block = waiting.popleft()
                pid, reading = in_child(_block(tuple(block), backend))
                file = os.fdopen(reading)
                selector.register(file, selectors.EVENT_READ, _Child(pid, file, block))
                running += 1
            for key, _ in selector.select(1.0):
                child = key.data
                line = child.file.readline()
                if line:
                    yield from _read(child, line)
                    continue
                selector.unregister(child.file)
                child.file.close()
                running -= 1
                yield from _closed(child, waiting)
            for key in selector.get_map().values():
                if time.monotonic() - key.data.since > PATIENCE and not key.data.hung:
                    key.data.hung = True
                    os.kill(key.data.pid, signal.SIGKILL)


def _read(child: _Child, line: str) -> Iterator[Outcome]:
    if line.startswith("{"):
        child.seeds.popleft()
        yield Outcome(**json.loads(line))
    child.since = time.monotonic()


def _closed(child: _Child, waiting: deque[deque[int]]) -> Iterator[Outcome]:
    """A child that ended before its block did: the seed it was at is a fault, the rest waits again."""
    ended = _ended(child.pid)
    if child.seeds:
        fault = f"no end within {PATIENCE:.0f} s" if child.hung else ended or "the process left early"
        yield Outcome(child.seeds.popleft(), fault)
    if child.seeds:
        waiting.appendleft(child.seeds)


# -- making it small -----------------------------------------------------------------------------------------
def kind(fault: str) -> str:
    """What stays the same while a program is made smaller."""
    return fault.partition(" at ")[0] if fault.startswith("output") else fault[:32]


def shrunk(program: Program, fails: Callable[[Program], bool]) -> Program:
    """A smaller program that still fails: fewer outputs and lines, no transform, values instead of lines."""
    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller(program):
            if fails(candidate):
                program, smaller = candidate, True
                break
    return program


def _smaller(program: Program) -> Iterator[Program]:
    if program.transform != "@":
        yield replace(program, transform="@").alive()
    if len(program.outputs) > 1:
        yield from (replace(program, outputs=(each,)).alive() for each in program.outputs)
    first = len(program.inputs)
    for number in reversed(range(len(program.steps))):
        value = first + number
        for operand in reversed(program.steps[number].operands):
            yield program.without(value, operand).alive()
        with suppress(Exception):
            given = _as_input(program, value)
            if given is not None:
                yield given.alive()


def _as_input(program: Program, value: int) -> Program | None:
    """The program with the value of a step given, where that is a small array."""
    prefix = replace(program, outputs=(value,), transform="@")
    with np.errstate(all="ignore"):
        (array,) = prefix.graph().evaluate(np, *program.arrays)
    if array.size > 256 or program.transform != "@":
        return None
    first = len(program.inputs)
    step = program.steps[value - first]
    if not step.operands:
        return None
    given = Input(array.shape, str(array.dtype), given=np.array(array))
    moved = [k if k < first else k + 1 for k in range(first + len(program.steps))]
    moved[value] = first
    steps = tuple(
        replace(each, operands=tuple(moved[k] for k in each.operands))
        for k, each in enumerate(program.steps, first)
        if k != value
    )
    numbers = {k: (moved[k] if moved[k] <= first or k < value else moved[k] - 1) for k in range(len(moved))}
    back = {moved[k]: numbers[k] for k in range(len(moved))}
    steps = tuple(replace(each, operands=tuple(back[k] for k in each.operands)) for each in steps)
    outputs = tuple(numbers[k] for k in program.outputs)
    return replace(program, inputs=(*program.inputs, given), steps=steps, outputs=outputs)


def report(outcome: Outcome, backend: Backend) -> str:
    """The fault, and the smallest program found that has it."""
    program, wanted = random_program(outcome.seed), kind(outcome.fault)
    if wanted and not outcome.fault.startswith("no end"):
        program = shrunk(program, lambda candidate: kind(alone(candidate, backend)) == wanted)
    fault = alone(program, backend) or outcome.fault
    return f"# seed {outcome.seed}: {fault}\n{program.script}\n"


# -- the command ---------------------------------------------------------------------------------------------
def main(arguments: list[str] | None = None) -> int:
    """Runs programs, prints what failed and the verdict; 1 if anything did."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the first program; drawn if not given")
    parser.add_argument("--count", type=int, default=1000, help="programs, with consecutive seeds")
    parser.add_argument(
        "--backend", default="native", help="native, avx2, x86-64, guarded, numpy, interpreter or in-place"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--show", type=int, default=5, help="faults to make small and print")
    parser.add_argument("--log", type=Path, help="a file for the summary")
    options = parser.parse_args(arguments)
    seed = int.from_bytes(os.urandom(4)) << 16 if options.seed is None else options.seed
    backend = backend_called(options.backend)
    os.environ["CHAINRULE_CACHE"] = NOWHERE
    print(f"{options.count} programs from seed {seed} on {options.backend}", flush=True)
    start, found = time.monotonic(), []
    for outcome in outcomes(range(seed, seed + options.count), backend, options.jobs):
        found.append(outcome)
        if outcome.fault:
            print(f"FAULT seed {outcome.seed}: {outcome.fault[:300]}", flush=True)
        if len(found) % 1000 == 0:
            print(f"{len(found)} programs in {time.monotonic() - start:.0f} s", flush=True)
    for outcome in _different(found)[: options.show]:
        print(report(outcome, backend), flush=True)
    summary = summarised(options.backend, seed, found, time.monotonic() - start)
    print(json.dumps(summary, indent=2))
    if options.log:
        options.log.parent.mkdir(parents=True, exist_ok=True)
        options.log.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    faults = len(summary["faults"])
    return Verdict("3-fuzz", f"{faults} faults in {len(found)} programs", "0 faults", not faults).announce()


def _different(found: Sequence[Outcome]) -> list[Outcome]:
    """Those that failed, each kind of fault once."""
    return list({kind(each.fault): each for each in found if each.fault}.values())


def summarised(backend: str, seed: int, found: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """The log's summary: what ran, how much of it could be compared, what failed."""
    numbers = sum(each.numbers for each in found)
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "backend": backend,
        "first seed": seed,
        "programs": len(found),
        "left to the reference": sum(each.left for each in found),
        "numbers compared": numbers,
        "of which anything is allowed": sum(each.unknown for each in found),
        "seconds": round(seconds),
        "kinds of faults": dict(Counter(kind(each.fault) for each in found if each.fault)),
        "faults": {str(each.seed): each.fault[:300] for each in found if each.fault},
    }


if __name__ == "__main__":
    sys.exit(main())
