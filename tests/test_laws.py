"""Every law on every record, and the laws themselves: each must notice the fault it is there for."""

import numpy as np
import pytest

from chainrule import laws
from chainrule.errors import LawError
from chainrule.graph import Graph
from chainrule.ops import ops
from chainrule.primitive import Composite, Draw, Primitive, Sample
from chainrule.program import BACKENDS

RECORDS = laws.records()


@pytest.mark.filterwarnings("error:.*runs on the numpy backend instead")  # that would be no test of another
@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_laws_hold(record):
    laws.check(record, backends=BACKENDS)


def test_every_record_has_samples_that_reach_its_corners():
    """Scalars, empty arrays and broadcasting for everything that maps elements to elements."""
    passing_on = {"identity", "stop_gradient", "astype"}
    for record in RECORDS:
        shapes = [[each.shape for each in sample.operands] for sample in record.samples]
        assert shapes, f"{record.name} has no samples"
        if isinstance(record, Primitive) and record.elementwise and record.name not in passing_on:
            assert any(0 in shape for operands in shapes for shape in operands), (
                f"{record.name}: no empty array"
            )
            assert any(shape == () for operands in shapes for shape in operands), f"{record.name}: no scalar"
            broadcast = any(len(set(operands)) > 1 for operands in shapes)
            assert broadcast or len(shapes[0]) == 1, f"{record.name}: nothing to broadcast"


def test_every_record_that_computes_has_an_oracle():
    """The value law compares with somebody else's function; only what no library has may go without."""
    without = {record.name for record in RECORDS if record.oracle is None}
    assert without <= {"random_bits", "fold_in"}  # known answers of Random123 and JAX instead
    for record in RECORDS:
        if record.oracle is None:
            assert any(sample.value is not None for sample in record.samples)


# -- each law notices its fault ------------------------------------------------------------------------------
def cube(**changes):
    """A sound record of x³, with one thing changed."""
    facts = {
        "name": "cube",
        "doc": "x * x * x.",
        "infer": lambda x: x,
        "meaning": lambda xp, x: x * x * x,
        "pullback": (lambda ops, g, y, x: ops.multiply(g, ops.multiply(ops.square(x), 3)),),
        "samples": (Sample((Draw((2, 3)),)), Sample((Draw(()),)), Sample((Draw((0,)),))),
        "oracle": lambda x: np.power(x, 3),
    }
    return Primitive(**{**facts, **changes})


def broken_law(record, **options):
    with pytest.raises(LawError) as caught:
        laws.check(record, **options)
    return str(caught.value)


def test_a_sound_record_of_ones_own_passes():
    laws.check(cube())


def test_a_law_names_primitive_sample_and_numbers():
    text = broken_law(cube(pullback=(lambda ops, g, y, x: ops.multiply(g, ops.square(x)),)))
    assert text.startswith(
        "cube, sample 0 (float64[2,3]), breaks the law 'pullback': pullback through operand 0 gives"
    )
    assert "the difference" in text


def test_an_error_inside_a_rule_is_told_with_its_place():
    text = broken_law(cube(pullback=(lambda ops, g, y, x: ops.no_such_operation(g),)))
    assert "cube, sample 0" in text
    assert "no_such_operation" in text


@pytest.mark.parametrize(
    ("law", "changes"),
    [
        ("types", {"infer": lambda x: type(x)(x.shape, np.dtype("float32"))}),
        ("types", {"meaning": lambda xp, x: xp.reshape(x, (-1,)) ** 3}),
        ("oracle", {"meaning": lambda xp, x: x * x}),
        ("oracle", {"oracle": None, "samples": (Sample((np.array([2.0]),), value=[8.5]),)}),
        ("pullback", {"pullback": (lambda ops, g, y, x: g,)}),
        ("pullback", {"pullback": None}),
        ("pullback", {"pullback": (lambda ops, g, y, x: g,), "analytic": False}),
        ("convention", {"samples": (Sample((np.array([0.0]),), convention=([1.0],)),)}),
        (
            "linear",
            {
                "pullback": (lambda ops, g, y, x: ops.add(g, 1),),
                "samples": (Sample((np.zeros(2),), convention=([2, 2],)),),
            },
        ),
        ("barrier", {"barrier": True}),
        ("single_precision", {"ulps": 1e-3}),
    ],
)  # fmt: skip
def test_each_law_notices_its_fault(law, changes):
    assert f"breaks the law {law!r}" in broken_law(cube(**changes))


def test_a_second_derivative_that_disagrees_is_noticed():
    """The rule's value is right, but one factor is hidden from the second walk."""

    def rule(ops, g, y, x):
        return ops.multiply(g, ops.multiply(ops.square(ops.stop_gradient(x)), 3))

    assert "breaks the law 'second_derivative'" in broken_law(cube(pullback=(rule,)))


def test_a_rule_that_is_not_linear_where_it_matters_fails_forward_mode():
    """|g| has the right pullback for g > 0 alone."""
    record = cube(pullback=(lambda ops, g, y, x: ops.multiply(ops.abs(g), ops.multiply(ops.square(x), 3)),))
    assert "breaks the law 'linear'" in broken_law(record, laws=[laws.linear])
    assert "breaks the law 'forward_mode'" in broken_law(record, laws=[laws.forward_mode])


def test_a_rule_that_looks_at_values_fails_to_be_traced():
    def rule(ops, g, y, x):
        return ops.multiply(g, 3 * x.value**2)

    assert "breaks the law" in broken_law(cube(pullback=(rule,)))


def test_a_backend_that_computes_something_else_is_noticed():
    def wrong(graph: Graph):
        return lambda values: [np.asarray(each) * 1.001 for each in graph.evaluate(np, *values)]

    assert "value on wrong" in broken_law(cube(), backends={"wrong": wrong})


def test_a_backend_with_another_dtype_is_noticed():
    def narrow(graph: Graph):
        return lambda values: [np.asarray(each, np.float32) for each in graph.evaluate(np, *values)]

    record = cube(samples=(Sample((np.ones(2),)),))
    assert "float32 instead of float64" in broken_law(record, backends={"narrow": narrow})


def test_a_composite_is_held_to_the_same_laws():
    samples = (Sample((Draw((3,), 0.2, 2.0),)),)
    laws.check(Composite("cubed", "x³.", lambda ops, x: ops.pow(x, 3.0), samples, oracle=lambda x: x**3))
    hidden = Composite("hidden", "x³.", lambda ops, x: ops.multiply(ops.stop_gradient(x), x), samples)
    assert "breaks the law 'pullback'" in broken_law(hidden)


def test_matmul_keeps_the_laws_for_every_combination_of_ranks():
    """The surface turns vectors into rows and columns and drops their axes again; batches broadcast."""
    shapes = [
        ((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((4, 2, 3), (3,)), ((3,), (4, 3, 2)),
        ((2, 3), (4, 3, 2)), ((4, 2, 3), (3, 2)), ((4, 1, 2, 3), (5, 3, 2)), ((0,), (0,)), ((2, 0), (0,)),
        ((0, 2, 3), (3,)),
    ]  # fmt: skip
    samples = tuple(Sample((Draw(a), Draw(b))) for a, b in shapes)
    laws.check(
        Composite("matmul", "All ranks.", lambda ops, a, b: ops.matmul(a, b), samples, oracle="numpy.matmul")
    )


def test_einsum_with_an_ellipsis_keeps_the_laws():
    calls = [
        ("...ij,...jk->...ik", (2, 1, 2, 3), (4, 3, 2)), ("...i,i", (2, 3), (3,)),
        ("...,...", (2, 3), (1, 3)), ("i...,...->i...", (2, 3), (3,)),
        ("ij...->...", (2, 3, 4)), ("...ii->...i", (2, 3, 3)), ("... i -> i ...", (2, 3)),
    ]  # fmt: skip
    samples = tuple(Sample(tuple(map(Draw, shapes)), {"subscripts": text}) for text, *shapes in calls)
    laws.check(
        Composite(
            "einsum",
            "With an ellipsis.",
            lambda ops, *operands, subscripts: ops.einsum(subscripts, *operands),
            samples,
            oracle=lambda *arrays, subscripts: np.einsum(subscripts, *arrays),
        )
    )


def test_a_cotangent_of_another_shape_is_refused_even_if_the_number_of_elements_agrees():
    record = cube(pullback=(lambda ops, g, y, x: ops.reshape(g, (-1,)),), samples=(Sample((Draw((2, 3)),)),))
    assert "gave float64[6], not float64[2,3]" in broken_law(record)


def test_checks_are_the_same_alone_and_in_company():
    """Random numbers depend on record and law alone."""
    record = cube(ulps=1e-3)
    alone, together = broken_law(record, laws=[laws.single_precision]), broken_law(record)
    assert alone == together


def test_ops_is_the_vocabulary_the_laws_check():
    assert {record.name for record in RECORDS} >= {"call", "scan"}
    assert all(hasattr(ops, record.name) for record in RECORDS if record.name not in {"call", "scan"})
