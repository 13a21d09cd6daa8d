"""Tests the laws: breaks every record in every way that fits it, and demands that a law notices.

A mutant that computes the same function is listed in tests/mutants_equivalent.toml with the reason; an entry
that is no longer generated, or that a law does notice, is stale and fails the check.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from chainrule import laws
from chainrule.errors import LawError
from chainrule.laws.case import Record
from tools.architecture import ROOT
from tools.tampering import WALKS, Mutant, mutants_of
from tools.verdict import Verdict

EQUIVALENT = ROOT / "tests" / "mutants_equivalent.toml"
LAW = re.compile(r"breaks the law '(\w+)'")


def all_mutants(records: list[Record]) -> Iterator[Mutant]:
    """The faults of every record; a fault of the walk is tried on all of them until one notices."""
    for record in records:
        yield from mutants_of(record)


def caught_by(mutant: Mutant) -> str | None:
    """The name of the law that notices, or None."""
    try:
        laws.check(mutant.record, walk=mutant.walk)
    except LawError as error:
        found = LAW.search(str(error))
        return found.group(1) if found else "?"
    return None


def walk_caught_by(name: str, records: list[Record]) -> str | None:
    """The law that notices a broken walk on any record."""
    broken = WALKS[name]()
    return next(filter(None, (caught_by(Mutant(name, record, broken)) for record in records)), None)


def equivalents() -> dict[str, str]:
    """Mutants that are no faults → why."""
    listed = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["equivalent"]
    return {name: group["reason"] for group in listed for name in group["mutants"]}


def main(arguments: list[str] | None = None) -> int:
    """Runs every mutant, prints the table and the verdict; 1 when one survives or an entry is stale."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutants", description=__doc__)
    parser.add_argument(
        "--only", metavar="RECORD", action="append", default=[], help="this record alone; may be repeated"
    )
    only = parser.parse_args(arguments).only
    records = [each for each in laws.records() if not only or each.name in only]
    for record in records:
        laws.check(record)  # a fault can only be noticed where the laws hold without it
    fates: dict[str, str | None] = {}
    start = time.perf_counter()
    for mutant in all_mutants(records):
        fates[mutant.name] = caught_by(mutant)
    if not only:
        fates |= {f"walk: {name}": walk_caught_by(name, records) for name in WALKS}
    return report(fates, {} if only else equivalents(), time.perf_counter() - start)


def report(fates: dict[str, str | None], equivalent: dict[str, str], seconds: float) -> int:
    """The table of laws, the survivors, and the verdict."""
    survived = [name for name, law in fates.items() if law is None and name not in equivalent]
    stale = [name for name in equivalent if fates.get(name, "gone") is not None]
    table = Table("law", "mutants it was the first to notice")
    table.columns[1].justify = "right"
    for law, count in Counter(law for law in fates.values() if law).most_common():
        table.add_row(law, str(count))
    Console().print(table)
    for name in survived:
        print(f"SURVIVED  {name}")
    for name in stale:
        print(
            f"STALE     {name}: listed as equivalent, but {'noticed' if name in fates else 'not generated'}"
        )
    print(f"{len(fates)} mutants in {seconds:.0f} s")
    count = len(fates) - len(equivalent)
    share = 100 * (count - len(survived)) / count if count else 0.0
    shown = "100" if not survived and count else f"{min(share, 99.99):.2f}"
    figure = f"{shown}% of {count} mutants caught ({len(equivalent)} equivalent, listed)"
    return Verdict("2-mutants", figure, "100%", not survived and not stale and count > 0).announce()


if __name__ == "__main__":
    sys.exit(main())
