"""The results as Markdown: the tables a command prints, and the page of the documentation."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import promises, specs
from benchmarks.machine import Machine
from benchmarks.measure import ROOT, Timings, cost, median_us, of_library, ratio
from benchmarks.peers import library

PAGE = ROOT / "docs" / "benchmarks.md"
OURS = promises.OURS
Results = Mapping[str, Mapping[str, Any]]

INTRODUCTION = """\
# Benchmarks

How fast chainrule trains beside other libraries on the same core. This page is written by
`python -m benchmarks.race all --write-docs` from `benchmarks/results/race.json`; `make bench` measures anew.

A training step is: a shuffled minibatch out of memory, forward, loss, backward, Adam; float32 everywhere.
Every library runs in a process of its own on one core; in every round each runs one block of steps, in a new
order. Figures are medians over rounds, ratios are those of medians in one run, the best way to use a library
against ours, with a 95% interval over rounds. On A to F PyTorch, JAX, NumPy and chainrule start from the same
weights and see the same batches: their losses agree, and the table shows them.

"chainrule, telemetry" notes norms of gradients at every step, facts about activations, errors, weights,
gradients and updates as often as costs about a 40th of the time by a count of operations (one step of 8 on A
and F, of 4 on C and G, of 2 on B, D and H), and histograms at every 1,024th; ratios over other libraries are
of chainrule without. PyTorch's hooks note the same facts at every 16th step, or at every one.

Two threads are timed where there are two cores: the host of a virtual machine may run two CPUs as hardware
threads of one core for seconds at a time. So rounds are left out, and others timed instead, if multiply-adds
on both CPUs before and after each block come to less than 1.7 times those of one.

"Share of the peak" is the arithmetic of the products alone, divided by time and by the machine's peak: a loop
of nothing but independent fused multiply-adds. Everything else a step does counts as nothing. "Share asked"
is the one at which the promised ratio would be reached: at 100% nothing but the products may take any time.
"""


def page(published: Mapping[str, Results]) -> str:
    """docs/benchmarks.md."""
    parts = [INTRODUCTION]
    for command, table in TABLES.items():
        found = published.get(command)
        if found:
            verdicts = [
                f"- {'kept' if v.passed else '**falls short**'}: {v.bar}, {v.figure}; promised: {v.limit}"
                for v in promises.PROMISES[command](found)
            ]
            machine = Machine(**next(iter(found.values()))["machine"])
            parts.append(
                f"## {TITLES[command]}\n\nMeasured on {machine}.\n\n{table(found)}\n\n"
                + "\n".join(verdicts)
                + "\n"
            )
    return "\n".join(parts)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table; the first column to the left, figures to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def microseconds(timing: Mapping[str, Any]) -> str:
    """The median of a peer, or a dash."""
    us = median_us(timing)
    return "–" if us == float("inf") else f"{us:,.{2 if us < 10 else 1 if us < 1000 else 0}f}"


def train(results: Results) -> str:
    """Ratios per workload, then every peer's time per step."""
    summary = [[workload, *_summary(workload, result)] for workload, result in results.items()]
    columns = ["", "network", "µs per step", "share of the peak", "best PyTorch ÷ ours", "best JAX ÷ ours"]
    columns += ["with telemetry ÷ without", "share asked over PyTorch", "over JAX"]
    return "\n\n".join([markdown(columns, summary), _every_peer(results)])


def _summary(workload: str, result: Mapping[str, Any]) -> list[str]:
    spec, timings = specs.find(workload), result["timings"]
    floor_us = specs.flops(spec)[1] / 1e3 / result["machine"]["gflops"]
    share = floor_us / median_us(timings.get(OURS, {}))
    others = {library: of_library(timings, library) for library in ("PyTorch", "JAX")}
    ratios = [_ratio(timings, peers) for peers in (*others.values(), [f"{OURS}, telemetry"])]
    asked = [_asked(workload, library, timings, peers, floor_us) for library, peers in others.items()]
    return [spec.title, microseconds(timings.get(OURS, {})), f"{share:.0%}", *ratios, *asked]


def _asked(workload: str, library: str, timings: Timings, peers: list[str], floor_us: float) -> str:
    """The share of the peak at which the promised ratio over a library would be reached."""
    best = min((median_us(timings[peer]) for peer in peers), default=float("inf"))
    least = promises.TRAIN.get(workload, {}).get(library)
    return "–" if least is None or best == float("inf") else f"{floor_us * least / best:.0%}"


def _ratio(timings: Timings, peers: list[str]) -> str:
    found = ratio(timings, OURS, peers)
    return "–" if found is None else f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})"


def _every_peer(results: Results) -> str:
    peers = list(dict.fromkeys(peer for result in results.values() for peer in result["timings"]))
    times = [
        [peer, *(microseconds(result["timings"].get(peer, {})) for result in results.values())]
        for peer in peers
    ]
    losses = [
        [peer, *(_loss(result["timings"].get(peer, {})) for result in results.values())] for peer in peers
    ]
    steps = [f"{workload} ({specs.find(workload).chunk})" for workload in results]
    return (
        markdown(["µs per step", *results], times)
        + "\n\nThe loss after so many steps. scikit-learn, Keras and tinygrad start from their own weights, "
        "as all do on\nG and H; Keras and scikit-learn tell an epoch's mean.\n\n"
        + markdown(["loss", *steps], losses)
    )


def _loss(timing: Mapping[str, Any]) -> str:
    return f"{timing['loss']:.5g}" if timing.get("us") else "–"


def scaling(results: Results) -> str:
    """Time per step at every size, and the ratio over the best peer."""
    peers = list(dict.fromkeys(peer for result in results.values() for peer in result["timings"]))
    rows = []
    for workload, result in results.items():
        timings = result["timings"]
        found = ratio(timings, OURS, [*of_library(timings, "PyTorch"), *of_library(timings, "JAX")])
        best = "–" if found is None else f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})"
        rows.append([workload, *(microseconds(timings.get(peer, {})) for peer in peers), best])
    return markdown(["µs per step", *peers, "best ÷ ours"], rows)


def gradcost(results: Results) -> str:
    """The value, the value with its gradient, their ratio and shares of the peak."""
    rows = []
    for workload, result in results.items():
        peak = result["machine"]["gflops"] * 1e3
        forward, whole = specs.flops(specs.find(workload))
        for peer in dict.fromkeys(name.partition(": ")[0] for name in result["timings"]):
            value, both = (result["timings"].get(f"{peer}: {mode}", {}) for mode in ("value", "grad"))
            v, b = median_us(value), median_us(both)
            shares = f"{forward / v / peak:.0%}", f"{whole / b / peak:.0%}"
            rows.append(
                [f"{workload} {peer}", microseconds(value), microseconds(both), f"{b / v:.2f}", *shares]
            )
    return markdown(
        ["", "value, µs", "value and gradient, µs", "ratio", "share of the peak", "share with gradient"], rows
    )


def firstuse(results: Results) -> str:
    """Seconds from starting a process to a trained epoch."""
    rows = [
        [f"{workload} {peer}", *_seconds([each.get("seconds", float("nan")) for each in runs])]
        for workload, result in results.items()
        for peer, runs in result["runs"].items()
        if runs
    ]
    return markdown(["from process start to a trained epoch", "median, s", "from", "to"], rows)


def compilation(results: Results) -> str:
    """Seconds from a model to its first step done."""
    rows = [
        [f"{workload} {peer}", *_seconds(seconds)]
        for workload, result in results.items()
        for peer, seconds in result["first_step"].items()
    ]
    return markdown(["from a model to its first step done", "median, s", "from", "to"], rows)


def _seconds(seconds: list[float]) -> list[str]:
    return [f"{each:.2f}" for each in (statistics.median(seconds), min(seconds), max(seconds))]


def memory(results: Results) -> str:
    """Peak memory of the process, and how far training raised it over libraries and data."""
    rows = [
        [f"{workload} {peer}", *(f"{runs[0].get(key, float('nan')):,.0f}" for key in ("peak_mb", "grown_mb"))]
        for workload, result in results.items()
        for peer, runs in result["runs"].items()
    ]
    return markdown(["", "peak, MB", "over libraries and data, MB"], rows)


def threads(results: Results) -> str:
    """One thread and two, alone and beside a busy core."""
    rows = []
    for workload, result in results.items():
        for peer in dict.fromkeys(name.partition(": ")[0] for name in result["timings"]):
            pairs = [[result[when].get(f"{peer}: {n}", {}) for n in (1, 2)] for when in ("timings", "beside")]
            gains = [f"{median_us(one) / median_us(two):.2f}" for one, two in pairs]
            cells = [microseconds(each) for pair in pairs for each in pair]
            left_out = str(pairs[0][1].get("unfit", "–"))
            rows.append([f"{workload} {peer}", *cells[:2], gains[0], left_out, *cells[2:], gains[1]])
    header = [
        "µs per step",
        "1 thread",
        "2 threads",
        "gain",
        "rounds left out",
        "1, other core busy",
        "2, other core busy",
        "gain",
    ]
    return markdown(header, rows)


def telemetry(results: Results) -> str:
    """Time per step of who tells of itself, over that of the same library without."""
    peers = list(dict.fromkeys(peer for result in results.values() for peer in result["timings"]))
    rows = []
    for peer in peers:
        cells = []
        for result in results.values():
            timings = result["timings"]
            took = cost(timings, peer, library(peer))
            more = "–" if peer == library(peer) or took == float("inf") else f"{took:+.1%}"
            cells += [microseconds(timings.get(peer, {})), more]
        rows.append([peer, *cells])
    header = [cell for workload in results for cell in (f"{workload}, µs per step", "more")]
    return markdown(["", *header], rows)


TABLES: dict[str, Callable[[Results], str]] = {
    "train": train,
    "scaling": scaling,
    "gradcost": gradcost,
    "firstuse": firstuse,
    "compilation": compilation,
    "memory": memory,
    "threads": threads,
    "telemetry": telemetry,
}
TITLES = {
    "train": "Training steps",
    "scaling": "As networks and batches grow",
    "gradcost": "What a gradient costs",
    "firstuse": "First use",
    "compilation": "Compilation",
    "memory": "Memory",
    "threads": "Threads",
    "telemetry": "Telemetry",
}
