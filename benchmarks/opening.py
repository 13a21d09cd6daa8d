"""Bar: opening one number of a network of ten million parameters.

The loss is recorded first: that is one forward pass, whether a number is opened or not. Then an element of
every weight is opened, and its largest part, up to the loss; and an activation, down to the input. What is
measured is the slowest single opening, and by how much memory grew beyond the recorded loss, at its peak.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

import chainrule as cr
from chainrule import nn
from tools.verdict import Verdict

WIDTHS = (1000, 2000, 2000, 2000, 10)
ROWS = 128
SECONDS, MEGABYTES = 1.0, 500
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def network() -> nn.Module:
    """A perceptron of ten million parameters."""
    with cr.random.stream(cr.random.key(0)):
        hidden = [each for n, m in pairwise(WIDTHS) for each in (nn.Linear(n, m), nn.Tanh())]
        return nn.Sequential(*hidden[:-1])


def memory(field: str) -> float:
    """What the system says of this process, in MB: "VmRSS" now, "VmHWM" at the peak."""
    (kilobytes,) = re.findall(rf"{field}:\s+(\d+) kB", _STATUS.read_text())
    return int(kilobytes) / 1024


def openings(loss: cr.Tensor, model: nn.Module) -> Iterator[tuple[str, float]]:
    """What is opened, and the seconds that takes."""
    weights = [(name, each.shape) for name, each in model.named_parameters() if each.ndim == 2]
    starts = [(name, (shape[0] // 2, shape[1] // 3)) for name, shape in weights]
    starts.append((weights[-1][0].removesuffix(".weight"), (ROWS // 2, 3)))
    for name, index in starts:
        began = time.perf_counter()
        found = cr.explain(loss, name, index)
        yield found.label, time.perf_counter() - began
        while found.children:
            part = max(found.children, key=lambda each: (" × " in each.label, abs(each.value)))
            began = time.perf_counter()
            found = part.open()
            yield found.label, time.perf_counter() - began


def main() -> int:
    """Measures and prints the verdict."""
    model, random = network(), np.random.default_rng(0)
    inputs = random.normal(size=(ROWS, WIDTHS[0])).astype(np.float32)
    loss = nn.CrossEntropyLoss()(model(inputs), random.integers(0, WIDTHS[-1], ROWS))
    count = sum(each.size for each in model.parameters())
    _CLEAR.write_text("5")  # the peak counts from here on
    before, slowest = memory("VmRSS"), ("", 0.0)
    for label, seconds in openings(loss, model):
        print(f"{seconds:8.3f} s  {label}")
        slowest = max(slowest, (label, seconds), key=lambda each: each[1])
    grown = memory("VmHWM") - before
    print(f"{count:,} parameters, {ROWS} rows; {before:.0f} MB with the loss recorded")
    figure = f"{slowest[1]:.2f} s at most (of {slowest[0]}), {grown:.0f} MB more"
    return Verdict(
        "opening", figure, f"{SECONDS:g} s, {MEGABYTES} MB", slowest[1] <= SECONDS and grown <= MEGABYTES
    ).announce()


if __name__ == "__main__":
    sys.exit(main())
