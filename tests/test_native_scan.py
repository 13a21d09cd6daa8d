"""`scan` as machine code: loops in loops, carries, windows that move; against the reference backend."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import passes
from chainrule.backends import numpy as reference
from chainrule.backends.native import step
from chainrule.backends.native.engine import Executable
from chainrule.backends.native.target import restricted
from chainrule.errors import BoundsError
from chainrule.schedule.interpret import interpret
from chainrule.schedule.kernels import Repeat
from chainrule.schedule.lower import schedule
from chainrule.trace import trace_program
from chainrule.train.trainer import Trainer
from chainrule.types import Type

Array = np.ndarray[Any, Any]
Function = Callable[..., Any]
RNG = np.random.default_rng(7)
BATCH, FEATURES, HIDDEN, STEPS = 5, 3, 7, 6


@pytest.fixture(autouse=True)
def no_fallback() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def draw(*shape: int) -> Array:
    return RNG.normal(size=shape) * 0.6


def executable(function: Function, values: list[Array], **options: Any) -> Executable:
    types = [Type(each.shape, each.dtype) for each in values]
    return Executable(trace_program(function, types).graph, **options)


def check(function: Function, *values: Array) -> Executable:
    """Native code, alone and shared by threads, and the interpreter of its schedule agree with NumPy."""
    given = [np.asarray(each) for each in values]
    native = executable(function, given, guarded=True)
    expected = reference.compile_graph(native.traced)(given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "GRAIN", 1)  # or nothing here is worth sharing
        shared = executable(function, given, threads=3)
    runs = {
        "native": native(given),
        "again": native(given),
        "three threads": shared(given),
        "interpreted": interpret(native.program.schedule, given),
    }
    for name, found in runs.items():
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12, err_msg=name)
    return native


# -- cells ---------------------------------------------------------------------------------------------------
def simple(w: Any, u: Any, b: Any, h: Any, xs: Any, reverse: bool = False) -> Any:
    def step(h: Any, x: Any) -> Any:
        h = cr.tanh(x @ u + h @ w + b)
        return h, h

    return cr.scan(step, h, xs, reverse=reverse)


def gated(w: Any, u: Any, b: Any, h: Any, xs: Any) -> Any:
    """A GRU: three gates side by side in the columns of its weights."""
    n = h.shape[-1]

    def step(h: Any, x: Any) -> Any:
        by_x, by_h = x @ u + b, h @ w
        reset = cr.sigmoid(by_x[:, :n] + by_h[:, :n])
        update = cr.sigmoid(by_x[:, n : 2 * n] + by_h[:, n : 2 * n])
        new = cr.tanh(by_x[:, 2 * n :] + reset * by_h[:, 2 * n :])
        h = (1.0 - update) * new + update * h
        return h, h

    return cr.scan(step, h, xs)


def long_short(w: Any, u: Any, b: Any, h: Any, xs: Any) -> Any:
    """An LSTM: two carries, of which only one is a result."""
    n = h.shape[-1]

    def step(carry: Any, x: Any) -> Any:
        h, c = carry
        gates = x @ u + h @ w + b
        forget, put, out = (cr.sigmoid(gates[:, k * n : (k + 1) * n]) for k in range(3))
        c = forget * c + put * cr.tanh(gates[:, 3 * n :])
        h = out * cr.tanh(c)
        return (h, c), h

    (last, _), ys = cr.scan(step, (h, cr.zeros_like(h)), xs)
    return last, ys


def weights(gates: int, hidden: int = HIDDEN) -> list[Array]:
    shapes = (hidden, gates * hidden), (FEATURES, gates * hidden), (gates * hidden,), (BATCH, hidden)
    return [draw(*shape) for shape in shapes]


CELLS: dict[str, tuple[Function, list[Array]]] = {
    "simple": (simple, weights(1)),
    "simple, whole vectors": (simple, weights(1, 16)),
    "simple, reverse": (lambda *a: simple(*a, reverse=True), weights(1)),
    "gated": (gated, weights(3)),
    "long short": (long_short, weights(4)),
    "long short, whole vectors": (long_short, weights(4, 16)),
}


def loss_of(cell: Function) -> Function:
    def loss(*arguments: Any) -> Any:
        last, ys = cell(*arguments)
        return cr.sum(last**2) + cr.sum(cr.sin(ys) * 0.1)

    return loss


def all_gradients(cell: Function) -> Function:
    return cr.value_and_grad(loss_of(cell), argnums=(0, 1, 2, 3, 4))


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("steps", [0, 1, 2, STEPS])
def test_cells_and_their_gradients(name: str, steps: int) -> None:
    cell, given = CELLS[name]
    xs = draw(steps, BATCH, FEATURES)
    check(cell, *given, xs)
    check(all_gradients(cell), *given, xs)


@pytest.mark.parametrize("name", ["simple", "gated", "long short, whole vectors"])
def test_float32_is_as_close_to_float64_as_the_reference_is(name: str) -> None:
    cell, given = CELLS[name]
    exact = [*given, draw(STEPS, BATCH, FEATURES)]
    single = [each.astype(np.float32) for each in exact]
    found = executable(all_gradients(cell), single)(single)
    told = reference.compile_graph(executable(all_gradients(cell), single).traced)(single)
    truth = executable(all_gradients(cell), exact)(exact)
    for one, other, true in zip(found, told, truth, strict=True):
        norm = np.linalg.norm(true)
        assert np.linalg.norm(one - true) <= max(1e-6 * norm, 2 * np.linalg.norm(other - true))


@pytest.mark.parametrize("target", ["avx2", "x86-64"])
def test_narrower_targets(target: str) -> None:
    cell, given = CELLS["long short, whole vectors"]
    values = [*given, draw(STEPS, BATCH, FEATURES)]
    native = executable(all_gradients(cell), values, target=restricted(target))
    for one, other in zip(native(values), reference.compile_graph(native.traced)(values), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


# -- shapes of loops -----------------------------------------------------------------------------------------
def nested(w: Any, rows: Any) -> Any:
    def inner(c: Any, x: Any) -> Any:
        return cr.sin(c * w + x), c * x

    def outer(c: Any, row: Any) -> Any:
        last, kept = cr.scan(inner, c, row)
        return last, (cr.sum(kept), kept)

    return cr.scan(outer, w * 0.5, rows)


def counted(start: Any, xs: Any) -> Any:
    """An integer carry beside a floating one; the count at which each step was taken is a result."""

    def step(carry: Any, x: Any) -> Any:
        count, total = carry
        return (count + 1, cr.where(count % 2 == 0, total + x, total * x)), (count, total > 0)

    return cr.scan(step, (cr.asarray(np.int32(3)), start), xs)


def swapped(a: Any, b: Any, xs: Any) -> Any:
    return cr.scan(lambda c, x: ((c[1] + x, c[0]), c[0]), (a, b), xs)


def unchanged(a: Any, b: Any, xs: Any) -> Any:
    (fixed, total), seen = cr.scan(lambda c, x: ((c[0], c[1] + c[0] * x), (c[0], x)), (a, b), xs)
    return fixed, total, seen


def noisy(x: Any, xs: Any) -> Any:
    """Random bits inside, from a key of each step."""

    def step(carry: Any, x: Any) -> Any:
        key, total = carry
        key = cr.random.fold_in(key, 1)
        return (key, total + x * cr.random.normal(key, x.shape, dtype=np.float64)), cr.random.bits(key, (3,))

    return cr.scan(step, (cr.random.key(5), x), xs)


def views(x: Any, xs: Any) -> Any:
    """Sequences that run backwards, transposed and broadcast; results that are views of what is carried."""

    def step(c: Any, each: Any) -> Any:
        a, b, f = each
        c = c.mT @ a + b
        return c, (c.mT, c[0], c.reshape((-1,)), f)

    repeated = cr.broadcast_to(x, (xs.shape[0], *x.shape))
    last, (turned, first, flat, ahead) = cr.scan(
        step, x, (cr.flip(xs, axis=0), repeated, cr.permute_dims(xs, (0, 2, 1))[:, ::-1, :])
    )
    return last, turned.reshape((-1, x.shape[0])), first, flat, cr.permute_dims(ahead, (1, 0, 2)) * 2.0


def looked_up(table: Any, xs: Any) -> Any:
    """A gather and a reduction inside, and a result per step that is one number."""

    def step(c: Any, x: Any) -> Any:
        at = cr.argmax(c * x)
        c = cr.softmax(c + cr.take(table, at, axis=0))
        return c, (at, cr.logsumexp(c))

    return cr.scan(step, table[0], xs)


LOOPS: dict[str, tuple[Function, tuple[Array, ...]]] = {
    "products": (lambda xs: cr.scan(lambda c, x: (c * x, c * x), cr.ones_like(xs[0]), xs), (draw(9),)),
    "products of rows": (
        lambda xs: cr.scan(lambda c, x: (c * x, c), xs[0], xs, reverse=True),
        (draw(9, 33),),
    ),
    "nested": (nested, (np.float64(0.7), draw(4, 3))),
    "counted": (counted, (np.float64(0.3), draw(5))),
    "swapped": (swapped, (draw(4), draw(4), draw(5, 4))),
    "unchanged": (unchanged, (draw(4), draw(4), draw(5, 4))),
    "noisy": (noisy, (draw(18), draw(5, 18))),
    "views": (views, (draw(4, 4), draw(5, 4, 4))),
    "looked up": (looked_up, (draw(6, 5), draw(4, 5))),
    "no sequence": (lambda x: cr.scan(lambda c, _: (cr.sin(c), None), x, length=7)[0], (draw(20),)),
    "no carry": (lambda xs: cr.scan(lambda c, x: (c, x * 2.0), None, xs)[1], (draw(4, 18),)),
    "empty rows": (lambda x, xs: cr.scan(lambda c, x: (c + x, c * x), x, xs), (draw(0, 3), draw(4, 0, 3))),
    "bytes": (
        lambda x, xs: cr.scan(lambda c, x: (c ^ x, c & x), x, xs),
        (draw(2, 21) > 0, draw(5, 2, 21) > 0),
    ),
}
FLOATING = [name for name in LOOPS if name != "bytes"]


@pytest.mark.parametrize("name", LOOPS)
def test_loops(name: str) -> None:
    function, values = LOOPS[name]
    check(function, *values)


def total(function: Function) -> Function:
    def loss(*arguments: Any) -> Any:
        leaves = cr.tree.flatten(function(*arguments))[0]
        return sum(cr.sum(cr.sin(each)) for each in leaves if each.dtype == np.float64)

    return loss


@pytest.mark.parametrize("name", FLOATING)
def test_gradients_of_loops(name: str) -> None:
    function, values = LOOPS[name]
    every = tuple(range(len(values)))
    check(cr.grad(total(function), argnums=every), *values)


@pytest.mark.parametrize("name", ["products", "nested", "swapped"])
def test_second_derivatives(name: str) -> None:
    function, values = LOOPS[name]
    check(cr.grad(lambda *a: cr.sum(cr.grad(total(function))(*a) ** 2)), *values)


def test_many_examples_at_once() -> None:
    w, u, b, _ = weights(1)
    check(cr.vmap(simple, in_axes=(None, None, None, 0, 0)), w, u, b, draw(3, 2, 7), draw(3, 4, 2, 3))


# -- what is made of them ------------------------------------------------------------------------------------
def repeats(native: Executable) -> list[Repeat]:
    return [each for each in native.program.schedule.kernels if isinstance(each, Repeat)]


def test_nothing_is_computed_that_nobody_uses() -> None:
    def last_of_one(x: Any, y: Any, xs: Any) -> Any:
        (a, _), _ = cr.scan(lambda c, x: ((cr.sin(c[0] + x), c[1] * cr.exp(x)), cr.cos(x)), (x, y), xs)
        return a

    native = check(last_of_one, draw(20), draw(20), draw(5, 20))
    (loop,) = repeats(native)
    assert {node.name for kernel in loop.kernels for node in kernel.nodes} == {"sin", "add"}
    (state,) = {window.source for window in loop.windows if window.period == 2}
    assert state.shape == (2, 20)


def test_a_result_that_is_the_carry_lies_where_the_carry_is_kept() -> None:
    native = check(all_gradients(simple), *weights(1), draw(STEPS, BATCH, FEATURES))
    forward, _ = repeats(native)
    (kept,) = {window.source for window in forward.windows if window.source.shape[0] == STEPS + 1}
    assert kept.shape == (STEPS + 1, BATCH, HIDDEN)


def test_the_listing_shows_the_loop() -> None:
    native = executable(loss_of(simple), [*weights(1), draw(STEPS, BATCH, FEATURES)])
    table = native.show("kernels")
    (line,) = [line for line in table.splitlines() if "repeat" in line]
    assert line.split()[:3] == ["repeat", str(STEPS), "times"]
    assert f"    contraction_2  {BATCH}×{HIDDEN}×{HIDDEN} " in table
    assert f"repeat {STEPS} times" in native.show("nests")


def test_an_index_out_of_bounds_inside_is_an_error_that_names_the_line() -> None:
    compiled = cr.compile(lambda x, at: cr.scan(lambda c, k: (c, cr.take(x, k, axis=0)), None, at)[1])
    x = cr.asarray(draw(5))
    assert compiled(x, cr.asarray([4, -5])).tolist() == [x[4].item(), x[0].item()]
    with pytest.raises(BoundsError, match=r"gather.*test_native_scan\.py"):
        compiled(x, cr.asarray([0, 5]))


def test_dead_results_are_dropped_from_the_graph() -> None:
    xs = cr.asarray(draw(5, 4))
    program = trace_program(
        lambda xs: cr.scan(lambda c, x: ((c[0] + x, c[1], c[1] * x), c[2]), (xs[0],) * 3, xs)[0][0],
        [xs.node.type],
    )
    (loop,) = [n for n in passes.drop_unused_results(program.graph).nodes if n.name == "scan"]
    assert (loop.attributes["carries"], loop.attributes["sequences"], len(loop.operands)) == (1, 1, 2)


# -- state of a training step --------------------------------------------------------------------------------
F64 = np.dtype("float64")


def stepped(function: Function, state: dict[int, int], *values: Array) -> list[Array]:
    graph = trace_program(function, [Type(each.shape, each.dtype) for each in values]).graph
    return interpret(schedule(graph, owned=True, state=state), values)


def test_states_that_change_places_or_are_views_of_themselves() -> None:
    a, b, c = np.arange(4.0), np.arange(4.0) + 10, np.arange(4.0).reshape(2, 2)
    found = stepped(lambda a, b, c: (b, a, c.mT, c[0]), {0: 0, 1: 1, 2: 2}, a, b, c)
    for one, expected in zip(found, (b, a, c.T, c[0]), strict=True):
        np.testing.assert_array_equal(one, expected)


def test_a_state_that_is_a_part_of_another_value() -> None:
    def cut(a: Any, b: Any) -> Any:
        b = cr.exp(b)
        return b[:16], b

    found = stepped(cut, {0: 0, 1: 1}, np.zeros(16), np.zeros(64))
    np.testing.assert_array_equal(found[0], np.ones(16))
    np.testing.assert_array_equal(found[1], np.ones(64))


class Recurrent(cr.nn.Module):
    def __init__(self) -> None:
        self.inside = cr.nn.Linear(FEATURES, HIDDEN)
        self.along = cr.nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.out = cr.nn.Linear(HIDDEN, FEATURES)

    def forward(self, x: Any) -> Any:
        def step(h: Any, each: Any) -> Any:
            h = cr.tanh(self.inside(each) + self.along(h))
            return h, h

        start = cr.zeros((x.shape[0], HIDDEN), dtype=x.dtype)
        _, ys = cr.scan(step, start, cr.permute_dims(x, (1, 0, 2)))
        return self.out(cr.permute_dims(ys, (1, 0, 2)))


class Characters(cr.nn.Module):
    """The next character, from a GRU that looks each one up inside of its loop, with dropout."""

    def __init__(self, characters: int) -> None:
        self.embedding = cr.nn.Embedding(characters, FEATURES)
        self.inside = cr.nn.Linear(FEATURES, 3 * HIDDEN)
        self.along = cr.nn.Linear(HIDDEN, 3 * HIDDEN, bias=False)
        self.out = cr.nn.Linear(HIDDEN, characters)

    def forward(self, codes: Any) -> Any:
        n, key = HIDDEN, cr.random.site_key()

        def step(carry: Any, each: Any) -> Any:
            t, h = carry
            with cr.random.stream(cr.random.fold_in(key, t)):
                x = cr.nn.functional.dropout(self.embedding(each), 0.2)
            by_x, by_h = self.inside(x), self.along(h)
            gates = cr.sigmoid(by_x[:, : 2 * n] + by_h[:, : 2 * n])
            h = gates[:, :n] * h + (1.0 - gates[:, :n]) * cr.tanh(
                by_x[:, 2 * n :] + gates[:, n:] * by_h[:, 2 * n :]
            )
            return (t + 1, h), h

        start = cr.zeros((codes.shape[0], n), dtype=self.out.weight.dtype)
        _, ys = cr.scan(step, (cr.asarray(np.int64(0)), start), codes.mT)
        return self.out(cr.permute_dims(ys, (1, 0, 2))).reshape((-1, self.out.weight.shape[0]))


def of_every_position(scores: Any, codes: Any) -> Any:
    return cr.nn.functional.cross_entropy(scores, codes.reshape((-1,)))


NETWORKS: dict[str, tuple[Function, Function, Array]] = {
    "simple": (Recurrent, cr.nn.MSELoss(), np.cumsum(draw(60, FEATURES), axis=0) * 0.2),
    "characters": (lambda: Characters(9), of_every_position, RNG.integers(0, 9, 60)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_training_a_recurrent_network_on_windows(name: str) -> None:
    make, loss, stream = NETWORKS[name]
    windows = cr.data.Windows(stream, STEPS).arrays()
    found = {}
    for backend in ("native", "numpy"):
        with cr.random.stream(cr.random.key(0)):
            network = make().double()
        trainer = Trainer(network, loss, cr.optim.Adam(lr=1e-2), batch_size=8, seed=3, backend=backend)
        trainer.run(windows, 25)
        found[backend] = trainer.state()
    for each, value in found["numpy"].items():
        np.testing.assert_allclose(found["native"][each], value, rtol=1e-9, atol=1e-11, err_msg=each)
