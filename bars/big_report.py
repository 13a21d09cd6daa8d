"""Bar: the report of a run of 200 layers and 10,000 steps is small, and opens clean without a network.

The run is trained for real, with telemetry, and replayed for its report. Chromium opens the file offline, in
light and in dark, wide and narrow: it may ask for nothing and complain of nothing, nor may axe-core.
"""

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np

import chainrule as cr
from tools.browser import Visit, chromium, visit
from tools.verdict import Verdict

LAYERS, WIDTH, STEPS = 200, 16, 10_000
ROWS, BATCH = 1280, 64
LARGEST = 1_500_000


def deep_run() -> cr.Run:
    """A network of 200 layers after 10,000 steps."""
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(ROWS, 8)).astype(np.float32)
    targets = np.tanh(inputs[:, :1] * inputs[:, 1:2]) + inputs[:, 2:3]
    widths = [8, *[WIDTH] * (LAYERS - 1)]
    with cr.random.stream(cr.random.key(0)):
        hidden = [each for into, out in pairwise(widths) for each in (cr.nn.Linear(into, out), cr.nn.Tanh())]
        model = cr.nn.Sequential(*hidden, cr.nn.Linear(WIDTH, 1))
    epochs = STEPS * BATCH // ROWS
    return cr.fit(model, (inputs, targets), epochs=epochs, batch_size=BATCH, validation=None, telemetry=True)


def _visits(page: Path, executable: str, kept: Path | None) -> list[Visit]:
    """In light and in dark, each in a browser of its own: on a page this long, axe takes a minute."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda scheme: visit(page, executable, scheme, kept), ("light", "dark")))


def main() -> int:
    """Trains, reports, visits, and prints the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="a folder for the report and photographs of it")
    kept = parser.parse_args().keep
    executable = chromium()
    run = deep_run()
    steps = run.past.steps if run.past is not None else 0
    with tempfile.TemporaryDirectory(prefix="chainrule-report-") as folder:
        page = run.report((kept or Path(folder)) / "big.html")
        size = page.stat().st_size
        visits = _visits(page, executable, kept) if executable else []
    for found in visits:
        if not found.clean:
            print(found)
    clean = bool(visits) and all(found.clean for found in visits)
    seen = (
        "opens clean"
        if clean
        else "does not open clean"
        if visits
        else "not opened: no Chromium or extra `browser`"
    )
    figure = f"{size:,} bytes, {LAYERS} layers, {steps:,} steps, {seen}"
    passed = size <= LARGEST and steps >= STEPS and clean
    return Verdict("report", figure, f"{LARGEST:,} bytes, clean in Chromium, offline", passed).announce()


if __name__ == "__main__":
    sys.exit(main())
