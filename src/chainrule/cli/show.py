"""`chainrule show`: a run, as far as it has come."""

from __future__ import annotations

from chainrule.cli.options import DEFAULT_RUNS, Json, RunName, Runs, Verbose, find_run, write_json
from chainrule.show.facts import of_folder
from chainrule.show.terminal import Screen, console


def show(run: RunName, runs: Runs = DEFAULT_RUNS, verbose: Verbose = False, json: Json = False) -> None:
    """Show a run: its recipe, its columns, its network, and its result beside the baselines."""
    facts = of_folder(find_run(run, runs))
    if json:
        write_json(facts.document())
    else:
        Screen(console(), verbose).shown(facts)
