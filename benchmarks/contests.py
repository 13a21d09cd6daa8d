"""The contests: what each command of the race measures on one workload."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.machine import cores_worth
from benchmarks.measure import BLOCK_SECONDS, Entry, once, race
from benchmarks.peers import PEERS, WATCHED
from benchmarks.specs import FAMILIES, WORKLOADS

OURS = "chainrule"
TWO_CORES = 1.7
"""What two CPUs that are cores are worth at least; two hardware threads of one core are worth 1."""
Result = dict[str, Any]


def train(workload: str, options: Namespace, peers: list[str]) -> Result:
    """Training steps of every peer."""
    return {"timings": race({peer: Entry(peer, workload) for peer in peers}, options.rounds, options.seconds)}


def gradcost(workload: str, options: Namespace, peers: list[str]) -> Result:
    """One batch's loss, and its loss with every gradient."""
    entries = {f"{peer}: {mode}": Entry(peer, workload, mode) for peer in peers for mode in ("value", "grad")}
    return {"timings": race(entries, options.rounds, options.seconds)}


def firstuse(workload: str, options: Namespace, peers: list[str]) -> Result:
    """Seconds from before a process starts until its first epoch is trained; ours with a cold cache too."""
    runs: dict[str, list[Result]] = {}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as cold:
            runs.setdefault(f"{OURS}, cold cache", []).append(once(Entry(OURS, workload, cache=cold)))
        for peer in peers:
            runs.setdefault(peer, []).append(once(Entry(peer, workload)))
    return {"runs": {peer: each[1:] if peer in peers else each for peer, each in runs.items()}}


def compilation(workload: str, options: Namespace, peers: list[str]) -> Result:
    """Seconds until the first step is done, from nothing: trace, compile, run."""
    seconds: dict[str, list[float]] = {peer: [] for peer in peers}
    for _ in range(options.rounds):
        for peer in peers:
            with tempfile.TemporaryDirectory() as cold:
                process = Entry(peer, workload, cache=cold).start(seconds=1e-9)
                seconds[peer].append(process.answer(BLOCK_SECONDS).get("first_s", float("nan")))
                process.end()
    return {"first_step": seconds}


def memory(workload: str, options: Namespace, peers: list[str]) -> Result:
    """Peak memory of a process that trains one epoch."""
    return {"runs": {peer: [once(Entry(peer, workload))] for peer in peers}}


def threads(workload: str, options: Namespace, peers: list[str]) -> Result:
    """One thread and two, first alone on the machine, then beside a program that keeps one of the cores.

    A virtual machine's host may run its two CPUs as hardware threads of one core for seconds at a time. Then
    there is nothing to win, and nothing to learn of the code: alone, rounds count where there are two cores.
    """
    if len(options.cpus) < 2:
        raise SystemExit("the threads contest needs two CPUs; this process may use one (see taskset)")
    other, own = sorted(options.cpus)[:2]
    entries = {
        f"{peer}: {count}": Entry(peer, workload, threads=count, cpus=(own,) if count == 1 else (other, own))
        for peer in peers
        for count in (1, 2)
    }
    idle = race(entries, options.rounds, options.seconds, lambda: cores_worth((other, own)) > TWO_CORES)
    busy = subprocess.Popen(["taskset", "-c", str(other), sys.executable, "-c", "while True: pass"])
    try:
        return {"timings": idle, "beside": race(entries, options.rounds, options.seconds)}
    finally:
        busy.kill()
        busy.wait()


class Contest(NamedTuple):
    """What a command measures, on which workloads, and who takes part, unless told otherwise."""

    measure: Callable[[str, Namespace, list[str]], Result]
    workloads: tuple[str, ...]
    peers: tuple[str, ...]
    rounds: int = 5
    seconds: float = 0.3


CONTESTS = {
    "train": Contest(train, tuple(WORKLOADS), tuple(PEERS)),
    "scaling": Contest(
        train,
        tuple(f"{family}={size}" for family, sizes in FAMILIES.items() for size in sizes),
        (OURS, "PyTorch", "JAX, scan"),  # the fastest ways that do not compile for minutes
    ),
    "gradcost": Contest(gradcost, ("F", "G", "H"), (OURS, "PyTorch", "JAX")),
    "firstuse": Contest(firstuse, ("A",), (OURS, "PyTorch", "JAX", "scikit-learn")),
    "compilation": Contest(compilation, (*WORKLOADS, "depth=200"), (OURS, "JAX, scan")),
    "memory": Contest(
        memory, ("C", "D", "G", "H", "checkpointed=250", "checkpointed=1000"), (OURS, "PyTorch", "JAX")
    ),
    # Others' threads spin on after their blocks. A virtual machine's host may move its CPUs apart, from one
    # shared cache to two, for seconds at a time: as many rounds as last longer than that.
    "threads": Contest(threads, ("C", "D", "G", "H"), (OURS,), rounds=15),
    # Differences of a few hundredths: many short rounds, so that both of a pair meet the same moment.
    "telemetry": Contest(
        train, ("A", "C", "F"), (OURS, f"{OURS}, telemetry", "PyTorch", *WATCHED), rounds=25, seconds=0.15
    ),
}


def available_cpus() -> frozenset[int]:
    """The CPUs this process may use."""
    return frozenset(os.sched_getaffinity(0))
