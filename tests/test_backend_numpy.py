"""The reference backend gives, bit for bit, what the meanings give, and keeps its memory to itself."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule import passes
from chainrule.backends.numpy import Executable, compile_graph
from chainrule.errors import BoundsError, GraphError
from chainrule.graph import ABSTRACT, Graph, Node
from chainrule.origin import Origin
from chainrule.primitive import Primitive, Sample
from chainrule.primitives import REGISTRY
from chainrule.tensor import Tensor
from chainrule.trace import trace_program
from chainrule.types import type_of
from chainrule.verify import verify

Array = np.ndarray[Any, Any]


def same_bits(one: Any, other: Any) -> bool:
    """Equal in dtype, shape and every bit; only the sign of a NaN may differ."""
    a, b = np.asarray(one), np.asarray(other)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.kind == "f":
        a, b = (np.where(np.isnan(each), np.array(np.nan, a.dtype), each) for each in (a, b))
    return np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def graph_of(function: Callable[..., Any], *arrays: Array) -> Graph:
    return trace_program(function, [type_of(each) for each in arrays]).graph


# -- every primitive -------------------------------------------------------------------------------------
def calls() -> list[Any]:
    return [
        pytest.param(record, sample, id=f"{name}-{index}")
        for name, record in REGISTRY.items()
        if isinstance(record, Primitive)
        for index, sample in enumerate(record.samples)
    ]


@pytest.mark.parametrize(("record", "sample"), calls())
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_primitive_gives_the_bits_of_its_meaning(record: Primitive, sample: Sample, order: Any) -> None:
    for dtype in (np.float64, np.float32):
        arrays = [
            np.asarray(each, dtype if each.dtype == np.float64 else None, order=order)
            for each in sample.arrays(seed=3)
        ]
        inputs = tuple(Node(None, (), {}, type_of(each), None, (), ABSTRACT) for each in arrays)
        try:
            type_ = record.infer(*(each.type for each in inputs), **sample.attributes)
        except TypeError:
            continue  # the sample is one of mixed dtypes
        node = Node(record, inputs, sample.attributes, type_, None, (Origin(),), ABSTRACT)
        graph = verify(Graph(inputs, (node,)))
        with np.errstate(all="ignore"):
            (wanted,) = graph.evaluate(np, *arrays)
        run = compile_graph(graph)
        for _ in range(3):
            assert same_bits(run(arrays)[0], wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int64", "bool"])
@pytest.mark.parametrize("number", [0, 1, -1, True, 2.5, np.float32(2.5), np.zeros(4)])
def test_choosing_on_the_bits_is_np_where(dtype: str, number: Any) -> None:
    """NumPy's where for every pairing of dtypes, -0.0 and NaN payloads included."""
    floating = dtype.startswith("float")
    x = np.array([-0.0, 1.0, np.nan, -3.0] if floating else [0, 1, 2, -3]).astype(dtype)
    y = np.array([1, 2, 3, 4]).astype(dtype)
    condition = np.array([True, False, True, True])
    for choose in (
        lambda xp, c, x, y: xp.where(c, x, number),
        lambda xp, c, x, y: xp.where(c, number, x),
        lambda xp, c, x, y: xp.where(c, y, x),
        lambda xp, c, x, y: xp.where(c, xp.where(c, x, y), x[:1]),
    ):
        wanted = choose(np, condition, x, y)
        record = Primitive("choose", "", lambda *types: type_of(wanted), choose)  # noqa: B023 - used at once
        inputs = tuple(Node(None, (), {}, type_of(each), None, (), ABSTRACT) for each in (condition, x, y))
        node = Node(record, inputs, {}, type_of(wanted), None, (Origin(),), ABSTRACT)
        run = compile_graph(Graph(inputs, (node,)))
        for _ in range(2):
            (found,) = run([condition, x, y])
            assert found.dtype == wanted.dtype
            assert found.tobytes() == wanted.tobytes()


# -- random programs -------------------------------------------------------------------------------------
UNARY: list[Callable[[Any], Any]] = [
    cr.exp, cr.tanh, cr.sin, cr.sigmoid, cr.relu, cr.abs, cr.square, cr.negative, cr.sign, cr.softplus,
    cr.erf, cr.stop_gradient, cr.flip,
    lambda x: cr.sqrt(cr.abs(x)),
    lambda x: cr.negative(-x),
    lambda x: x * 1.0,
    lambda x: (x + 0.0) / 1.0 - 0.0,
    lambda x: cr.where(x > 0, x, 0.0),
    lambda x: cr.clip(x, -1.0, 0.5),
    lambda x: cr.astype(x > 0.25, x.dtype),
    lambda x: cr.cumulative_sum(x, axis=0),
    lambda x: x.T,
    lambda x: x.T.reshape(3, 3),
    lambda x: cr.roll(x, 1, axis=0),
    lambda x: cr.broadcast_to(cr.sum(x, axis=0), (3, 3)),
    lambda x: cr.broadcast_to(cr.max(x, axis=1, keepdims=True), (3, 3)),
    lambda x: cr.broadcast_to(cr.mean(x), (3, 3)),
    lambda x: cr.logsumexp(x, axis=1, keepdims=True) - x,
    lambda x: cr.softmax(x, axis=0),
    lambda x: x[np.array([2, 0, 1])],
    lambda x: cr.concat([x[1:], x[:1]], axis=0),
    cr.checkpoint(lambda y: cr.tanh(y) * y),
    lambda x: cr.scan(lambda c, row: (c * 0.5 + row, cr.tanh(c)), x[0], x)[1],
]  # fmt: skip
BINARY: list[Callable[[Any, Any], Any]] = [
    cr.add, cr.subtract, cr.multiply, cr.maximum, cr.minimum, cr.matmul,
    lambda x, y: x / (cr.abs(y) + 1.0),
    lambda x, y: x + (-y),
    lambda x, y: x.T @ y,
    lambda x, y: x @ y.T,
    lambda x, y: cr.where(x > y, x, y),
    lambda x, y: x * cr.broadcast_to(y[0], (3, 3)),
    lambda x, y: x - cr.mean(y, axis=1, keepdims=True),
]  # fmt: skip


@st.composite
def programs(draw: st.DrawFn) -> Callable[[Tensor, Tensor], list[Tensor]]:
    """A random program on two 3 x 3 matrices, which returns some of the values it computes."""
    steps: list[tuple[Any, ...]] = []
    for count in range(2, 2 + draw(st.integers(1, 12))):
        at = st.integers(0, count - 1)
        if draw(st.booleans()):
            steps.append((draw(st.sampled_from(UNARY)), draw(at)))
        else:
            steps.append((draw(st.sampled_from(BINARY)), draw(at), draw(at)))
    chosen = draw(st.lists(st.integers(0, len(steps) + 1), min_size=1, max_size=4))

    def program(a: Tensor, b: Tensor) -> list[Tensor]:
        values = [a, b]
        for operation, *operands in steps:
            values.append(operation(*(values[each] for each in operands)))
        return [values[each] for each in chosen]

    return program


def matrices(seed: int, dtype: Any) -> list[Array]:
    generator = np.random.default_rng(seed)
    found = [generator.normal(size=(3, 3)).astype(dtype) for _ in range(2)]
    found[0][0, 0], found[1][1, 2] = -0.0, 0.0
    return found


@settings(max_examples=150)
@given(programs(), st.sampled_from([np.float32, np.float64]), st.booleans())
def test_random_programs_give_the_bits_of_the_eager_run(program: Any, dtype: Any, column_major: bool) -> None:
    run = None
    for seed in (0, 1, 0, 2):
        arrays = [np.asarray(each, order="F" if column_major else "C") for each in matrices(seed, dtype)]
        with np.errstate(all="ignore"):
            wanted = program(*(cr.asarray(each) for each in arrays))
        run = run or compile_graph(graph_of(program, *arrays))
        for ours, eager in zip(run(arrays), wanted, strict=True):
            assert same_bits(ours, eager.numpy())


@settings(max_examples=50)
@given(programs(), st.sampled_from([np.float32, np.float64]))
def test_gradients_of_random_programs_give_the_bits_of_the_eager_run(program: Any, dtype: Any) -> None:
    def loss(a: Tensor, b: Tensor) -> Tensor:
        return cr.sum(cr.stack([cr.mean(each) for each in program(a, b)]))

    both = cr.value_and_grad(loss, argnums=(0, 1))
    run = cr.compile(both, backend="numpy")
    for seed in (0, 1, 0):
        arrays = [cr.asarray(each) for each in matrices(seed, dtype)]
        with np.errstate(all="ignore"):
            value, gradients = both(*arrays)
        our_value, our_gradients = run(*arrays)
        assert same_bits(our_value.numpy(), value.numpy())
        for ours, eager in zip(our_gradients, gradients, strict=True):
            assert same_bits(ours.numpy(), eager.numpy())


# -- what is handed over ---------------------------------------------------------------------------------
def executable(function: Callable[..., Any], *arrays: Array) -> Executable:
    """Compiled, and past its first run."""
    run = compile_graph(graph_of(function, *arrays))
    run(list(arrays))
    return run


OUTPUTS: list[Callable[[Any], Any]] = [
    lambda x: x,
    lambda x: x.T,
    cr.exp,
    lambda x: cr.exp(x).T,
    lambda x: cr.exp(x)[0],
    lambda x: cr.exp(x).reshape(9),
    cr.sum,
    lambda x: cr.broadcast_to(cr.sum(x), (3, 3)),
    lambda x: cr.zeros((2, 2)),
    cr.argmax,
    lambda x: cr.matmul(x, x).T,
    lambda x: cr.scan(lambda c, row: (c, row), x[0], x),
]


@pytest.mark.parametrize("function", OUTPUTS)
def test_outputs_are_fresh_row_major_and_read_only(function: Callable[[Any], Any]) -> None:
    x = np.arange(9.0).reshape(3, 3)
    run = compile_graph(graph_of(function, x))
    kept: list[list[Array]] = []
    for k in range(4):
        given = x + k
        found = run([given])
        kept.append([each.copy() for each in found])
        for each, copy in zip(found, kept[-1], strict=True):
            assert type(each) is np.ndarray
            assert not each.flags.writeable
            assert each.flags.c_contiguous
            given.fill(np.nan)  # the caller's own array may change
            run([x - 1.0])  # and so may the arena
            assert same_bits(each, copy)


def test_one_value_may_be_several_outputs() -> None:
    run = executable(lambda x: [y := cr.exp(x), y, x, x], np.ones(3))
    found = run([np.zeros(3)])
    assert [each.tolist() for each in found] == [[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]]


def test_threads_do_not_share_an_arena() -> None:
    def function(x: Tensor) -> Tensor:
        for _ in range(30):
            x = cr.sin(x) + cr.cos(x) * 0.5
        return x

    run = executable(function, np.zeros((50, 50)))
    given = [np.full((50, 50), float(k)) for k in range(8)]
    wanted = [run([each])[0] for each in given]
    wrong: list[int] = []

    def work(k: int) -> None:
        for _ in range(20):
            if not same_bits(run([given[k]])[0], wanted[k]):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong


# -- what it does not do again ---------------------------------------------------------------------------
def test_memory_is_used_again() -> None:
    def function(x: Tensor) -> Tensor:
        for _ in range(100):
            x = cr.sin(x) * 2.0
        return cr.sum(x)

    text = executable(function, np.zeros((4, 5))).show("python")
    assert text.count("= block(") == 1
    assert text.count("sin(") == 100


def test_layouts_beyond_the_eighth_are_interpreted() -> None:
    x = np.arange(720.0).reshape(2, 3, 4, 5, 6)
    run = executable(lambda x: cr.sum(cr.exp(x * 0.001), axis=(0, 2)), x)
    for k in range(12):
        order = np.random.default_rng(k).permutation(5)
        other = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
        np.testing.assert_allclose(run([other])[0], np.exp(x * 0.001).sum((0, 2)), rtol=1e-12)


def test_a_loop_body_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Graph] = []
    simplify = passes.simplify
    monkeypatch.setattr(passes, "simplify", lambda graph: made.append(graph) or simplify(graph))
    x = np.ones((20, 3))
    run = executable(lambda x: cr.scan(lambda c, row: (cr.tanh(c + row), c), x[0], x), x)
    run([x])
    assert len(made) == 2  # the program, and the body


@pytest.mark.parametrize("name", ["run", "arena", "lambda", "my-function", "add"])
def test_a_primitive_may_have_any_name(name: str) -> None:
    def meaning(xp: Any, x: Array) -> Array:
        return xp.sort(np.array(x, copy=True)) + 1.0

    record = Primitive(name, "", lambda x: x, meaning)
    x = Node(None, (), {}, type_of(np.zeros(3)), None, (), ABSTRACT)
    y = Node(record, (x,), {}, x.type, None, (Origin(),), ABSTRACT)
    run = compile_graph(Graph((x,), (y,)))
    for _ in range(2):
        assert run([np.array([3.0, 1.0, 2.0])])[0].tolist() == [2.0, 3.0, 4.0]


# -- errors ----------------------------------------------------------------------------------------------
def test_an_index_out_of_range_names_the_operation() -> None:
    run = compile_graph(graph_of(lambda x, i: cr.take(x, i) * 2.0, np.zeros(3), np.zeros(2, np.int64)))
    for _ in range(2):
        with pytest.raises(BoundsError, match=r"gather float64\[2\].*test_backend_numpy.*index 7"):
            run([np.zeros(3), np.array([0, 7])])
        assert run([np.ones(3), np.array([0, 2])])[0].tolist() == [2.0, 2.0]


def test_the_number_of_values_is_checked() -> None:
    with pytest.raises(GraphError, match="1 inputs but was given 2"):
        compile_graph(graph_of(lambda x: x, np.zeros(3)))([np.zeros(3), np.zeros(3)])


def test_nan_and_inf_are_values_without_warnings(recwarn: pytest.WarningsRecorder) -> None:
    run = executable(lambda x: [cr.log(x), 1.0 / x, cr.exp(x * 1e6)], np.zeros(2))
    logarithm, inverse, power = run([np.array([0.0, 1.0])])
    assert logarithm.tolist() == [-np.inf, 0.0]
    assert inverse.tolist() == [np.inf, 1.0]
    assert power.tolist() == [1.0, np.inf]
    assert not recwarn


# -- showing ---------------------------------------------------------------------------------------------
def test_what_runs_can_be_read() -> None:
    compiled = cr.compile(lambda x: cr.sum(cr.where(x > 0, x, 0.0) * 2.0), backend="numpy")
    compiled(cr.ones(3))
    text = compiled.show("python")
    assert "def run(inputs, arena):" in text
    assert "# where: forward test_backend_numpy.py" in text
    assert "nodes as traced" in compiled.show("passes")
    assert compiled.show("simplified").startswith("graph(")
    with pytest.raises(ValueError, match=r"can show only .* not 'assembly'"):
        compiled.show("assembly")
