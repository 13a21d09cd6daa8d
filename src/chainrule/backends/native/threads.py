"""Teams of threads: who works, and for whom (see `sharing` for what they do)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock, Thread

import numpy as np

from chainrule.backends.native.arena import address, allocate
from chainrule.backends.native.build import Code
from chainrule.backends.native.cache import compiled
from chainrule.backends.native.emit import Function, Module
from chainrule.backends.native.sharing import BEGIN, END, SHARE, THREADS, runtime, team_bytes
from chainrule.backends.native.step import flushing_denormals
from chainrule.backends.native.target import host
from chainrule.backends.native.values import INDEX, POINTER
from chainrule.errors import ChainruleError
from chainrule.graph import Array
from chainrule.schedule.memory import Region

_MOST = 1024


def default_threads() -> int:
    """How many threads share a call: CHAINRULE_THREADS, else one."""
    text = os.environ.get("CHAINRULE_THREADS") or "1"
    if not text.isdecimal() or not 1 <= int(text) <= _MOST:
        raise ChainruleError(f"CHAINRULE_THREADS={text}: give a number of threads from 1 to {_MOST}")
    return int(text)


@contextmanager
def team(threads: int) -> Iterator[int]:
    """The address of a team's memory, for one call.

    There is one team with workers for each number of threads, and whoever comes first has it; who comes
    meanwhile gets a team without workers, which computes the same alone.
    """
    standing = _process.team(threads)
    if standing.free.acquire(blocking=False):
        try:
            yield standing.address
        finally:
            standing.free.release()
    else:
        memory = lone_team(threads)
        yield address(memory)


def lone_team(threads: int) -> Array:
    """The memory of a team in which the caller does everything."""
    memory = allocate(Region(team_bytes(threads)))
    memory[:] = 0
    fields = memory.view(np.int64)
    fields[THREADS // 8] = threads
    for place, name in ((SHARE, "share"), (BEGIN, "begin"), (END, "end")):
        fields[place // 8] = _code().address(name)
    return memory


class Team:
    """Workers that wait for shares of what a caller does. They end with the process."""

    def __init__(self, threads: int) -> None:
        self._memory = lone_team(threads)
        self.address = address(self._memory)
        self.free = Lock()
        work = _code().function("work_until_the_end", ctypes.c_void_p, ctypes.c_int64)
        for number in range(1, threads):
            name = f"chainrule worker {number}"
            Thread(target=work, args=(self.address, number), name=name, daemon=True).start()


@cache
def _code() -> Code:
    """The code of `sharing`, which is never unloaded: workers are in it until the process ends."""
    target = host()
    module = Module(target.triple)
    worker = Function(module, "work_until_the_end", [("team", POINTER), ("thread", INDEX)], internal=False)
    flushing_denormals(worker, target, lambda: worker.call("work_forever", "void", worker.arguments))
    worker.give_back()
    return Code(compiled(module.text() + runtime(target.triple), target), target)


class _Process:
    """The teams of this process."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """In a forked child: the workers did not come along, nor did whoever held a lock."""
        self._teams: dict[int, Team] = {}
        self._making = Lock()

    def team(self, threads: int) -> Team:
        with self._making:
            if threads not in self._teams:
                self._teams[threads] = Team(threads)
            return self._teams[threads]


_process = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.forget)
