"""A network that does not learn, and a report that shows which layers are to blame.

Eleven layers with a sigmoid behind each but the last, on handwritten digits, as in many a first
attempt. Every sigmoid passes a quarter of the derivative on at best, so that next to nothing of it arrives at
the first layers.

    python examples/vanishing_sigmoid.py [report.html]
"""

import sys
from itertools import pairwise

import numpy as np
from sklearn.datasets import load_digits

import chainrule as cr

WIDTHS = [64, *[32] * 10, 10]


def network(activation: type[cr.nn.Module]) -> cr.nn.Module:
    """Eleven linear layers, with an activation between each two."""
    layers = [each for into, out in pairwise(WIDTHS) for each in (cr.nn.Linear(into, out), activation())]
    return cr.nn.Sequential(*layers[:-1])


def train(activation: type[cr.nn.Module] = cr.nn.Sigmoid, epochs: int = 10) -> cr.Run:
    """Train on the digits, pixels scaled to unit spread; a tenth of the rows is held out."""
    pixels, digits = load_digits(return_X_y=True)
    inputs = ((pixels - pixels.mean()) / pixels.std()).astype(np.float32)
    with cr.random.stream(cr.random.key(0)):
        model = network(activation)
    return cr.fit(model, (inputs, digits), epochs=epochs, telemetry=True)


if __name__ == "__main__":
    path = train().report(sys.argv[1] if len(sys.argv) > 1 else "report.html")
    sys.stdout.write(f"{path}\n")
