"""One peer on one workload in a process of its own: `python -m benchmarks.worker '{"module": ...}'`.

It prints one line of JSON per answer. Asked for one epoch ("once"), it says when that ended and the peak of
its memory. Otherwise it warms up, says it is ready, and times one block of steps per line it reads.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import specs

TRIES = 3
CONTENDED = 1.06  # wall time over CPU time from which another program had the core


def main() -> None:
    """Do what the argument asks for."""
    asked = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print goes to standard error

    def answer(**facts: Any) -> None:
        answers.write(json.dumps(facts) + "\n")

    try:
        module = import_module(asked["module"])
        spec = specs.find(asked["workload"])
        X, y = specs.data(spec)
        before = memory()["VmRSS"]
        start = time.perf_counter()
        runner = module.make(spec, X, y, asked["variant"], asked["mode"])
    except (NotImplementedError, ImportError) as reason:
        answer(failed=str(reason) or "not supported")
        return
    whole = getattr(runner, "whole", 1)
    if asked["once"]:
        runner.run(-(-spec.steps_per_epoch // whole) * whole)
        answer(end=time.time(), before=before, peak=memory()["VmHWM"])
        return
    facts = warm_up(runner, whole, spec.chunk)
    answer(first_s=facts.pop("first_end") - start, **facts)
    steps = block_of(runner, whole, asked["seconds"])
    for _ in sys.stdin:
        answer(**timed(runner, steps, whole))


def warm_up(runner: Any, whole: int, chunk: int) -> dict[str, Any]:
    """The first step, and the loss after the first `chunk` steps, which peers with shared weights share."""
    loss = runner.run(whole)
    first_end = time.perf_counter()
    if chunk > whole:
        loss = runner.run((chunk - whole) // whole * whole)
    return {"first_end": first_end, "steps": max(chunk, whole), "loss": loss}


def block_of(runner: Any, whole: int, seconds: float) -> int:
    """How many steps take about so many seconds."""
    steps = whole
    while True:
        start = time.perf_counter()
        runner.run(steps)
        took = time.perf_counter() - start
        if took > seconds / 4:
            return max(1, round(steps * seconds / took / whole)) * whole
        steps *= max(2, min(10, int(seconds / 2 / took)))


def timed(runner: Any, steps: int, whole: int) -> dict[str, Any]:
    """Microseconds per step of one block, after an eighth of one that only fills the caches again.

    A single thread's wall time is its CPU time unless another program took the core: then the block is tried
    again, and at last billed its CPU time.
    """
    runner.run(max(1, steps // 8 // whole) * whole)
    tries = []
    for _ in range(TRIES):
        wall, cpu = time.perf_counter(), time.process_time()
        runner.run(steps)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        tries.append((wall / cpu, wall, cpu))
        if wall <= CONTENDED * cpu:
            break
    contention, wall, cpu = min(tries)
    contended = contention > CONTENDED
    return {"us": (cpu if contended else wall) / steps * 1e6, "contended": contended}


def memory() -> dict[str, int]:
    """What Linux says of this process' memory, in kilobytes: VmRSS now, VmHWM at the peak."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmRSS", "VmHWM"))}


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # libraries' threads need not wind down
