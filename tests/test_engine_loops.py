"""scan: against the loop written out, in values and in derivatives of first and second order."""

from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.errors import ShapeError, TraceError
from chainrule.graph import Graph, reachable
from chainrule.nn import Parameter
from chainrule.tensor import Buffer
from chainrule.verify import verify

RNG = np.random.default_rng(3)
XS = RNG.normal(size=(5, 3))
W = RNG.normal(size=(3, 3)) * 0.5
START = RNG.normal(size=3)
AGREE = {"rtol": 1e-11, "atol": 1e-12}  # the same operations in another order of summation


def unrolled(function: Any, init: Any, xs: Any, length: int, reverse: bool = False) -> Any:
    carry, ys = init, [None] * length
    for t in reversed(range(length)) if reverse else range(length):
        carry, ys[t] = function(carry, None if xs is None else cr.tree.tree_map(lambda x, t=t: x[t], xs))
    leaves = [cr.tree.flatten(y)[0] for y in ys]
    structure = cr.tree.flatten(ys[0])[1]
    columns = [cr.asarray([row[k] for row in leaves]) for k in range(len(leaves[0]))]
    return carry, cr.tree.unflatten(structure, columns)


def recurrent(weight: Any) -> Any:
    def step(h: Any, x: Any) -> Any:
        after = cr.tanh(weight @ h + x)
        return after, {"h": after, "norm": cr.sum(after * x)}

    return step


def loss_of(loop: Any, reverse: bool = False) -> Any:
    def loss(weight: Any, start: Any, xs: Any) -> Any:
        options = {"length": len(XS)} if loop is unrolled else {}
        last, ys = loop(recurrent(weight), start, xs, reverse=reverse, **options)
        return cr.sum(last**2) + cr.sum(ys["h"] ** 3) + cr.sum(cr.sin(ys["norm"]))

    return loss


ARGUMENTS = tuple(map(cr.asarray, (W, START, XS)))


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_is_the_loop_written_out(reverse: bool) -> None:
    last, ys = cr.scan(recurrent(cr.asarray(W)), cr.asarray(START), cr.asarray(XS), reverse=reverse)
    expected, rows = unrolled(recurrent(cr.asarray(W)), cr.asarray(START), cr.asarray(XS), 5, reverse)
    np.testing.assert_array_equal(last.numpy(), expected.numpy())
    np.testing.assert_array_equal(ys["h"].numpy(), rows["h"].numpy())
    np.testing.assert_array_equal(ys["norm"].numpy(), rows["norm"].numpy())


@pytest.mark.parametrize(
    "around", [lambda f: f, cr.compile, cr.checkpoint], ids=["eager", "compiled", "checkpoint"]
)
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_by_captured_values_carry_and_sequence(around: Any, reverse: bool) -> None:
    found = around(cr.grad(loss_of(cr.scan, reverse), (0, 1, 2)))(*ARGUMENTS)
    expected = cr.grad(loss_of(unrolled, reverse), (0, 1, 2))(*ARGUMENTS)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), **AGREE)


@pytest.mark.parametrize("argument", [0, 1, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_second_derivatives(argument: int, reverse: bool) -> None:
    found = cr.hessian(loss_of(cr.scan, reverse), argument)(*ARGUMENTS)
    expected = cr.hessian(loss_of(unrolled, reverse), argument)(*ARGUMENTS)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), **AGREE)


def test_forward_mode_and_a_compiled_hessian_vector_product() -> None:
    loop, direction = loss_of(cr.scan), np.ones_like(W)
    rest = ARGUMENTS[1:]
    slope = cr.jvp(lambda w: loop(w, *rest), (ARGUMENTS[0],), (direction,))[1]
    assert slope.item() == pytest.approx(cr.sum(cr.grad(loop)(*ARGUMENTS)).item(), rel=1e-11)

    def product(w: Any) -> Any:
        return cr.jvp(lambda w: cr.grad(loop)(w, *rest), (w,), (direction,))[1]

    expected = cr.hessian(loss_of(unrolled))(*ARGUMENTS).numpy().sum(axis=(2, 3))
    np.testing.assert_allclose(cr.compile(product)(ARGUMENTS[0]).numpy(), expected, **AGREE)


def test_nested_scans() -> None:
    def nested(loop: Any) -> Any:
        def loss(w: Any) -> Any:
            def inner(c: Any, x: Any) -> Any:
                return cr.sin(c * w + x), c

            def outer(c: Any, row: Any) -> Any:
                options = {"length": 3} if loop is unrolled else {}
                last, kept = loop(inner, c, row, **options)
                return last, cr.sum(kept)

            options = {"length": 5} if loop is unrolled else {}
            last, sums = loop(outer, w * 0.5, cr.asarray(XS), **options)
            return last + cr.sum(sums**2)

        return loss

    w = np.float64(0.7)
    for derived in (lambda f: f, cr.grad, lambda f: cr.grad(cr.grad(f))):
        assert derived(nested(cr.scan))(w).item() == pytest.approx(
            derived(nested(unrolled))(w).item(), rel=1e-10
        )


def test_integer_carries_and_results() -> None:
    def step(c: Any, x: Any) -> Any:
        count, value = c
        value = value * cr.cos(x + count.astype(np.float64))
        return (count + 1, value), (count, value)

    def loss(loop: Any) -> Any:
        def total(start: Any, xs: Any) -> Any:
            options = {"length": 5} if loop is unrolled else {}
            (count, last), (counts, values) = loop(step, (cr.asarray(np.int64(2)), start), xs, **options)
            assert count.dtype == np.int64
            return last + cr.sum(values * counts.astype(np.float64))

        return total

    start, xs = np.float64(1.1), cr.asarray(XS[:, 0])
    for found, expected in zip(
        cr.grad(loss(cr.scan), (0, 1))(start, xs), cr.grad(loss(unrolled), (0, 1))(start, xs), strict=True
    ):
        np.testing.assert_allclose(found.numpy(), expected.numpy(), **AGREE)
    found = cr.hessian(loss(cr.scan), 1)(start, xs)
    np.testing.assert_allclose(found.numpy(), cr.hessian(loss(unrolled), 1)(start, xs).numpy(), **AGREE)


def test_no_steps_at_all() -> None:
    def loss(c: Any, xs: Any, w: Any) -> Any:
        last, ys = cr.scan(lambda c, x: (c * w + x, (c, x)), c, xs)
        assert ys[0].shape == (0, 3)
        return cr.sum(last**2) + cr.sum(ys[0]) + cr.sum(ys[1])

    a, b, c = cr.grad(loss, (0, 1, 2))(cr.asarray(START), cr.asarray(XS[:0]), cr.asarray(START))
    np.testing.assert_allclose(a.numpy(), 2 * START)
    assert b.shape == (0, 3)
    np.testing.assert_array_equal(c.numpy(), np.zeros(3))


def test_no_sequence_no_carry_no_result() -> None:
    last, ys = cr.scan(lambda c, x: (c * 2.0, None), cr.asarray(1.0), length=10)
    assert (last.item(), ys) == (1024.0, None)
    nothing, doubled = cr.scan(lambda c, x: (c, x * 2.0), None, cr.asarray(XS))
    assert nothing is None
    np.testing.assert_array_equal(doubled.numpy(), XS * 2)
    np.testing.assert_array_equal(
        cr.grad(lambda xs: cr.sum(cr.scan(lambda c, x: (c, x * 2.0), None, xs)[1]))(cr.asarray(XS)).numpy(),
        np.full((5, 3), 2.0),
    )


def test_carry_containers_may_come_back_in_another_order() -> None:
    def step(c: Any, x: Any) -> Any:
        return {"b": c["b"] + c["a"], "a": c["a"] * x}, c["b"]

    init = {"a": cr.asarray(START), "b": cr.asarray(np.zeros(3))}
    last, ys = cr.scan(step, init, cr.asarray(XS))
    expected, rows = unrolled(step, init, cr.asarray(XS), 5)
    assert list(last) == ["a", "b"]
    np.testing.assert_array_equal(last["b"].numpy(), expected["b"].numpy())
    np.testing.assert_array_equal(ys.numpy(), rows.numpy())


def test_parameters_are_captured_and_their_gradients_summed_over_time() -> None:
    w = Parameter(W)
    loss = loss_of(cr.scan)(w, cr.asarray(START), cr.asarray(XS))
    loss.backward()
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), cr.grad(loss_of(unrolled))(*ARGUMENTS).numpy(), **AGREE)


def test_one_node_however_long_and_no_history_where_none_is_wanted() -> None:
    def run(length: int) -> Any:
        return cr.scan(lambda c, x: (cr.sin(c), None), cr.asarray(START), length=length)[0]

    assert len(reachable([run(1000).node])) == len(reachable([run(2).node]))
    verify(Graph((), (run(3).node,)))
    with cr.no_grad():
        assert run(3).node.operands == ()
    with_history = next(node for node in reachable([run(3).node]) if node.name == "scan")
    assert [each.shape for each in with_history.types] == [(3,), (3, 3)]
    plain = cr.scan(lambda c, x: (cr.sin(c), None), cr.stop_gradient(cr.asarray(START)), length=4)[0]
    assert plain.node.operands == ()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cr.scan(lambda c, x: (c, x), 0.0, [cr.ones(3), cr.ones(4)]), "common leading length.*3, 4"),
        (lambda: cr.scan(lambda c, x: (c, x), 0.0, cr.ones(3), length=2), "2, 3"),
        (lambda: cr.scan(lambda c, x: (c, x), 0.0), "none at all; give xs or length="),
        (lambda: cr.scan(lambda c, x: (c, x), 0.0, 1.0), "common leading length.*None"),
        (lambda: cr.scan(lambda c, x: c + x, 0.0, cr.ones(3)), r"a tuple \(carry, y\)"),
        (lambda: cr.scan(lambda c, x: (c[0], x), (0.0, 1.0), cr.ones(3)), "a tuple of 2, not one Tensor"),
        (
            lambda: cr.scan(lambda c, x: ((c > 0), x), 0.0, cr.ones(3)),
            r"enters as float32\[\] and leaves as bool",
        ),
        (lambda: cr.scan(lambda c, x: (cr.ones(2) * c, x), 0.0, cr.ones(3)), r"leaves as float32\[2\]"),
    ],
)
def test_loops_that_do_not_fit(call: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        call()


def test_state_has_to_be_carried() -> None:
    count = Buffer(np.float32(0.0))

    def step(c: Any, x: Any) -> Any:
        count.assign(count + 1.0)
        return c, x

    with pytest.raises(TraceError, match=r"the function given to scan.*carry"):
        cr.scan(step, 0.0, cr.ones(3))
