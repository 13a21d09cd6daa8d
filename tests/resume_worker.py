"""Trains one run in a process of its own, so that `test_resume.py` can kill it.

python resume_worker.py start CSV RUNS
python resume_worker.py resume RUN
"""

from __future__ import annotations

import sys

from chainrule.recipe import Recipe
from chainrule.train import loop, table

loop.CHECKPOINT_SECONDS = 0.05  # many checkpoints, so that kills fall between, before and inside them
loop.SLICE_SECONDS = 0.01

RECIPE = {
    "data": {"target": "y"},
    "split": {"test": 0.1, "validation": 0.2},
    "network": {"hidden": [16, 16], "dropout": 0.2, "normalisation": "batch"},
    "optimizer": {"name": "adamw", "lr": 1e-3, "schedule": {"name": "one_cycle", "max_lr": 1e-2}},
    "training": {"epochs": 25, "batch_size": 32, "clip_norm": 1.0, "early_stopping": 30},
}


def main(arguments: list[str]) -> None:
    if arguments[0] == "start":
        recipe = Recipe.from_document(RECIPE).with_(data={"source": arguments[1]})
        table.fit_table(recipe, runs=arguments[2])
    else:
        table.resume(arguments[1])


if __name__ == "__main__":
    main(sys.argv[1:])
