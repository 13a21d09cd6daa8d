"""`chainrule runs`: the runs there are."""

from __future__ import annotations

from chainrule import run as storage
from chainrule.cli.options import DEFAULT_RUNS, Json, Runs, write_json
from chainrule.show.terminal import Screen, console


def runs(runs: Runs = DEFAULT_RUNS, json: Json = False) -> None:
    """List the runs, newest first, with their state and result."""
    listing = storage.listing(runs)
    if json:
        write_json(listing)
    else:
        Screen(console()).runs(listing, runs)
