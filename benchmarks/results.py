"""What was measured, as JSON: in a folder that git ignores, and in benchmarks/results/ once published."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT

FOLDER = ROOT / ".bench"
PUBLISHED = ROOT / "benchmarks" / "results" / "race.json"
MEASURED = ("src/chainrule", "benchmarks/peers", "benchmarks/specs.py", "benchmarks/workloads.py")

Result = dict[str, Any]


def fingerprint() -> str:
    """Changes whenever what is measured changes: the library, the workloads or the peers."""
    digest = hashlib.sha256()
    for place in MEASURED:
        path = ROOT / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def save(command: str, name: str, result: Result) -> None:
    """Keep the result of one command on one workload."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{command}-{name}.json"
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps({"source": fingerprint(), **result}, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


def load(command: str, name: str, settings: Result) -> Result | None:
    """What was measured with these settings on exactly this source, or None."""
    try:
        found: Result = json.loads((FOLDER / f"{command}-{name}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    same = found["source"] == fingerprint() and found["settings"] == settings
    return found if same else None


def collect() -> dict[str, dict[str, Result]]:
    """Everything measured on exactly this source: command → workload → result."""
    found: dict[str, dict[str, Result]] = {}
    source = fingerprint()
    for path in sorted(FOLDER.glob("*.json"), key=_by_number):
        command, _, name = path.stem.partition("-")
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["source"] == source:
            found.setdefault(command, {})[name] = result
    return found


def _by_number(path: Path) -> list[tuple[str, int]]:
    """Sorts "width=64" before "width=256"."""
    return [(word, int(number or 0)) for word, number in re.findall(r"(\D+)(\d*)", path.stem)]


def publish() -> dict[str, dict[str, Result]]:
    """Commands measured anew replace those published before, whole; so no table mixes two sources."""
    published = read_published() | collect()
    PUBLISHED.parent.mkdir(exist_ok=True)
    PUBLISHED.write_text(json.dumps(published, indent=1) + "\n", encoding="utf-8")
    return published


def read_published(path: Path = PUBLISHED) -> dict[str, dict[str, Result]]:
    """What the documentation shows."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
