"""`chainrule report`: what a run came to, as one HTML file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from chainrule.cli.options import DEFAULT_RUNS, Json, RunName, Runs, find_run, write_json
from chainrule.show import write_report


def report(
    run: RunName,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to; report.html in the run if not given.")
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    json: Json = False,
) -> None:
    """Write a run's report: one HTML file that opens offline and holds no row of the table."""
    folder = find_run(run, runs)
    file = output if output is not None else folder / "report.html"
    written = write_report(folder, file)
    if json:
        write_json({"run": str(folder), "report": str(written)})
    else:
        sys.stdout.write(f"{written}\n")
