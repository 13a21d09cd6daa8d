"""Runs the bars: what the project promises, measured. `make bars`, or `python -m tools.bars`.

Each bar's result is kept in bars/results/ with the commit it was measured on, and its whole output beside it.
A bar that passed on this commit is not run again, so an interrupted run goes on where it stopped. With
uncommitted changes nothing counts as passed: no commit says what was measured.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tools import verdict
from tools.architecture import ROOT

BARS = ROOT / "bars" / "bars.toml"
RESULTS = ROOT / "bars" / "results"


@dataclass(frozen=True)
class Bar:
    """One promise and the command that measures it."""

    id: str
    issue: int
    title: str
    command: str
    minutes: float


@dataclass(frozen=True)
class Commit:
    """What the working tree holds: a commit, and whether anything differs from it."""

    hash: str
    dirty: bool


@dataclass(frozen=True)
class Result:
    """What one run of a bar gave, and on which commit."""

    id: str
    title: str
    issue: int
    command: str
    commit: str
    dirty: bool
    date: str
    seconds: float
    exit_code: int | None  # None: stopped at its time limit
    figure: str
    limit: str
    passed: bool


def load_bars(path: Path = BARS) -> list[Bar]:
    """The bars in their written order."""
    return [Bar(**row) for row in tomllib.loads(path.read_text(encoding="utf-8"))["bar"]]


def current_commit() -> Commit:
    """The checked-out commit; files that git ignores do not make it dirty."""
    return Commit(_git("rev-parse", "HEAD"), _git("status", "--porcelain") != "")


def load_result(bar: Bar, folder: Path = RESULTS) -> Result | None:
    """The bar's last result, or None where there is none this version can read."""
    try:
        return Result(**json.loads((folder / f"{bar.id}.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, TypeError, json.JSONDecodeError):
        return None


def holds(result: Result | None, commit: Commit) -> bool:
    """Whether a result says that the bar passed on exactly what is checked out."""
    return (
        result is not None
        and result.passed
        and not (result.dirty or commit.dirty)
        and result.commit == commit.hash
    )


def judge(bar: Bar, output: str, exit_code: int | None) -> verdict.Verdict:
    """The verdict of a finished command; without its line, or against its exit status, a bar falls short."""
    said = verdict.read(output)
    if exit_code is None:
        return verdict.Verdict(bar.id, "no verdict in time", f"{bar.minutes:g} min", False)
    if said is None:
        figure = f"exit status {exit_code} without a verdict, see bars/results/{bar.id}.log"
        return verdict.Verdict(bar.id, figure, "a BAR line", False)
    return verdict.Verdict(bar.id, said.figure, said.limit, said.passed and exit_code == 0)


def run_bar(bar: Bar, commit: Commit, folder: Path = RESULTS) -> Result:
    """Runs a bar's command and keeps its result and output."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{bar.id}.log"
    start = time.perf_counter()
    exit_code = _run(bar, log)
    seconds = time.perf_counter() - start
    said = judge(bar, log.read_text(encoding="utf-8", errors="replace"), exit_code)
    result = Result(
        id=bar.id,
        title=bar.title,
        issue=bar.issue,
        command=bar.command,
        commit=commit.hash,
        dirty=commit.dirty,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        exit_code=exit_code,
        figure=said.figure,
        limit=said.limit,
        passed=said.passed,
    )
    unfinished = folder / f"{bar.id}.json.part"
    unfinished.write_text(json.dumps(asdict(result), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(folder / f"{bar.id}.json")
    return result


def draw(bars: list[Bar], results: dict[str, Result | None], commit: Commit) -> Table:
    """The bars as a table; a result of another commit is shown with that commit and does not count."""
    state = "with uncommitted changes" if commit.dirty else "clean"
    table = Table(
        "", "bar", "what is promised, what was measured", title=f"Bars on {commit.hash[:10]}, {state}"
    )
    table.add_column("s", justify="right")
    table.title_justify = "left"
    for bar in bars:
        result = results[bar.id]
        if result is None:
            table.add_row("not run", bar.id, bar.title)
            continue
        word = "[green]pass[/]" if result.passed else "[red]falls short[/]"
        if result.commit != commit.hash:
            word = f"[dim]{word} on {result.commit[:7]}[/]"
        measured = f"{bar.title}\n[dim]{escape(result.figure)} (limit {escape(result.limit)})[/]"
        table.add_row(word, bar.id, measured, f"{result.seconds:.0f}")
    return table


def main(arguments: list[str] | None = None) -> int:
    """Runs what is left to run and prints the table; 0 only when every chosen bar passed on this commit."""
    options = _parser().parse_args(arguments)
    bars = [bar for bar in load_bars() if not options.only or bar.id in options.only]
    if unknown := set(options.only) - {bar.id for bar in bars}:
        print(f"No bar is called {', '.join(sorted(unknown))}; --list shows them all.", file=sys.stderr)
        return 2

    console, commit = Console(), current_commit()
    results = {bar.id: load_result(bar) for bar in bars}
    for bar in [] if options.list else bars:
        if options.again or not holds(results[bar.id], commit):
            console.print(f"[bold]{bar.id}[/]  {bar.command}", highlight=False)
            results[bar.id] = run_bar(bar, commit)
    console.print(draw(bars, results, commit))
    fresh = [result for result in results.values() if result and result.commit == commit.hash]
    return 0 if options.list or (len(fresh) == len(bars) and all(result.passed for result in fresh)) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bars", description="Measure what the project promises."
    )
    parser.add_argument(
        "--only", metavar="ID", action="append", default=[], help="this bar alone; may be repeated"
    )
    parser.add_argument("--again", action="store_true", help="also bars that passed on this commit")
    parser.add_argument(
        "--list", action="store_true", help="show the bars and their last results; run nothing"
    )
    return parser


def _run(bar: Bar, log: Path) -> int | None:
    """The command's exit status, or None when it had to be stopped; what it prints goes to the log."""
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            shlex.split(bar.command),
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(timeout=bar.minutes * 60)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:  # timed out or interrupted: stop its children too
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
