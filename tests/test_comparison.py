"""What a result is measured against: the baselines are scikit-learn's, the interval is SciPy's bootstrap."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.metrics import log_loss, root_mean_squared_error

from chainrule.errors import DataError
from chainrule.recipe import Recipe
from chainrule.train import comparison
from chainrule.train.comparison import compare, comparison_of
from chainrule.train.result import Run
from chainrule.train.table import fit_table, load

ROWS = 400


def columns() -> dict[str, Any]:
    random = np.random.default_rng(0)
    area = random.normal(100, 30, ROWS)
    code = random.integers(0, 40, ROWS)
    price = np.exp(area / 60 + code / 40 + random.normal(0, 0.1, ROWS))
    return {"area": area, "code": [f"c{each}" for each in code], "price": price, "dear": (price > 8).tolist()}


def trained(target: str, tmp_path: Path | None = None, source: str = "") -> Run:
    recipe = Recipe.from_document(
        {
            "data": {"target": target, "source": source, "drop": ["dear" if target == "price" else "price"]},
            "network": {"hidden": [8]},
            "training": {"epochs": 5},
        }
    )
    return fit_table(recipe, data=None if source else columns(), runs=tmp_path)


def by_name(document: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {each["name"]: each["metrics"] for each in document["baselines"]}


def test_baselines_are_those_of_scikit_learn_on_the_same_features() -> None:
    run = trained("price")
    made = run.prepared
    parts = (made.made.train, made.made.validation)
    numeric = np.concatenate([part.features.numeric for part in parts])
    codes = np.concatenate([part.features.codes for part in parts])
    bent = made.transform.apply(np.concatenate([part.original for part in parts]))
    test = made.made.test

    boosted = HistGradientBoostingRegressor(random_state=0).fit(np.hstack([numeric, codes]), bent)
    asked = np.hstack([test.features.numeric, test.features.codes])
    expected = root_mean_squared_error(test.original, made.transform.invert(boosted.predict(asked)))
    measured = by_name(compare(run))
    assert measured["gradient boosting"]["rmse"] == pytest.approx(expected, rel=1e-5)

    levels = np.unique(codes)
    one_hot = np.hstack([numeric, codes == levels])
    ridge = Ridge(solver="sparse_cg", tol=1e-10).fit(one_hot, bent)
    asked = np.hstack([test.features.numeric, test.features.codes == levels])
    expected = root_mean_squared_error(test.original, made.transform.invert(ridge.predict(asked)))
    assert measured["ridge regression"]["rmse"] == pytest.approx(expected, rel=1e-3)

    mean = np.concatenate([part.original for part in parts]).mean()
    assert measured["always the mean"]["rmse"] == pytest.approx(
        math.sqrt(np.mean((test.original - mean) ** 2))
    )


def test_the_network_is_measured_as_in_its_result() -> None:
    for target in ("price", "dear"):
        run = trained(target)
        document = compare(run)
        assert document["on"] == "test"
        assert document["network"] == pytest.approx(run.metrics, rel=1e-6)


def test_class_frequencies() -> None:
    run = trained("dear")
    made = run.prepared.made
    share = np.concatenate([made.train.original, made.validation.original]).mean()
    expected = log_loss(made.test.original, np.full(len(made.test), share))
    assert by_name(compare(run))["class frequencies"]["log_loss"] == pytest.approx(expected)


@pytest.mark.parametrize(("target", "headline"), [("price", "rmse"), ("dear", "log_loss")])
def test_the_interval_is_what_resampling_the_rows_gives(target: str, headline: str) -> None:
    run = trained(target)
    made = run.prepared.made
    measured = comparison._Measured(made.task.kind, made.test.original)
    predictions = run.predict(made.table.take(made.test.rows))
    ours = predictions.values if target == "price" else predictions.probabilities
    theirs = comparison._constant(comparison._learned(run.prepared, "test"))
    low, middle, high = measured.ratio(ours, theirs) or ()
    document = compare(run)
    assert middle == pytest.approx(
        document["network"][headline] / document["baselines"][-1]["metrics"][headline]
    )

    def quotient(a: Any, b: Any, axis: int = -1) -> Any:
        return (a.mean(axis=axis) / b.mean(axis=axis)) ** (0.5 if target == "price" else 1.0)

    losses = measured.losses(ours), measured.losses(theirs)
    oracle = bootstrap(losses, quotient, paired=True, n_resamples=20_000, method="percentile", rng=0)
    # The ends of an interval from 2,000 resamples have a standard error of about 0.025 interval widths.
    np.testing.assert_allclose([low, high], oracle.confidence_interval, atol=0.1 * (high - low))


def test_many_rows_are_resampled_in_blocks() -> None:
    random = np.random.default_rng(0)
    targets = np.zeros(50_000)
    ours, theirs = random.normal(0, 1.0, 50_000), random.normal(0, 2.0, 50_000)
    low, middle, high = comparison._Measured("regression", targets).ratio(ours, theirs) or ()
    # For normal errors, log(RMSE a / RMSE b) has the variance 1/n.
    margin = 1.96 / math.sqrt(len(targets))
    np.testing.assert_allclose([low / middle - 1, high / middle - 1], [-margin, margin], rtol=0.1)
    assert low < 0.5 < high


def test_a_baseline_that_would_take_too_long_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "MOST_OPERATIONS", 1.0)
    document = compare(trained("price"))
    assert document["left_out"] == ["gradient boosting", "ridge regression"]
    assert list(by_name(document)) == ["always the mean"]


def test_it_is_kept_and_can_be_made_again_from_unchanged_data(tmp_path: Path) -> None:
    file = tmp_path / "houses.csv"
    lines = [",".join(columns()), *(",".join(map(str, row)) for row in zip(*columns().values(), strict=True))]
    file.write_text("\n".join(lines), encoding="utf-8")
    run = trained("price", tmp_path / "runs", str(file))
    assert run.folder is not None
    document = compare(run)
    kept = run.folder.path / comparison.DOCUMENT
    assert comparison_of(load(run.folder.path)) == document
    kept.unlink()
    assert comparison_of(load(run.folder.path)) == document
    kept.unlink()
    file.write_text("\n".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(DataError, match="has changed"):
        comparison_of(load(run.folder.path))


def test_nothing_held_out_is_nothing_to_compare() -> None:
    recipe = Recipe.from_document(
        {"data": {"target": "price"}, "split": {"test": 0, "validation": 0}, "training": {"epochs": 1}}
    )
    run = fit_table(recipe, data=columns())
    assert comparison_of(run) == {}
    with pytest.raises(DataError, match=r"split\.test"):
        compare(run)
