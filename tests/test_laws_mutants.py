"""The mutation check itself: survivors and stale entries fail it. `make mutants` runs it on everything."""

import dataclasses

import pytest

from chainrule import laws
from chainrule.primitives import REGISTRY
from tools import mutants
from tools.tampering import WALKS, mutants_of


@pytest.mark.parametrize("name", ["multiply", "max", "gather", "softmax", "where", "concat"])
def test_the_laws_notice_every_fault_that_is_not_listed(name):
    found = mutants_of(REGISTRY[name])
    assert len(found) > 10
    assert len({each.name for each in found}) == len(found)
    survived = [each.name for each in found if mutants.caught_by(each) is None]
    assert set(survived) <= mutants.equivalents().keys()


@pytest.mark.parametrize("name", WALKS)
def test_the_laws_notice_every_fault_of_the_walk(name):
    some = [REGISTRY[each] for each in ("add", "multiply", "tanh", "concat", "softmax")]
    assert mutants.walk_caught_by(name, some) is not None


def test_faults_fit_what_they_are_made_from():
    names = {each.name for each in mutants_of(REGISTRY["divide"])}
    assert "divide pullback 1, operation 2 negative: abs instead" in names
    assert "divide pullback 0: missing" in names
    assert "divide pullback: rules of other operands" in names
    assert "divide type: another dtype" in names
    assert "divide meaning, call 0 divide: operands swapped" in names
    assert not any("operands swapped" in each.name for each in mutants_of(REGISTRY["add"]))


def test_one_record_can_be_checked_alone(capsys):
    assert mutants.main(["--only", "tanh"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("(0 equivalent, listed) (limit 100%) PASS")


def test_a_survivor_fails_the_check(capsys):
    assert mutants.report({"a: caught": "types", "b: survived": None}, {}, 1.0) == 1
    out = capsys.readouterr().out
    assert "SURVIVED  b: survived" in out
    assert "BAR 2-mutants: 50.00% of 2 mutants caught (0 equivalent, listed) (limit 100%) FAIL" in out


@pytest.mark.parametrize("fates", [{"a": "types"}, {"b": "types"}])
def test_a_stale_entry_fails_the_check(capsys, fates):
    assert mutants.report({**fates, "c": "types"}, {"a": "for a reason"}, 1.0) == 1
    assert "STALE     a" in capsys.readouterr().out


def test_a_record_that_breaks_a_law_by_itself_stops_the_check(monkeypatch):
    """Else every fault would seem to be noticed."""
    broken = dataclasses.replace(REGISTRY["tanh"], pullback=(lambda ops, g, y, x: g,))
    monkeypatch.setattr(laws, "records", lambda: [broken])
    with pytest.raises(laws.LawError, match="tanh, sample 0"):
        mutants.main(["--only", "tanh"])


def test_every_equivalent_mutant_has_a_reason_in_words():
    assert all(len(reason.split()) >= 5 for reason in mutants.equivalents().values())
