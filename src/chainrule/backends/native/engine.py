"""Schedules and graphs as native code that runs.

A `Program` is a schedule compiled and loaded, with the memory it needs. Every call has an arena of its own,
so that several Python threads can be inside at once; the interpreter is free to run others meanwhile.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from threading import Lock
from typing import Any
from weakref import WeakSet

from chainrule import passes
from chainrule.backends import numpy as reference
from chainrule.backends.native import arena
from chainrule.backends.native.build import Code, assembly, collection_paused, compile_object
from chainrule.backends.native.cache import Cache, fingerprint
from chainrule.backends.native.calling import Frame, Input, Output, array_at, fresh
from chainrule.backends.native.emit import Emitted
from chainrule.backends.native.emitters import EMITTERS
from chainrule.backends.native.status import ACCESSOR, bounds_error, failure_number
from chainrule.backends.native.step import Emitter, Step, calls_text, distinct, emit_step, scratch_bytes
from chainrule.backends.native.target import Target, host
from chainrule.backends.native.threads import default_threads, team
from chainrule.backends.native.watching import UNWATCHED, Watch
from chainrule.errors import GraphError
from chainrule.graph import Array, Graph
from chainrule.origin import user_line
from chainrule.schedule import listing
from chainrule.schedule.kernels import Schedule, Special, Unsupported, View
from chainrule.schedule.lower import schedule as lowered
from chainrule.schedule.memory import ARENA, CONSTANTS, GIVEN, WATCH, Region, guarded_block, plan


class Program:
    """A schedule made ready to run: arrays for its inputs in, fresh read-only arrays for its outputs out.

    target    what the code is made for; this machine, if not given
    guarded   every array has pages of its own between pages that nobody may touch: an access out of bounds
              ends the process. For tests; also chosen by CHAINRULE_GUARDED=1
    threads   how many share the work; CHAINRULE_THREADS or one, if not given. The results are the same
    emitters  what writes the kernels' functions
    watch     what is done around every kernel; nothing, if not given
    """

    def __init__(
        self, schedule: Schedule, target: Target | None = None, *, guarded: bool | None = None,
        threads: int | None = None, emitters: Mapping[type, Emitter] = EMITTERS, watch: Watch = UNWATCHED,
    ) -> None:  # fmt: skip
        self.schedule = schedule
        self.watch = watch
        self.target = host() if target is None else target
        self.guarded = os.environ.get("CHAINRULE_GUARDED") == "1" if guarded is None else guarded
        self.threads = default_threads() if threads is None else threads
        self._emitters = emitters
        with collection_paused():
            self.plan = plan(schedule, self.guarded)
            self.functions = distinct(schedule)
            self.emitted, self.code, reports = self._built()
        scratch = self.threads * scratch_bytes(self.emitted)
        self._scratch = guarded_block(scratch) if self.guarded else Region(scratch)
        self._constants = self._filled_constants()
        self._run = self.code.function("run", ctypes.c_void_p)
        self._reported = self.code.function(ACCESSOR, result=ctypes.c_int32) if reports else None
        self._reporting = Lock()
        self._inputs = [Input(view, self.plan) for view in schedule.inputs]
        self._outputs = [Output(view, self.plan) for view in schedule.outputs]
        self._fresh = [
            (GIVEN + number, buffer)
            for number, buffer in enumerate(self.plan.given)
            if buffer.role == "output"
        ]
        self._frames: list[Frame] = []
        _programs.add(self)

    # -- making ----------------------------------------------------------------------------------------------
    def emit(self) -> Step:
        """The code as LLVM assembly, written anew."""
        return emit_step(
            self.schedule, self.functions, self.plan, self.target, self._emitters, self.threads, self.watch
        )

    def _built(self) -> tuple[tuple[Emitted, ...], Code, bool]:
        """What is kept on disk from an earlier time, or else is compiled now."""
        cache, key = Cache(), self._key()
        kept = cache.load(key)
        if kept is not None:
            emitted = tuple(Emitted(*each) for each in kept.facts["functions"])
            return emitted, Code(kept.content, self.target), kept.facts["reports"]
        made = self.emit()
        content = compile_object(made.module.text(), self.target)
        cache.store(key, {"functions": made.emitted, "reports": made.reports}, content)
        return made.emitted, Code(content, self.target), made.reports

    def _key(self) -> str:
        """The same for the same code: what is computed where, for which processor, and who writes it."""
        writers = [f"{each.__module__}.{each.__qualname__}" for each in self._emitters.values()]
        calls = calls_text(self.schedule, self.functions, self.plan, self.threads)
        watched = self.watch.told(self.schedule, self.plan)
        told = [fingerprint(), *writers, watched, str(self.target), calls]
        return sha256("\n".join(told).encode()).hexdigest()

    def _filled_constants(self) -> Array:
        memory = arena.allocate(self.plan.constants)
        for buffer, place in self.plan.places.items():
            if place.slot == CONSTANTS:
                whole = View(buffer, 0, buffer.shape, buffer.strides)
                array_at(memory, whole, place.offset)[...] = buffer.value
        return memory

    # -- running ---------------------------------------------------------------------------------------------
    def __call__(self, values: Sequence[Any]) -> list[Array]:
        if len(values) != len(self._inputs):
            raise GraphError(f"the graph has {len(self._inputs)} inputs but was given {len(values)} values")
        arrays = [each.checked(value) for each, value in zip(self._inputs, values, strict=True)]
        try:
            frame = self._frames.pop()  # atomic, so that threads need no lock
        except IndexError:
            frame = self._new_frame()
        try:
            return self._call(frame, arrays)
        finally:
            frame.release()
            self._frames.append(frame)

    def _new_frame(self) -> Frame:
        return Frame(self.plan, self._constants, self._scratch, self.watch.bytes(self.schedule))

    def _call(self, frame: Frame, arrays: Sequence[Array]) -> list[Array]:
        if self.guarded:
            arena.poison(frame.memory[ARENA], self.plan.arena)
        for each, array in zip(self._inputs, arrays, strict=True):
            each.hand_over(array, frame)
        for slot, buffer in self._fresh:
            frame.set(slot, fresh(buffer))
        with self.working(frame):
            self._run(frame.table)
        if self.guarded:
            arena.check_fronts(frame.memory[ARENA], self.plan.arena)
        return [each.taken(frame) for each in self._outputs]

    @contextmanager
    def working(self, frame: Frame) -> Iterator[None]:
        """Around every call of the code: a team helps with it, and what it reports is raised after it."""
        # The note that kernels leave is one per module, not one per call.
        with self._reporting if self._reported is not None else nullcontext():
            if self.threads == 1:
                yield
            else:
                with team(self.threads) as lent:
                    frame.lend(lent)
                    yield
            if self._reported is not None:
                self._raise_reported(self._reported())
        if self.watch is not UNWATCHED:
            self.watch.after(frame.memory[WATCH])

    def _raise_reported(self, failure: int) -> None:
        """The error for what `status` says; none for 0."""
        if failure:
            numbers = self.functions.numbers
            named = {number for number in numbers if failure_number(self.functions.name(number)) == failure}
            found = zip(self.schedule.innermost, numbers, strict=True)
            raise bounds_error([k for k, n in found if n in named and isinstance(k, Special)])

    # -- showing ---------------------------------------------------------------------------------------------
    def show(self, what: str) -> str:
        """As text: "kernels" (a table), "nests" (their loops), "memory" (where arrays lie), "llvm", "asm".

        "llvm NAME" and "asm NAME" are one function of these.
        """
        kind, _, name = what.partition(" ")
        numbers, named = self.functions.numbers, self.functions.name
        match kind:
            case "kernels":
                return listing.table(self.schedule, numbers, named)
            case "nests":
                return listing.nests(self.schedule, numbers, named)
            case "memory":
                return listing.memory(self.schedule, self.plan)
            case "llvm" | "asm":
                module = self.emit().module
                if name and name not in module.functions:
                    raise ValueError(
                        f"there is no function {name!r}: choose one of {', '.join(module.functions)}"
                    )
                if kind == "llvm":
                    return module.functions[name].text() if name else module.text()
                return assembly(module.text(), self.target, name)
        raise ValueError(
            "the native backend can show only 'graph', 'passes', 'simplified', 'kernels', 'nests', 'memory', "
            f"'llvm' and 'asm', not {what!r}"
        )


_programs: WeakSet[Program] = WeakSet()


def _open_locks() -> None:
    """In a forked child: whoever held a lock did not come along."""
    for program in _programs:
        program._reporting = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_locks)


class Executable:
    """A graph made ready to run as native code; the interface is that of the reference backend's.

    Raises `Unsupported` for a graph that holds something for which there is no kernel.
    """

    def __init__(
        self, graph: Graph, target: Target | None = None, *, guarded: bool | None = None,
        threads: int | None = None, watch: Watch = UNWATCHED,
    ) -> None:  # fmt: skip
        self.traced = graph
        with collection_paused():
            self.graph = passes.simplify_for_kernels(graph)
            self.program = Program(lowered(self.graph), target, guarded=guarded, threads=threads, watch=watch)

    def __call__(self, values: Sequence[Any]) -> list[Array]:
        return self.program(values)

    def run(self, values: Sequence[Any]) -> list[Array]:
        """The call itself, which asks nothing of NumPy."""
        return self.program(values)

    def show(self, what: str) -> str:
        """What `Program.show` shows, and "simplified" (the graph after the passes) or "passes"."""
        match what:
            case "simplified":
                return str(self.graph)
            case "passes":
                return passes.report(self.traced, passes.FOR_KERNELS)
        return self.program.show(what)


def compile_graph(
    graph: Graph, make: Callable[[Graph], Executable] = Executable,
    fallback: Callable[[Graph], reference.Executable] = reference.compile_graph,
) -> Executable | reference.Executable:  # fmt: skip
    """A function from the values of the graph's inputs to those of its outputs.

    What has no kernel yet runs on the reference backend, and says so: the values are the same, only later.
    """
    try:
        return make(graph)
    except Unsupported as reason:
        file, line = user_line()
        told = f"{reason}; the whole program runs on the numpy backend instead"
        warnings.warn_explicit(told, UserWarning, file or "<unknown>", line)
        return fallback(graph)
