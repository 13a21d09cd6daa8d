"""What the project promises of its speed and memory, and whether a measurement keeps it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import specs
from benchmarks.measure import Ratio, cost, median_us, of_library, ratio
from tools.verdict import Verdict

OURS = "chainrule"
SLACK = 0.9  # of a promised ratio, which the lower end of its interval must reach

# How many times longer the best way of each library takes for one training step.
TRAIN = {
    "A": {"PyTorch": 11.0, "JAX": 2.4},
    "B": {"PyTorch": 3.0, "JAX": 1.6},
    "C": {"PyTorch": 2.0, "JAX": 1.5},
    "D": {"PyTorch": 1.3, "JAX": 1.3},
    "E": {"PyTorch": 90.0, "JAX": 8.0},
    "F": {"PyTorch": 8.0, "JAX": 2.4},
    "G": {"PyTorch": 8.0, "JAX": 15.0},
    "H": {"PyTorch": 2.5, "JAX": 3.5},
}
SCALING_AHEAD, SCALING_LEAST = 0.9, 0.95
GRADIENT_COST = 3.3
FIRST_USE = {f"{OURS}, cold cache": 1.2, OURS: 0.5}
COMPILATION = dict.fromkeys("ABCDEF", 0.5) | {"G": 1.0, "H": 2.0, "depth=200": 2.0}
ROOT_GROWTH = 2.5  # for four times the depth: 2 if it grows with the root, 4 if with the depth
TWO_THREADS, BUSY_LOSS = 1.6, 1.15
TELEMETRY = {"A": 0.08, "C": 0.04, "F": 0.04}
LEAST_ROUNDS = 5  # of two threads and one, in which the machine had two cores

Results = Mapping[str, Mapping[str, Any]]


def train(results: Results) -> Iterator[Verdict]:
    """Ratios over the best PyTorch and the best JAX."""
    for workload, result in results.items():
        for library, least in TRAIN.get(workload, {}).items():
            timings = result["timings"]
            found = ratio(timings, OURS, of_library(timings, library))
            holds = found is not None and found.median >= least and found.low >= SLACK * least
            name = f"train-{workload}-{library.lower()}"
            yield Verdict(name, figure(found), f"{least:g}×, interval from {SLACK * least:.3g}×", holds)


def figure(found: Ratio | None) -> str:
    """A ratio with its interval in words."""
    if found is None:
        return "not measured"
    return f"{found.median:.2f}× ({found.low:.2f} to {found.high:.2f}) over {found.peer}"


def scaling(results: Results) -> Iterator[Verdict]:
    """Ahead of both libraries nearly everywhere, and nowhere far behind."""
    ratios = {}
    for workload, result in results.items():
        timings = result["timings"]
        found = [ratio(timings, OURS, of_library(timings, library)) for library in ("PyTorch", "JAX")]
        ratios[workload] = min(each.median if each else 0.0 for each in found)  # unmeasured is not kept
    if ratios:
        ahead = sum(each > 1 for each in ratios.values()) / len(ratios)
        worst = min(ratios, key=lambda name: ratios[name])
        figure = f"ahead at {ahead:.0%} of {len(ratios)} sizes, least {ratios[worst]:.2f}× at {worst}"
        limit = f"{SCALING_AHEAD:.0%}, nowhere below {SCALING_LEAST}×"
        holds = ahead >= SCALING_AHEAD and ratios[worst] >= SCALING_LEAST
        yield Verdict("scaling", figure, limit, holds)


def gradcost(results: Results) -> Iterator[Verdict]:
    """What the gradient costs beside the value; the share of the peak shows that the value is not slow."""
    for workload, result in results.items():
        value, both = (median_us(result["timings"].get(f"{OURS}: {mode}", {})) for mode in ("value", "grad"))
        peak = result["machine"]["gflops"] * 1e3
        forward, whole = specs.flops(specs.find(workload))
        shares = f"{forward / value / peak:.0%} and {whole / both / peak:.0%} of the FMA peak"
        times = both / value
        yield Verdict(
            f"gradcost-{workload}", f"{times:.2f}, {shares}", f"{GRADIENT_COST}", times <= GRADIENT_COST
        )


def firstuse(results: Results) -> Iterator[Verdict]:
    """From starting a process to a trained epoch of A."""
    for name, limit in FIRST_USE.items():
        runs = results.get("A", {}).get("runs", {}).get(name, [])
        seconds = [each.get("seconds", float("inf")) for each in runs]
        if seconds:
            middle = statistics.median(seconds)
            bar = "firstuse-cold" if name != OURS else "firstuse-warm"
            yield Verdict(bar, f"{middle:.2f} s, median of {len(seconds)}", f"{limit} s", middle <= limit)


def compilation(results: Results) -> Iterator[Verdict]:
    """From a model to its first step done, nothing cached."""
    for workload, result in results.items():
        seconds, limit = statistics.median(result["first_step"][OURS]), COMPILATION[workload]
        yield Verdict(f"compilation-{workload}", f"{seconds:.2f} s", f"{limit} s", seconds <= limit)


def memory(results: Results) -> Iterator[Verdict]:
    """Peaks beside PyTorch's, and growth with the depth where activations are recomputed."""
    grown = {}
    for workload, result in results.items():
        ours, theirs = (result["runs"].get(peer, [{}])[0] for peer in (OURS, "PyTorch"))
        if workload.startswith("checkpointed"):
            grown[workload] = ours.get("grown_mb", float("nan"))
            continue
        peak, limit = ours.get("peak_mb", float("inf")), theirs.get("peak_mb", float("nan"))
        yield Verdict(f"memory-{workload}", f"{peak:.0f} MB", f"PyTorch's {limit:.0f} MB", peak <= limit)
    if len(grown) == 2:
        shallow, deep = grown.values()
        words = f"{deep:.0f} MB beside {shallow:.0f} MB, {deep / shallow:.2f}× for 4× the layers"
        limit_words = f"{ROOT_GROWTH}×: the root of the depth"
        yield Verdict("memory-checkpoint", words, limit_words, deep / shallow <= ROOT_GROWTH)


def threads(results: Results) -> Iterator[Verdict]:
    """Two threads beside one: how much faster alone, how much slower when the other core is taken."""
    for workload, result in results.items():
        idle, beside = (
            {count: median_us(result[when].get(f"{OURS}: {count}", {})) for count in (1, 2)}
            for when in ("timings", "beside")
        )
        gain, loss = idle[1] / idle[2], beside[2] / beside[1]
        rounds = len(result["timings"].get(f"{OURS}: 2", {}).get("us", []))
        words = f"{gain:.2f}× in {rounds} rounds"
        kept = gain >= TWO_THREADS and rounds >= LEAST_ROUNDS
        limit = f"{TWO_THREADS}× in {LEAST_ROUNDS} or more"
        yield Verdict(f"threads-{workload}", words, limit, kept)
        yield Verdict(f"threads-{workload}-busy", f"{loss:.2f}× the time", f"{BUSY_LOSS}×", loss <= BUSY_LOSS)


def telemetry(results: Results) -> Iterator[Verdict]:
    """What a step takes longer because it tells of itself, as often as it does if nobody says how often."""
    for workload, result in results.items():
        took, most = cost(result["timings"], f"{OURS}, telemetry", OURS), TELEMETRY[workload]
        yield Verdict(f"telemetry-{workload}", f"{took:+.1%}", f"{most:.0%}", took <= most)


PROMISES = {
    "train": train,
    "scaling": scaling,
    "gradcost": gradcost,
    "firstuse": firstuse,
    "compilation": compilation,
    "memory": memory,
    "threads": threads,
    "telemetry": telemetry,
}
