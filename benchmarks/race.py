"""The race: chainrule beside PyTorch, JAX, Keras, scikit-learn, tinygrad and NumPy on the same work.

    python -m benchmarks.race train -w A C   training steps; all workloads A to H without -w
    python -m benchmarks.race scaling        the same as width, depth and batch grow
    python -m benchmarks.race gradcost       a gradient beside its value alone
    python -m benchmarks.race firstuse       from starting a process to a trained epoch
    python -m benchmarks.race compilation    from a model to its first step done
    python -m benchmarks.race memory         peak memory of a process that trains
    python -m benchmarks.race threads        two threads beside one, on an idle and on a busy machine
    python -m benchmarks.race telemetry      what it costs that steps tell of themselves
    python -m benchmarks.race all            all of these

Every peer has a process of its own, all on one core; in every round each runs one block of steps, in a new
order. Figures are medians over rounds, ratios those of medians in one run, with a 95% interval over rounds.
What was measured on exactly this source is not measured again, so a race that was stopped goes on (--again
starts over). Every promise ends as a line `BAR …: … PASS|FAIL`. With --write-docs the results are kept in
benchmarks/results/race.json and shown in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict

from benchmarks import machine, report, results
from benchmarks.contests import CONTESTS, available_cpus
from benchmarks.peers import ALL
from benchmarks.promises import PROMISES
from tools.verdict import Verdict


def run(command: str, options: argparse.Namespace) -> dict[str, results.Result]:
    """Measure what is not measured yet; workload → result."""
    contest = CONTESTS[command]
    peers = options.peers or list(contest.peers)
    rounds, seconds = options.rounds or contest.rounds, options.seconds or contest.seconds
    settings = {"rounds": rounds, "seconds": seconds, "peers": peers}
    found = {}
    for workload in options.workloads or contest.workloads:
        result = None if options.again else results.load(command, workload, settings)
        if result is None:
            print(f"  {command} {workload}", file=sys.stderr, flush=True)
            told = argparse.Namespace(**vars(options) | {"rounds": rounds, "seconds": seconds})
            measured = contest.measure(workload, told, peers)
            result = {"settings": settings, "machine": options.machine, **measured}
            results.save(command, workload, result)
        found[workload] = result
    return found


def judge(command: str, found: dict[str, results.Result]) -> list[Verdict]:
    """Print the table and the verdicts."""
    print(f"\n{report.TABLES[command](found)}\n")
    verdicts = list(PROMISES[command](found))
    for verdict in verdicts:
        print(verdict)
    return verdicts


def main() -> int:
    """Run what the command line asks for."""
    options = _parser().parse_args()
    options.cpus = available_cpus()
    commands = list(CONTESTS) if options.command == "all" else [options.command]
    os.sched_setaffinity(0, {max(options.cpus)})  # every process started from here stays there too
    options.machine = asdict(machine.measure())
    print(machine.Machine(**options.machine))
    verdicts = [each for command in commands for each in judge(command, run(command, options))]
    if options.write_docs:
        report.PAGE.write_text(report.page(results.publish()), encoding="utf-8")
    short = [verdict.bar for verdict in verdicts if not verdict.passed]
    figure = f"{len(verdicts) - len(short)} of {len(verdicts)} kept"
    figure += f", not {', '.join(short)}" if short else ""
    return Verdict(f"race-{options.command}", figure, "all", bool(verdicts) and not short).announce()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.race",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=[*CONTESTS, "all"])
    parser.add_argument("-w", dest="workloads", nargs="+", metavar="WORKLOAD", help="A to H, or width=256 …")
    parser.add_argument("-p", dest="peers", nargs="+", choices=ALL, metavar="PEER", help=", ".join(ALL))
    parser.add_argument("-r", dest="rounds", type=int, help="rounds (default 5; telemetry: 25, threads: 15)")
    parser.add_argument(
        "-t", dest="seconds", type=float, help="seconds in a block (default 0.3; telemetry: 0.15)"
    )
    parser.add_argument("--again", action="store_true", help="measure anew what was measured on this source")
    parser.add_argument("--write-docs", action="store_true", help="publish the results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
