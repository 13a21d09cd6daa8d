"""Random whole programs on the native backend, fresh ones in every run, and the fuzzer's own logic.

A fault is printed with its seed and a small program that has it; `python -m tools.fuzz --seed N --count 1`
runs it again.
"""

import json
import os
import signal

import numpy as np
import pytest

import chainrule as cr
from chainrule.backends.native.engine import Executable
from chainrule.graph import Graph
from chainrule.trace import trace_program
from chainrule.types import Type, type_of
from tools import fuzz
from tools.enclosures import enclose, exactly
from tools.programs import Input, Program, Step, draw, random_program

FRESH = 500


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch):
    monkeypatch.setenv("CHAINRULE_CACHE", fuzz.NOWHERE)


def faults(backend, first, count):
    """What fails, made small, as one text."""
    found = [each for each in fuzz.outcomes(range(first, first + count), backend, jobs=2) if each.fault]
    return "\n".join(fuzz.report(each, backend) for each in found[:3])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("native", FRESH),
        ("guarded", 40),
        ("avx2", 40),
        ("x86-64", 40),
        ("interpreter", 100),
        ("in-place", 100),
        ("numpy", 50),
    ],
)
def test_fresh_programs_keep_to_their_bounds(name, count):
    first = int.from_bytes(os.urandom(5), "big")
    text = faults(fuzz.backend_called(name), first, count)
    assert not text, f"python -m tools.fuzz --seed {first} --count {count} --backend {name}\n{text}"


# -- what the fuzzer notices ---------------------------------------------------------------------------------
def disturbed(change):
    """The reference, with its last floating result changed."""

    def backend(graph: Graph):
        def run(values):
            results = [np.array(each) for each in graph.evaluate(np, *values)]
            for each in results[::-1]:
                if each.dtype.kind == "f" and each.size:
                    each.reshape(-1)[-1] = change(each.reshape(-1)[-1])
                    break
            return results

        return run

    return backend


DENSE = Program(
    (Input((4, 8), "float32", seed=1), Input((8, 3), "float32", seed=2)),
    (Step("cr.tanh(@0 @ @1)", (0, 1)), Step("cr.softmax(@0)", (2,)), Step("cr.sum(@0 * @1)", (2, 3))),
    (3, 4),
)


@pytest.mark.parametrize("change", [lambda x: x * (1 + 3e-5), lambda x: x + 1e-4, lambda x: np.nan])
def test_a_result_that_is_off_by_more_than_rounding_is_noticed(change):
    assert not fuzz.outcome_of(DENSE, disturbed(lambda x: x)).fault
    assert fuzz.outcome_of(DENSE, disturbed(change)).fault.startswith("output 1 of the backend at ()")


def test_a_result_of_another_dtype_or_shape_is_noticed():
    for change, told in ((lambda x: x.astype("f8"), "is float64"), (lambda x: x[None], "(1, 4, 3)")):
        backend = lambda graph, c=change: lambda v: [c(np.asarray(e)) for e in graph.evaluate(np, *v)]  # noqa: E731
        assert told in fuzz.outcome_of(DENSE, backend).fault


def test_bounds_are_close():
    """Most enclosures are hardly wider than the rounding that they allow; few say nothing."""
    outcomes = [fuzz.tried(random_program(seed), disturbed(lambda x: x), seed) for seed in range(150)]
    assert not [each.fault for each in outcomes if each.fault]
    assert sum(each.unknown for each in outcomes) < 0.05 * sum(each.numbers for each in outcomes)
    caught = [fuzz.tried(random_program(seed), disturbed(lambda x: x * 1.001 + 1e-3)) for seed in range(150)]
    assert sum(bool(each.fault) for each in caught) > 100


def crashing(graph: Graph):
    """Dies on every program that takes a tangent; never ends on one that takes a cosine."""
    names = {node.name for node in graph.nodes}

    def run(values):
        if "tan" in names:
            os.kill(os.getpid(), signal.SIGKILL)
        while "cos" in names:
            pass
        return graph.evaluate(np, *values)

    return run


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_crash_and_a_hang_are_faults_and_the_rest_goes_on(monkeypatch):
    monkeypatch.setattr(fuzz, "PATIENCE", 1.0)
    texts = {3: "cr.tan(@0)", 5: "cr.cos(@0)"}
    programs = {
        seed: Program((Input((2,), "float64"),), (Step(texts.get(seed, "cr.sin(@0)"), (0,)),), (1,))
        for seed in range(8)
    }
    monkeypatch.setattr(fuzz, "random_program", programs.__getitem__)
    found = {each.seed: each.fault for each in fuzz.outcomes(range(8), crashing, jobs=2)}
    assert sorted(found) == list(range(8))
    assert found[3] == "the process died of SIGKILL"
    assert found[5] == "no end within 1 s"
    assert not any(found[seed] for seed in range(8) if seed not in texts)


def test_a_failing_program_is_made_small():
    """Of twelve lines, the one at fault and what feeds it are left, or their values."""
    steps = [Step("cr.sin(@0)", (k,)) for k in range(6)]
    steps += [Step("cr.tan(@0)", (6,)), *(Step("@0 + @1", (k, 0)) for k in range(7, 12))]
    program = Program((Input((3,), "float64"),), tuple(steps), (12, 9))
    small = fuzz.shrunk(program, lambda each: any("tan" in step.text for step in each.steps))
    assert [step.text for step in small.steps] == ["cr.tan(@0)"]
    assert len(small.inputs) == 1
    assert "v1 = cr.tan(x0)" in small.script


def test_a_printed_program_runs_by_itself():
    for seed in range(20):
        program = random_program(seed)
        names = {}
        exec(compile(program.script, "<script>", "exec"), names)
        for ours, theirs in zip(program.arrays, names["arrays"], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        names["run"](*map(cr.asarray, names["arrays"]))


def test_the_command_prints_a_summary_and_a_verdict(tmp_path, capsys, monkeypatch):
    log = tmp_path / "fuzz.json"
    arguments = ["--seed", "7", "--count", "5", "--backend", "numpy", "--jobs", "1", "--log", str(log)]
    assert fuzz.main(arguments) == 0
    assert capsys.readouterr().out.endswith("BAR 3-fuzz: 0 faults in 5 programs (limit 0 faults) PASS\n")
    summary = json.loads(log.read_text())
    assert (summary["programs"], summary["first seed"], summary["faults"]) == (5, 7, {})
    monkeypatch.setitem(fuzz.BACKENDS, "wrong", disturbed(lambda x: x + 1e3))
    assert fuzz.main(["--seed", "7", "--count", "5", "--backend", "wrong", "--show", "1"]) == 1
    assert "# seed " in capsys.readouterr().out


def test_nothing_is_reduced_in_a_loop_over_nothing():
    """The products are none, and share a loop with no reduction of what they read."""

    def program(x, none):
        return cr.vecdot(x, none), cr.max(x, axis=(0, 1)), cr.sum(x, axis=1)

    x, none = np.arange(6, dtype=np.float32).reshape(3, 2), np.empty((0, 3, 2), np.float32)
    products, largest, sums = cr.compile(program)(x, none)
    assert products.shape == (0, 3)
    assert largest.item() == 5
    assert sums.tolist() == [1, 5, 9]


# -- enclosures ----------------------------------------------------------------------------------------------
def enclosed(function, *arrays):
    graph = trace_program(function, [type_of(each) for each in arrays]).graph
    return enclose(graph, arrays)[0]


def test_a_power_of_nan_may_be_1_where_its_exponent_may_be_0():
    base, exponent = np.array([np.nan, np.nan]), np.array([1e-30, 1.0])
    found = enclosed(lambda x, p: cr.pow(x, cr.log10(cr.square(p) + 1.0)), base, exponent)
    assert not found.refuses(np.array([1.0, np.nan])).any()
    assert found.refuses(np.array([1.0, 1.0])).tolist() == [False, True]
    root = enclosed(lambda x: cr.pow(x, 0.5), np.array([-np.inf, 4.0]))
    assert not root.refuses(np.array([np.inf, 2.0])).any(), "NumPy's own is inf or NaN"


def test_three_factors_may_be_multiplied_in_any_order():
    small, large = np.float32(1e-25), np.float32(1e25)

    def product(*factors):
        return enclosed(
            lambda x, y, z: cr.einsum("i,i,i->", x, y, z), *(np.full(1, each) for each in factors)
        )

    assert not product(large, large, small).refuses(np.float32(np.inf)), "1e50 is beyond float32"
    assert not product(small, small, large).refuses(np.float32(0)), "and so is 1e-50"
    assert product(large, small, np.float32(1)).refuses(np.float32(0))


def test_a_common_factor_that_is_infinite_may_be_taken_out():
    """f·3 - f·2 is inf - inf, and f·(3 - 2) is inf, never a number."""
    endless = np.array([np.inf])
    found = enclosed(lambda f: f * 3.0 - f * 2.0, endless)
    assert not any(found.refuses(np.array([each])) for each in (np.inf, -np.inf, np.nan))
    assert found.refuses(np.array([1.0]))
    assert enclosed(lambda f: f * 3.0 - 2.0, endless).refuses(np.array([np.nan]))


def test_both_sides_of_a_jump_are_enclosed():
    """1/3 + 1/3 + 1/3 may be 1 or a little less: its floor is 0 or 1, and so is what hangs on it."""
    third = np.full(3, np.float32(1) / 3, np.float32)
    found = enclosed(lambda x: cr.floor(cr.sum(x)), third)
    assert (found.low, found.high) == (0, 1)
    found = enclosed(lambda x: cr.where(cr.sum(x) < 1.0, 5.0, 7.0), third)
    assert (found.low, found.high) == (5, 7)
    assert not enclosed(lambda x: cr.sum(x) < 2.0, third).anything


def test_ties_of_numbers_that_are_certain_are_certain():
    x = np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 0.5]], np.float32)
    np.testing.assert_array_equal(enclosed(lambda x: cr.argmax(2.0 * x, axis=1), x).low, [1, 0])
    assert enclosed(lambda x: cr.argmax(2.0 * x, axis=1), x).certain.all()
    assert not enclosed(lambda x: cr.argmax(cr.exp(x) - cr.exp(x), axis=1), x).certain.any()


def test_turning_points_inside_an_enclosure_count():
    wide = exactly(np.array([-0.5, 1.0, 7.0]))
    wide = type(wide)(wide.low, wide.low + 1.5, wide.dtype)  # [-0.5, 1], [1, 2.5], [7, 8.5]
    for function, low, high in (
        (cr.abs, [0.0, 1.0, 7.0], [1.0, 2.5, 8.5]),
        (cr.sin, [np.sin(-0.5), np.sin(2.5), np.sin(7.0)], [np.sin(1.0), 1.0, 1.0]),
        (cr.cos, [np.cos(1.0), np.cos(2.5), np.cos(8.5)], [1.0, np.cos(1.0), np.cos(7.0)]),
    ):
        (found,) = enclose(trace_program(function, [type_of(wide.low)]).graph, [wide])
        np.testing.assert_allclose(found.low, low, rtol=1e-14)
        np.testing.assert_allclose(found.high, high, rtol=1e-14)


def test_styles_of_numbers():
    assert np.unique(draw((100,), "float32", "coarse", 0)).size < 20
    assert not np.isfinite(draw((200,), "float64", "wild", 0)).all()
    assert draw((50,), "uint8", "normal", 0).max() < 10


def test_a_masked_store_of_truncated_integers_keeps_its_mask() -> None:
    """Found by the fuzzer (seed 2001035): whole vectors were stored beyond the end of the caller's array."""
    graph = trace_program(lambda v: v.astype("int32"), [Type((46, 17), np.dtype("int64"))]).graph
    program = Executable(graph, guarded=True).program
    given = np.arange(782).reshape(46, 17)
    assert np.array_equal(program([given])[0], given)
    assert "freeze <" in program.show("llvm")
