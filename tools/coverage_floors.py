"""Holds the line coverage the project promises: `make coverage` runs the tests and then this.

Two groups are held, each as a whole: floors 0 to 2 (facts, primitives, engine) and the optimizers. The least
covered files are named, so that a shortfall says where to look.
"""

import json
import sys
from dataclasses import dataclass
from typing import Any

from tools.architecture import PACKAGE, ROOT, floor_of, table
from tools.verdict import Verdict

REPORT = ROOT / ".coverage.json"
LIMIT = 95.0  # per cent of lines
HELD_FLOORS = 3  # counted from the bottom
SHOWN = 5


@dataclass(frozen=True)
class Coverage:
    """Lines that can run and lines that did, of one file or several."""

    name: str
    statements: int
    covered: int

    @property
    def percent(self) -> float:
        return 100.0 * self.covered / self.statements if self.statements else 100.0


def groups(report: dict[str, Any], floors: list[dict[str, Any]]) -> dict[str, list[Coverage]]:
    """The files of coverage's JSON report that are held, by group."""
    found: dict[str, list[Coverage]] = {"floors 0-2": [], "optim": []}
    for path, file in report["files"].items():
        module = path.replace("\\", "/").split("src/")[-1].removesuffix(".py").replace("/", ".")
        summary = file["summary"]
        row = Coverage(path, summary["num_statements"], summary["covered_lines"])
        height = floor_of(module, floors)
        if height is not None and height < HELD_FLOORS:
            found["floors 0-2"].append(row)
        elif f"{module}.".startswith(f"{PACKAGE}.optim."):
            found["optim"].append(row)
    return found


def total(name: str, files: list[Coverage]) -> Coverage:
    """The coverage of several files taken together."""
    return Coverage(name, sum(file.statements for file in files), sum(file.covered for file in files))


def main() -> int:
    """Prints a line per group and the verdict: a group under the limit, or without a line, falls short."""
    held = groups(json.loads(REPORT.read_text(encoding="utf-8")), table()["floor"])
    totals = [total(name, files) for name, files in held.items()]
    passed = all(group.statements > 0 and group.percent >= LIMIT for group in totals)
    for group in totals:
        print(f"coverage of {group.name}: {group.covered} of {group.statements} lines, {group.percent:.1f}%")
        for file in sorted(held[group.name], key=lambda file: file.percent)[:SHOWN]:
            if file.percent < LIMIT:
                print(f"  {file.percent:5.1f}%  {file.name}")
    figure = ", ".join(f"{group.name} {group.percent:.1f}%" for group in totals)
    return Verdict("coverage", figure, f"{LIMIT:g}%", passed).announce()


if __name__ == "__main__":
    sys.exit(main())
