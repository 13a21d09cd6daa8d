"""Random whole programs keep the laws that their parts keep: a program is a composite like any other."""

from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule import laws
from chainrule.ops import ops
from chainrule.primitive import Composite, Draw, Sample
from chainrule.program import BACKENDS

# Steps keep magnitudes near 1, so that the bounds for single primitives hold for a program of several.
UNARY = {
    "tanh": ops.tanh,
    "sine": ops.sin,
    "sigmoid": ops.sigmoid,
    "bounded exponential": lambda x: ops.exp(ops.sin(x)),
    "softplus": ops.softplus,
    "square root": lambda x: ops.sqrt(ops.add(ops.square(x), 1)),
    "transpose": ops.matrix_transpose,
    "mean": lambda x: ops.mean(x, axis=-1, keepdims=True),
    "softmax": ops.softmax,
    "part": lambda x: ops.getitem(x, (slice(None, None, -1), slice(0, 1))),
    "column": lambda x: ops.expand_dims(ops.getitem(x, (0,)), axis=1),
    "scaled": lambda x: ops.multiply(x, 0.5),
    "running sum": lambda x: ops.tanh(ops.cumulative_sum(x, axis=0)),
    "repeated rows": lambda x: ops.take(x, [0, 0, -1], axis=0),
    "kept": lambda x: ops.where(ops.greater(x, 0.1), x, ops.multiply(x, 0.1)),
}
BINARY = {
    "sum": ops.add,
    "difference": ops.subtract,
    "product": ops.multiply,
    "larger": ops.maximum,
    "quotient": lambda a, b: ops.divide(a, ops.add(ops.square(b), 1)),
    "matrix product": lambda a, b: ops.tanh(ops.matmul(a, ops.matrix_transpose(b))),
    "side by side": lambda a, b: ops.concat([a, b], axis=1),
}
STEPS = st.lists(
    st.tuples(st.sampled_from([*UNARY, *BINARY]), st.integers(0, 99), st.integers(0, 99)),
    min_size=1,
    max_size=8,
)


def fits(name, a, b):
    """Shapes are all of two dimensions; those that do not suit a step leave it out."""
    if name == "matrix product":
        return a.shape[1] == b.shape[1]
    if name == "side by side":
        return a.shape[0] == b.shape[0] and a.shape[1] + b.shape[1] < 12
    return all(m == n or 1 in (m, n) for m, n in zip(a.shape, b.shape, strict=True))


def program(steps):
    """A function of two matrices that takes each step on values it has already got."""

    def surface(vocabulary, x, w):
        values = [x, w]
        for name, i, j in steps:
            a, b = values[i % len(values)], values[j % len(values)]
            if name in UNARY:
                values.append(UNARY[name](a))
            elif fits(name, a, b):
                values.append(BINARY[name](a, b))
        return vocabulary.sum(values[-1], axis=0)

    return Composite("program", "Random.", surface, (Sample((Draw((2, 3)), Draw((2, 3)))),), ulps=256)


@settings(max_examples=100)
@given(STEPS)
def test_random_programs_keep_every_law(steps):
    laws.check(program(steps), backends=BACKENDS)
