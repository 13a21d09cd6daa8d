"""What the verbs share: options that mean the same everywhere, how a run is named, how JSON is written."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from chainrule import run as storage
from chainrule.errors import RunError

Runs = Annotated[Path, typer.Option("--runs", help="The folder that holds the runs.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help='A run: its folder, its name, or "latest".')]
Json = Annotated[bool, typer.Option("--json", help="Write the result as JSON and nothing else.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Name every column and how it was treated.")]
DEFAULT_RUNS = Path("runs")


def find_run(name: str, runs: Path) -> Path:
    """The folder of a run that is given as a path, as a name within `runs`, or as "latest"."""
    if (Path(name) / "recipe.toml").exists():
        return Path(name)
    if (runs / name / "recipe.toml").exists():
        return runs / name
    known = [row["name"] for row in storage.listing(runs)]
    if name == "latest" and known:
        return runs / str(known[0])
    there = (
        f"{runs} holds {', '.join(known[:3])}{', …' if len(known) > 3 else ''}"
        if known
        else f"{runs} holds no run"
    )
    raise RunError(
        f"There is no run '{name}': {there}. chainrule runs lists them; --runs names another folder."
    )


def write_json(document: Mapping[str, Any] | list[Any]) -> None:
    """Write a document to standard output; numbers JSON does not know (NaN, infinity) become null."""
    sys.stdout.write(json.dumps(_finite(document), indent=1, ensure_ascii=False, default=str) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
