"""Peers side by side: one process each, timed in turns, so that a slow moment hits them all."""

from __future__ import annotations

import json
import os
import random
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers import ALL, library

ROOT = Path(__file__).resolve().parent.parent
READY_SECONDS, BLOCK_SECONDS = 600.0, 120.0
RESAMPLES = 2000
Timings = dict[str, dict[str, Any]]


class Entry(NamedTuple):
    """One peer on one workload, with so many threads on these CPUs (None: wherever this process may run)."""

    peer: str
    workload: str
    mode: str = "train"
    threads: int = 1
    cpus: tuple[int, ...] | None = None
    cache: str = ""  # a folder for what it compiles; "" for the one all share

    def start(self, seconds: float = 0.0, once: bool = False) -> Process:
        """The peer in a process of its own."""
        peer = ALL[self.peer]
        asked = {
            "module": peer.module, "variant": peer.variant, "workload": self.workload, "mode": self.mode,
            "seconds": seconds, "once": once,
        }  # fmt: skip
        pinned = [] if self.cpus is None else ["taskset", "-c", ",".join(map(str, self.cpus))]
        return Process(
            [*pinned, sys.executable, "-m", "benchmarks.worker", json.dumps(asked)],
            environment(self.threads, self.cache or SCRATCH.name) | dict(peer.environment),
        )


class Process:
    """A worker and the lines exchanged with it."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._errors = Path(tempfile.mkdtemp(dir=SCRATCH.name)) / "errors"
        with self._errors.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def ask(self) -> None:
        """Ask for the next block."""
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()

    def answer(self, limit: float) -> dict[str, Any]:
        """The next answer, or {"failed": why there is none}; then the process has ended."""
        assert self._process.stdout is not None
        waiting = select.select([self._process.stdout], [], [], limit)[0]
        line = self._process.stdout.readline() if waiting else ""
        answer: dict[str, Any] = json.loads(line) if line else {"failed": f"no answer in {limit:.0f} s"}
        if "failed" in answer:
            self.end()
        if waiting and not line:
            said = self._errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            answer["failed"] = said[-1] if said else "its process died"
        return answer

    def end(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.wait()


SCRATCH = tempfile.TemporaryDirectory(prefix="chainrule-bench-")


def environment(threads: int, cache: str) -> dict[str, str]:
    """Threads for every library that asks the environment, and a cache folder apart from the user's."""
    counts = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CHAINRULE_THREADS", "CPU_COUNT"]
    return {name: str(threads) for name in counts} | {
        "PYTHONDONTWRITEBYTECODE": "",  # installed packages have their bytecode, and so shall this one
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()}",
        "JAX_PLATFORMS": "cpu",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
        "CACHEDB": f"{cache}/tinygrad.db",
        "KERAS_HOME": f"{cache}/keras",
        "XDG_CACHE_HOME": cache,
        "CHAINRULE_CACHE": f"{cache}/chainrule",
    }


def race(
    entries: Mapping[str, Entry], rounds: int, seconds: float, fit: Callable[[], bool] = lambda: True
) -> Timings:
    """What every entry took per step in every round; one that cannot take part says why.

    A round counts only if the machine is `fit` before and after every block of it; up to four times as many
    rounds are tried.
    """
    live: dict[str, Process] = {}
    found: Timings = {}
    try:
        for name, entry in entries.items():
            process = entry.start(seconds)
            found[name] = process.answer(READY_SECONDS)
            if "failed" not in found[name]:
                live[name] = process
                found[name] |= {"us": [], "contended": 0, "unfit": 0}
            state = found[name].get("failed", "ready")
            print(f"    {entry.workload} {name}: {state}", file=sys.stderr, flush=True)
        turns, counted = random.Random(0), 0
        for _ in range(4 * rounds):
            blocks, was_fit = {}, fit()
            for name in turns.sample(list(live), len(live)):
                live[name].ask()
                blocks[name] = live[name].answer(BLOCK_SECONDS)
                was_fit &= fit()
            counted += was_fit
            _note(blocks, was_fit, live, found)
            if counted == rounds:
                break
    finally:
        for process in live.values():
            process.end()
    return found


def _note(
    blocks: Mapping[str, dict[str, Any]], counts: bool, live: dict[str, Process], found: Timings
) -> None:
    """Add a round to what is found; who failed is out of the race."""
    for name, block in blocks.items():
        if "failed" in block:
            found[name] = block
            del live[name]
        elif counts:
            found[name]["us"].append(block["us"])
            found[name]["contended"] += block["contended"]
        else:
            found[name]["unfit"] += 1


def once(entry: Entry) -> dict[str, Any]:
    """One epoch in a fresh process: seconds from before it was started, and memory in MB."""
    start = time.time()
    process = entry.start(once=True)
    answer = process.answer(READY_SECONDS)
    process.end()
    if "failed" in answer:
        return answer
    return {
        "seconds": answer["end"] - start,
        "peak_mb": answer["peak"] / 1024,
        "grown_mb": (answer["peak"] - answer["before"]) / 1024,
    }


# -- figures -----------------------------------------------------------------------------------------------
class Ratio(NamedTuple):
    """How many times longer than ours the best of some peers takes, with a 95% interval."""

    median: float
    low: float
    high: float
    peer: str


def median_us(timing: Mapping[str, Any]) -> float:
    """Microseconds per step; infinite for a peer that did not take part."""
    return statistics.median(timing["us"]) if timing.get("us") else float("inf")


def cost(timings: Timings, name: str, without: str) -> float:
    """What one entry takes longer than another, as a share: the median over rounds of what it took in each.

    Of two that differ by a few hundredths, the moments of the machine in which both ran tell more than two
    medians over all moments. Infinite where one did not take part.
    """
    pairs = zip(*(timings.get(each, {}).get("us", []) for each in (name, without)), strict=False)
    return statistics.median([mine / plain for mine, plain in pairs] or [float("inf")]) - 1


def ratio(timings: Timings, ours: str, peers: Sequence[str]) -> Ratio | None:
    """The best of `peers` over `ours`, by medians; the interval by drawing whole rounds with replacement.

    A round is one moment of the machine, so all its figures are drawn together; the best peer is found anew
    in every draw. None where nobody is left to compare.
    """
    taking_part = [name for name in peers if timings.get(name, {}).get("us")]
    if not taking_part or not timings.get(ours, {}).get("us"):
        return None
    columns = {name: timings[name]["us"] for name in (ours, *taking_part)}
    rounds = min(len(column) for column in columns.values())
    draws = random.Random(0)

    def of(chosen: Sequence[int]) -> float:
        medians = {name: statistics.median(column[k] for k in chosen) for name, column in columns.items()}
        return min(medians[name] for name in taking_part) / medians[ours]

    spread = sorted(of(draws.choices(range(rounds), k=rounds)) for _ in range(RESAMPLES))
    best = min(taking_part, key=lambda name: median_us(timings[name]))
    return Ratio(of(range(rounds)), spread[int(0.025 * RESAMPLES)], spread[int(0.975 * RESAMPLES)], best)


def of_library(timings: Timings, name: str) -> list[str]:
    """The ways of using one library that were timed."""
    return [peer for peer in timings if library(peer) == name]
