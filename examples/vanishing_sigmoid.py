"""A network that does not learn, and a report that shows which layers are to blame.

Eleven layers with a sigmoid behind each but the last, on scikit-learn's handwritten digits: the set-up of many
a first attempt. Every sigmoid passes a quarter of the derivative on at best, so that next to nothing of it
arrives at the first layers.

    python examples/vanishing_sigmoid.py [report.html]
"""

import sys

import numpy as np
from sklearn.datasets import load_digits

import chainrule as cr

WIDTH, LAYERS, CLASSES = 32, 11, 10


def network(activation=cr.nn.Sigmoid):
    """Eleven linear layers, with an activation between each two."""
    widths = [64, *[WIDTH] * (LAYERS - 1), CLASSES]
    layers = [cr.nn.Linear(64, WIDTH)]
    for into, out in zip(widths[1:], widths[2:]):
        layers += [activation(), cr.nn.Linear(into, out)]
    return cr.nn.Sequential(*layers)


def train(activation=cr.nn.Sigmoid, epochs=10):
    """Train on the digits, pixels scaled to unit spread; a tenth of the rows is held out."""
    pixels, digits = load_digits(return_X_y=True)
    inputs = ((pixels - pixels.mean()) / pixels.std()).astype(np.float32)
    with cr.random.stream(cr.random.key(0)):
        model = network(activation)
    return cr.fit(model, (inputs, digits), epochs=epochs, telemetry=True)


if __name__ == "__main__":
    run = train()
    print(run.report(sys.argv[1] if len(sys.argv) > 1 else "report.html"))
