"""The interpreter of schedules, on kernels written by hand: it is the oracle of everything native."""

import numpy as np
import pytest

from chainrule.errors import BoundsError, GraphError
from chainrule.schedule.interpret import interpret, run_kernel
from chainrule.schedule.kernels import (
    Access,
    Buffer,
    Contraction,
    Expression,
    Loops,
    Schedule,
    Special,
    Statement,
    View,
)

F32, F64, I64, BOOL = (np.dtype(each) for each in ("float32", "float64", "int64", "bool"))
X = np.array([[3.0, -1.0, 2.0], [0.5, 4.0, -2.0]])


def buffer(name, shape, dtype=F64, apart=0, **facts):
    """Row-major, or with that many elements from one row to the next."""
    strides = [1] * len(shape)
    for axis in reversed(range(len(shape) - 1)):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    if apart:
        strides[-2] = apart
    size = strides[0] * shape[0] if shape else 1
    return Buffer(name, dtype, shape, tuple(strides), size, **facts)


def at(place, *strides, offset=0, overrun=False):
    return Access(place, offset, strides or place.strides, overrun)


def load(place, *strides, offset=0):
    return Expression("load", (), place.dtype, {"access": at(place, *strides, offset=offset)})


def call(op, *arguments, dtype=None):
    return Expression(op, arguments, dtype or arguments[0].dtype)


def result(statement):
    return Expression("result", (), statement.value.dtype, {"statement": statement})


def whole(place):
    return View(place, 0, place.shape, place.strides)


def run(kernels, inputs, outputs, *arrays):
    return interpret(Schedule(tuple(map(whole, inputs)), tuple(map(whole, outputs)), tuple(kernels)), arrays)


# -- what kernels compute ------------------------------------------------------------------------------------
def test_elementwise_work_broadcasts_and_uses_earlier_statements():
    x, b, y, z = buffer("x", (2, 3)), buffer("b", (3,)), buffer("y", (2, 3)), buffer("z", (3, 2))
    first = Statement(call("add", load(x), load(b, 0, 1)), at(y))
    column = Expression("astype", (Expression("position", (), I64, {"axis": 1}),), F64, {"dtype": F64})
    second = Statement(call("multiply", result(first), column), at(z, 1, 2))
    bias = np.array([10.0, 20.0, 30.0])
    got = run([Loops((2, 3), 1, 1, (first, second))], [x, b], [y, z], X, bias)
    np.testing.assert_array_equal(got[0], X + bias)
    np.testing.assert_array_equal(got[1], ((X + bias) * [0, 1, 2]).T)


def softmax(x, y, sums, **target):
    """Three statements over rows, the loss-like sum of the logarithms over all of them."""
    largest = Statement(load(x), None, "max", (1,))
    raised = Statement(call("exp", call("subtract", load(x), result(largest))), None)
    total = Statement(result(raised), at(sums, 1, 0), "sum", (1,))
    divided = Statement(call("divide", result(raised), result(total)), at(y, **target))
    return largest, raised, total, divided


def test_rows_are_combined_and_what_belongs_to_a_row_is_shared():
    x, y, sums, all_logs = buffer("x", (2, 3)), buffer("y", (2, 3)), buffer("s", (2,)), buffer("l", ())
    statements = softmax(x, y, sums)
    log = Statement(call("log", result(statements[2])), None, per_row=True)
    joined = Statement(result(log), at(all_logs, 0, 0), "sum", (0,), per_row=True)
    got = run([Loops((2, 3), 1, 1, (*statements, log, joined))], [x], [y, sums, all_logs], X)
    raised = np.exp(X - X.max(axis=1, keepdims=True))
    np.testing.assert_allclose(got[0], raised / raised.sum(axis=1, keepdims=True), rtol=1e-15)
    np.testing.assert_allclose(got[1], raised.sum(axis=1), rtol=1e-15)
    np.testing.assert_allclose(got[2], np.log(raised.sum(axis=1)).sum(), rtol=1e-15)


@pytest.mark.parametrize(("combiner", "wanted"), [("sum", 0.0), ("max", -np.inf), ("min", np.inf)])
def test_nothing_is_combined_to_what_changes_nothing(combiner, wanted):
    x, y = buffer("x", (2, 0)), buffer("y", (2,))
    kernel = Loops((2, 0), 1, 1, (Statement(load(x), at(y, 1, 0), combiner, (1,)),))
    np.testing.assert_array_equal(run([kernel], [x], [y], np.ones((2, 0)))[0], [wanted, wanted])


def test_any_and_all_combine_over_row_axes_too():
    x, some, every = buffer("x", (2, 3), BOOL), buffer("some", (3,), BOOL), buffer("every", (), BOOL)
    statements = (
        Statement(load(x), at(some, 0, 1), "any", (0,)),
        Statement(load(x), at(every, 0, 0), "all", (0, 1)),
    )
    values = np.array([[True, False, False], [True, True, False]])
    got = run([Loops((2, 3), 2, 1, statements)], [x], [some, every], values)
    np.testing.assert_array_equal(got[0], [True, True, False])
    assert not got[1]


def test_a_loop_without_axes_and_constants():
    c, y = buffer("c", (), role="constant", value=np.array(2.0)), buffer("y", ())
    half = Expression("constant", (), F64, {"value": np.float64(0.5)})
    statement = Statement(call("add", load(c), half), at(y))
    assert run([Loops((), 0, 0, (statement,))], [], [y])[0] == 2.5


def test_a_contraction_with_an_epilogue():
    x, w, b, y = buffer("x", (2, 3)), buffer("w", (4, 3)), buffer("b", (4,)), buffer("y", (2, 4), apart=16)
    total = Statement(call("add", Expression("sum", (), F64), load(b, 0, 1)), None)
    active = Statement(call("relu", result(total)), at(y, overrun=True))
    kernel = Contraction((2, 4, 3), 2, 1, at(x, 3, 0, 1), at(w, 0, 3, 1), (total, active))
    weights, bias = np.arange(12.0).reshape(4, 3) - 5, np.array([1.0, -2.0, 0.0, 3.0])
    (got,) = run([kernel], [x, w, b], [y], X, weights, bias)
    np.testing.assert_allclose(got, np.maximum(X @ weights.T + bias, 0), rtol=1e-14)


def test_a_contraction_whose_operands_both_move_along_a_summed_and_a_batch_axis():
    """A convolution along one axis, per sample: windows of x overlap."""
    x, w, y = buffer("x", (2, 6)), buffer("w", (2, 3)), buffer("y", (2, 4))
    kernel = Contraction(
        (2, 4, 3), 2, 1, at(x, 6, 1, 1), at(w, 3, 0, 1), (Statement(Expression("sum", (), F64), at(y)),)
    )
    series, kernels = np.arange(12.0).reshape(2, 6) ** 2, np.array([[1.0, 0.0, -1.0], [2.0, 1.0, 0.5]])
    wanted = [np.correlate(s, k, "valid") for s, k in zip(series, kernels, strict=True)]
    np.testing.assert_allclose(run([kernel], [x, w], [y], series, kernels)[0], wanted, rtol=1e-14)


def test_a_sum_of_nothing_is_zero_and_axes_nobody_moves_along_count():
    x, y = buffer("x", (2, 0)), buffer("y", (2,))
    total = (Statement(Expression("sum", (), F64), at(y)),)
    empty = Contraction((2, 0), 1, 0, at(x, 0, 1), at(x, 0, 1), total)
    np.testing.assert_array_equal(run([empty], [x], [y], np.ones((2, 0)))[0], [0, 0])
    one = buffer("one", ())
    counted = Contraction((2, 5), 1, 0, at(one, 0, 0), at(one, 0, 0), total)
    np.testing.assert_array_equal(run([counted], [one], [y], np.array(3.0))[0], [45, 45])


def test_a_special_is_the_meaning_of_its_record_on_views():
    x, rows, y = buffer("x", (2, 3)), buffer("rows", (3,), I64), buffer("y", (3, 2))
    turned = View(x, 0, (3, 2), (1, 3))
    kernel = Special("gather", {"axis": 0}, (turned, whole(rows)), whole(y))
    np.testing.assert_array_equal(run([kernel], [x, rows], [y], X, np.array([2, 0, -1]))[0], X.T[[2, 0, 2]])
    with pytest.raises(BoundsError, match="Special gather"):
        run([kernel], [x, rows], [y], X, np.array([3, 0, 0]))


# -- what it finds -------------------------------------------------------------------------------------------
def copying(x, y, extents=(2, 3), **target):
    return Loops(extents, 1, 1, (Statement(load(x), at(y, **target)),))


def test_an_access_that_leaves_its_buffer_is_found():
    x, y = buffer("x", (2, 3)), buffer("y", (2, 3))
    with pytest.raises(GraphError, match=r"Loops over \(2, 3\): elements 1 to 6 of y, which has 6"):
        run([copying(x, y, offset=1)], [x], [y], X)
    with pytest.raises(GraphError, match="elements 0 to 8 of x"):
        run([copying(x, buffer("y", (3, 3)), (3, 3))], [x], [], X)


def test_what_nobody_wrote_is_not_a_number():
    x, y = buffer("x", (2, 3)), buffer("y", (2, 4))
    (got,) = run([copying(x, y)], [x], [y], X)
    assert np.isnan(got[:, 3]).all()


def test_an_overrun_spoils_what_follows_the_row():
    x, y = buffer("x", (2, 3)), buffer("y", (2, 3))
    (got,) = run([copying(x, y, overrun=True)], [x], [y], X)
    assert np.isnan(got[1]).all()
    y = buffer("y", (2, 3), slack=False)
    with pytest.raises(GraphError, match="vectors are stored beyond the end of y"):
        run([copying(x, y, overrun=True)], [x], [y], X)


def test_storing_twice_is_found():
    x, y = buffer("x", (2, 3)), buffer("y", (2, 3))
    twice = Loops((2, 3), 1, 1, (Statement(load(x), at(y, 0, 1)),))
    with pytest.raises(GraphError, match="an element of y is stored twice"):
        run([twice], [x], [y], X)
    both = Loops((2, 3), 1, 1, (Statement(load(x), at(y)), Statement(load(x), at(y))))
    with pytest.raises(GraphError, match="an element of y is stored twice"):
        run([both], [x], [y], X)


def test_storing_the_same_number_again_is_no_fault_except_in_place():
    x, y = buffer("x", (3,)), buffer("y", (3,))
    same = Loops((2, 3), 2, 1, (Statement(call("add", load(x, 0, 1), load(x, 0, 1)), at(y, 0, 1)),))
    np.testing.assert_array_equal(run([same], [x], [y], X[0])[0], 2 * X[0])
    again = Loops((2, 3), 2, 1, (Statement(call("add", load(x, 0, 1), load(x, 0, 1)), at(x, 0, 1)),))
    with pytest.raises(GraphError, match="a target lies over x"):
        run([again], [x], [x], X[0])


def test_in_place_is_allowed_with_the_same_strides_alone():
    x, sums = buffer("x", (2, 3)), buffer("s", (2,))
    memory = {x: X.reshape(-1).copy(), sums: np.zeros(2)}
    run_kernel(Loops((2, 3), 1, 1, softmax(x, x, sums)), memory)
    np.testing.assert_allclose(memory[x].reshape(2, 3).sum(axis=1), 1, rtol=1e-15)
    turned = Loops((3, 2), 1, 1, (Statement(load(x, 1, 3), at(x, 2, 1)),))
    with pytest.raises(GraphError, match="a target lies over x, which is read with other strides"):
        run_kernel(turned, memory)
    product = Contraction(
        (2, 2), 1, 0, at(x, 1, 2), at(x, 0, 1), (Statement(Expression("sum", (), F64), at(x, 1)),)
    )
    with pytest.raises(GraphError, match="a target lies over x"):
        run_kernel(product, memory)


def test_a_row_is_not_read_again_after_it_was_stored_over():
    x, y, sums = buffer("x", (2, 3)), buffer("y", (2, 3)), buffer("s", (2,))
    doubled = Statement(call("add", load(x), load(x)), at(x))
    total = Statement(result(doubled), at(sums, 1, 0), "sum", (1,))
    late = Statement(call("divide", load(x), result(total)), at(y))
    with pytest.raises(GraphError, match="x is read after the kernel has stored to it"):
        run([Loops((2, 3), 1, 1, (doubled, total, late))], [x], [y], X)


def test_what_a_walk_needs_is_read_before_it_stores():
    x, y = buffer("x", (2, 3)), buffer("y", (2, 3))
    doubled = Statement(call("add", load(x), load(x)), at(x))
    negative = Statement(call("negative", load(x)), at(y))
    memory = {x: X.reshape(-1).copy(), y: np.zeros(6)}
    run_kernel(Loops((2, 3), 1, 1, (doubled, negative)), memory)
    np.testing.assert_array_equal(memory[x], 2 * X.reshape(-1))
    np.testing.assert_array_equal(memory[y], -X.reshape(-1))


def test_a_total_is_stored_after_everything_is_read():
    x, y = buffer("x", (2, 3)), buffer("y", (2, 3))
    total = Statement(load(x), at(x, 0, 0), "sum", (0, 1))
    shifted = Statement(load(x), at(y))
    memory = {x: X.reshape(-1).copy(), y: np.zeros(6)}
    run_kernel(Loops((2, 3), 1, 1, (total, shifted)), memory)
    np.testing.assert_array_equal(memory[x], [X.sum(), *X.reshape(-1)[1:]])
    np.testing.assert_array_equal(memory[y], X.reshape(-1))


def test_statements_keep_to_rows_and_order():
    x, y, s = buffer("x", (2, 3)), buffer("y", (2, 3)), buffer("s", ())
    everything = Statement(load(x), at(s, 0, 0), "sum", (0, 1))
    for statements, told in (
        ((Statement(result(Statement(load(x), None)), at(y)),), "does not come before"),
        ((everything, Statement(result(everything), at(y))), "only when the kernel ends"),
        ((Statement(load(x), None, per_row=True),), "read by row but moves along inner axes"),
        ((Statement(call("less", load(x), load(x)), at(y)),), "less gives bool"),
        ((Statement(call("less", load(x), load(x), dtype=BOOL), at(y)),), "bool is stored to y"),
    ):
        with pytest.raises(GraphError, match=told):
            run([Loops((2, 3), 1, 1, statements)], [x], [y], X)


def test_a_new_state_lies_in_the_memory_of_the_old_one():
    x, y = buffer("x", (2, 3)), buffer("y", (2, 3))
    y.home = x
    doubled = Loops((2, 3), 1, 1, (Statement(call("add", load(x), load(x)), at(y)),))
    got = run([doubled], [x], [x, y], X)
    np.testing.assert_array_equal(got, [2 * X, 2 * X])
    turned = Loops((3, 2), 1, 1, (Statement(load(x, 1, 3), at(y, 2, 1)),))
    with pytest.raises(GraphError, match="a target lies over x"):
        run([turned], [x], [y], X)


def test_a_row_is_combined_over_all_inner_axes():
    x, y, s = buffer("x", (2, 3, 2)), buffer("y", (3, 2)), buffer("s", (2, 3))
    values = np.arange(12.0).reshape(2, 3, 2)
    along_rows = Loops((2, 3, 2), 1, 2, (Statement(load(x), at(y, 0, 2, 1), "sum", (0,)),))
    np.testing.assert_array_equal(run([along_rows], [x], [y], values)[0], values.sum(axis=0))
    a_part = Loops((2, 3, 2), 1, 2, (Statement(load(x), at(s, 3, 1, 0), "sum", (2,)),))
    with pytest.raises(GraphError, match="leaves out an inner axis"):
        run([a_part], [x], [s], values)


def test_inputs_are_what_the_schedule_says():
    x, y = buffer("x", (2, 3)), buffer("y", (2, 3))
    with pytest.raises(GraphError, match=r"input x is float64 \(2, 3\), not float32"):
        run([copying(x, y)], [x], [y], X.astype(F32))
