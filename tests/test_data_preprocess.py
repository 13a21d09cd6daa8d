"""Preprocessing against scikit-learn's own transformers, its way through JSON, and rows it has never seen."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)

from chainrule.data import Features, Preprocessor, Table, ames, fit_target, read_table, target_from_document
from chainrule.data.fitting import EMBEDDED_AT_MOST, RARE_BELOW
from chainrule.data.target import skewness
from chainrule.errors import DataError


def fit(
    columns: dict[str, Any], kinds: dict[str, Any] | None = None, **options: Any
) -> tuple[Table, Preprocessor]:
    table = read_table(columns, kinds=kinds)
    return table, Preprocessor.fit(table, **options)


def transform(preprocessor: Preprocessor, columns: dict[str, Any]) -> Features:
    return preprocessor.transform(read_table(columns, kinds=preprocessor.kinds), np.float64)


def through_json(preprocessor: Preprocessor) -> Preprocessor:
    return Preprocessor.from_document(json.loads(json.dumps(preprocessor.to_document())))


# Against scikit-learn -------------------------------------------------------------------------------


def test_numbers_are_scaled_and_imputed_as_scikit_learn_does() -> None:
    values = np.random.default_rng(0).normal(50, 7, 500)
    values[::9] = np.nan
    table, preprocessor = fit({"x": values})
    ours = preprocessor.transform(table, np.float64).numeric
    theirs = make_pipeline(StandardScaler(), SimpleImputer(strategy="median", add_indicator=True))
    np.testing.assert_allclose(ours, theirs.fit_transform(values[:, None]), rtol=1e-13, atol=1e-14)


def test_heavy_tails_are_scaled_by_the_middle_and_bounded() -> None:
    values = np.random.default_rng(1).normal(size=2000)
    values[5] = 1e12
    table, preprocessor = fit({"x": values})
    ours = preprocessor.transform(table, np.float64).numeric[:, 0]
    robust = RobustScaler(quantile_range=(5.0, 95.0), unit_variance=True).fit_transform(values[:, None])[:, 0]
    np.testing.assert_allclose(ours, robust / np.sqrt(1 + (robust / 3) ** 2), rtol=1e-13)
    assert np.abs(ours).max() <= 3.0, "one wild value stays within the bound"
    assert 0.8 < np.delete(ours, 5).std() < 1.2, "and does not flatten the others"
    assert "heavy tails" in preprocessor.treatments[0].reason


def test_a_mostly_zero_column_is_scaled_by_its_deviation() -> None:
    values = np.zeros(1000)
    values[:4] = [500, 600, 480, 800]
    table, preprocessor = fit({"pool": values, "other": np.arange(1000.0) + 0.5})
    ours = preprocessor.transform(table, np.float64).numeric[:, 0]
    assert np.ptp(ours[4:]) == 0.0
    assert (ours[:4] > 2.5).all()


def test_categories_are_encoded_as_scikit_learn_does() -> None:
    rng = np.random.default_rng(2)
    streets = rng.choice(["Elm", "Oak", "Été", "日本"], 300).tolist()
    table, preprocessor = fit({"street": streets})
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(np.array(streets)[:, None])
    ours = preprocessor.transform(table, np.float64)
    np.testing.assert_array_equal(ours.numeric, encoder.transform(np.array(streets)[:, None]))
    assert ours.names == tuple(f"street={level}" for level in encoder.categories_[0])
    assert ours.codes is None
    new = ["Oak", "Ash"]
    theirs = encoder.transform(np.array(new)[:, None])
    np.testing.assert_array_equal(transform(preprocessor, {"street": new}).numeric, theirs)


def test_many_categories_become_codes_as_scikit_learn_makes_them() -> None:
    rng = np.random.default_rng(3)
    towns = [f"town {int(n)}" for n in rng.zipf(1.4, 3000) if n < 10**6]
    table, preprocessor = fit({"town": towns})
    encoder = OrdinalEncoder(
        handle_unknown="use_encoded_value",
        unknown_value=-1,
        min_frequency=RARE_BELOW,
        max_categories=EMBEDDED_AT_MOST,
    ).fit(np.array(towns, object)[:, None])
    theirs = encoder.transform(np.array(towns, object)[:, None])[:, 0]
    ours = preprocessor.transform(table).codes
    assert ours is not None
    rare = int(theirs.max())  # scikit-learn gives rare levels the last code, ours is 1
    np.testing.assert_array_equal(ours[:, 0], np.where(theirs == rare, 1, theirs + 2))
    (embedded,) = preprocessor.embedded
    assert embedded.cardinality == ours.max() + 1
    assert embedded.untrained == (0,), "no value is missing in training"


def test_power_transform_of_the_target_is_scikit_learns() -> None:
    values = 1e6 - np.random.default_rng(4).gamma(2.5, 3, 400)
    transform = fit_target(values, "yeo-johnson")
    assert 0.0 < (transform.power or 0.0) < 2.0, "within the range that is kept"
    middle = RobustScaler(quantile_range=(5.0, 95.0), unit_variance=True)
    theirs = make_pipeline(middle, PowerTransformer()).fit_transform(values[:, None])[:, 0]
    np.testing.assert_allclose(transform.apply(values), theirs, rtol=1e-9, atol=1e-9)
    assert abs(skewness(transform.apply(values))) < 0.3


# The kinds of columns -------------------------------------------------------------------------------


def test_booleans_are_zero_or_one() -> None:
    _, preprocessor = fit({"garden": [True, False, None, True], "x": [1.5, 2.5, 3.5, 1.0]})
    features = transform(preprocessor, {"garden": [False, None], "x": [1.0, 1.0]})
    assert features.numeric[:, :2].tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert features.names[:2] == ("garden", "garden is missing")


def test_ordered_categories_become_numbers() -> None:
    order = ["poor", "fair", "good"]
    table, preprocessor = fit({"quality": ["good", "poor", "fair", None]}, ordinals={"quality": order})
    ours = preprocessor.transform(table, np.float64).numeric
    encoder = OrdinalEncoder(categories=[order])
    theirs = StandardScaler().fit_transform(encoder.fit_transform([["good"], ["poor"], ["fair"]]))[:, 0]
    np.testing.assert_allclose(ours[:3, 0], theirs, atol=1e-15)
    assert ours[3].tolist() == [0.0, 1.0], "missing is the median level, and says so"
    assert transform(preprocessor, {"quality": ["excellent"]}).numeric.tolist() == [[0.0, 1.0]], (
        "unknown: missing"
    )
    with pytest.raises(DataError, match="lacks good"):
        fit({"quality": ["good", "poor"]}, ordinals={"quality": ["poor"]})
    with pytest.raises(DataError, match="is a number"):
        fit({"quality": [1.0, 2.0]}, ordinals={"quality": order})
    with pytest.raises(DataError, match="Did you mean 'quality'"):
        fit({"quality": ["good", "poor"]}, ordinals={"qualitty": order})


def test_times_become_days_and_places_on_circles() -> None:
    when = np.arange("2023-01-01T06", "2025-01-01T06", 36, dtype="datetime64[h]")
    table, preprocessor = fit({"when": when})
    features = preprocessor.transform(table, np.float64)
    circles = [f"when {cycle} {wave}" for cycle in ("year", "week", "day") for wave in ("sine", "cosine")]
    assert features.names == ("when days", *circles)
    assert abs(features.numeric[:, 0].mean()) < 1e-12
    radius = features.numeric[:, 1::2] ** 2 + features.numeric[:, 2::2] ** 2
    np.testing.assert_allclose(radius, 1.0, rtol=1e-12)
    weekly = {"when": np.array(["2024-06-01", "2024-06-08", "NaT"], "datetime64[D]")}
    one_year_later = transform(preprocessor, weekly).numeric
    np.testing.assert_allclose(one_year_later[0, 3:7], one_year_later[1, 3:7], atol=1e-9)
    assert one_year_later[2, 1:].tolist() == [0.0] * 6, "a missing time stands at the centre of every circle"
    _, dates = fit({"day": np.array(["2024-01-01", "2024-01-08", "2024-03-04"], "datetime64[D]")})
    assert dates.names == ("day days", "day year sine", "day year cosine"), "all Mondays, all at midnight"


def test_columns_of_no_use_are_left_out_with_the_reason() -> None:
    rows = 40
    _, preprocessor = fit({
        "x": np.arange(rows) % 7,
        "constant": np.ones(rows),
        "same": ["a"] * rows,
        "empty": [None] * rows,
        "id": np.arange(rows),
        "name": [f"customer {i}" for i in range(rows)],
    })  # fmt: skip
    assert [treatment.column for treatment in preprocessor.used] == ["x"]
    reasons = {treatment.column: treatment.reason for treatment in preprocessor.treatments}
    assert reasons["constant"] == reasons["same"] == "the same value in every training row"
    assert "missing" in reasons["empty"]
    assert "counts up" in reasons["id"]
    assert "all 40 values are different" in reasons["name"]


def test_a_column_may_lose_its_values_or_its_variety_in_the_training_rows() -> None:
    table = read_table(
        {"x": [1.0, 1.0, 2.0], "y": [None, None, 5.0], "z": [1.0, None, None], "w": [1.0, 2.0, 3.5]}
    )
    reasons = {
        treatment.column: treatment.reason for treatment in Preprocessor.fit(table.take([0, 1])).treatments
    }
    assert reasons["x"] == "the same value in every training row"
    assert reasons["y"] == "no training row has a value"
    assert reasons["z"] == "", "being missing may mean something"


def test_one_row_cannot_be_learned_from() -> None:
    with pytest.raises(DataError, match=r"Not one column .*'x': the same value in every training row"):
        fit({"x": [1.0], "y": ["a"]})


def test_a_hundred_thousand_rare_categories() -> None:
    rng = np.random.default_rng(5)
    rows = 100_000
    columns: dict[str, Any] = {f"c{i}": [f"v{n}" for n in rng.integers(0, 100_000, rows)] for i in range(2)}
    columns["skewed"] = [f"v{n}" for n in rng.zipf(1.1, rows) % 10**9]
    columns["once"] = [f"v{n // 2}" for n in range(rows)]
    table, preprocessor = fit(columns)
    features = preprocessor.transform(table)
    assert features.codes is not None
    assert features.codes.shape == (rows, 3)
    assert all(one.cardinality <= EMBEDDED_AT_MOST + 2 for one in preprocessor.embedded)
    assert "too rare" in preprocessor.treatments[0].reason
    assert "occurs in 5 training rows" in preprocessor.treatments[3].reason
    assert features.numeric.nbytes + features.codes.nbytes < 10 * 2**20
    assert len(json.dumps(preprocessor.to_document())) < 200_000


# Rows never seen ------------------------------------------------------------------------------------


def test_new_rows_may_lack_values_and_bring_unknown_ones() -> None:
    towns = [f"town {i % 40}" for i in range(400)]
    _, preprocessor = fit({"x": np.arange(400.0) ** 1.5, "street": ["Elm", "Oak"] * 200, "town": towns})
    features = transform(preprocessor, {"town": ["town 7", "Atlantis", None], "street": ["Ash", None, "Oak"],
                                        "x": [None, 1e30, -1e30], "more": [1, 2, 3]})  # fmt: skip
    assert np.isfinite(features.numeric).all()
    assert features.numeric[:, 1:].tolist() == [[0.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
    assert features.codes is not None
    assert features.codes[:, 0].tolist()[1:] == [1, 0]
    assert features.codes[0, 0] >= 2
    assert preprocessor.embedded[0].untrained == (0, 1)


def test_new_rows_are_read_as_the_kinds_of_the_old_ones(tmp_path: Any) -> None:
    codes = ["007", "12", "100"] * 20
    _, preprocessor = fit({"code": codes, "flag": [True, False, True] * 20, "n": ["1", "2", "3.5"] * 20})
    assert preprocessor.kinds == {"code": "category", "flag": "boolean", "n": "number"}
    new = tmp_path / "new.csv"
    new.write_text("n,flag,code\n2,1,12\n,0,007\n")
    features = preprocessor.transform(read_table(str(new), kinds=preprocessor.kinds), np.float64)
    again = transform(preprocessor, {"code": ["12", "007"], "flag": [True, False], "n": [2.0, None]})
    np.testing.assert_array_equal(features.numeric, again.numeric)
    assert features.numeric[:, :3].tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]


def test_new_rows_must_have_the_columns() -> None:
    _, preprocessor = fit({"area": [1.0, 2.0, 4.0], "street": ["Elm", "Oak", "Elm"]})
    with pytest.raises(DataError, match=r"no column 'area'\. Did you mean 'areas'"):
        preprocessor.transform(read_table({"areas": [1.0], "street": ["Elm"]}))
    with pytest.raises(DataError, match="row 1 says 'large'"):
        preprocessor.transform(read_table({"area": ["large"], "street": ["Elm"]}))


# Through JSON ---------------------------------------------------------------------------------------


def test_ames_comes_back_from_json_bit_for_bit() -> None:
    table = ames().without("Sale_Price")
    preprocessor = Preprocessor.fit(table.take(range(0, 2930, 2)), ordinals={"Exter_Cond": [
        "Poor", "Fair", "Typical", "Good", "Excellent"]})  # fmt: skip
    again = through_json(preprocessor)
    assert again == preprocessor
    ours, theirs = preprocessor.transform(table, np.float64), again.transform(table, np.float64)
    assert ours.numeric.tobytes() == theirs.numeric.tobytes()
    assert ours.names == theirs.names
    assert np.isfinite(ours.numeric).all()
    assert len(ours.names) == len(ours.sources) == ours.numeric.shape[1]
    assert set(ours.sources) <= set(table.names)


def test_damaged_documents_are_refused() -> None:
    _, preprocessor = fit({"x": [1.0, 2.0, None], "c": ["a", "b", "a"]})
    document = preprocessor.to_document()
    with pytest.raises(DataError, match="format 2"):
        Preprocessor.from_document({**document, "format": 2})
    for damage in ({"treatment": "magic"}, {"fill": None, "colour": 1}, {"scaling": {"centre": 1.0}}):
        with pytest.raises(DataError, match="column 'x' cannot be read"):
            Preprocessor.from_document({**document, "columns": [{**document["columns"][0], **damage}]})
    with pytest.raises(DataError, match="target transform is damaged"):
        target_from_document({"bend": "log"})


cells = st.one_of(
    st.lists(st.none() | st.floats(-1e9, 1e9), min_size=30, max_size=30),
    st.lists(st.none() | st.sampled_from(["a", "b", "ü", "c d"]), min_size=30, max_size=30),
    st.lists(st.none() | st.booleans(), min_size=30, max_size=30),
    st.lists(st.none() | st.datetimes(), min_size=30, max_size=30),
)


@given(st.lists(cells, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_table_transforms_to_finite_features_and_back_from_json(columns: list[list[Any]]) -> None:
    table = read_table({f"c{i}": column for i, column in enumerate(columns)})
    try:
        preprocessor = Preprocessor.fit(table.take(range(20)))
    except DataError as error:
        assert str(error).startswith("Not one column")  # noqa: PT017
        return
    again = through_json(preprocessor)
    ours = preprocessor.transform(table, np.float64)
    assert np.isfinite(ours.numeric).all()
    assert ours.numeric.tobytes() == again.transform(table, np.float64).numeric.tobytes()
    assert ours.numeric.shape == (30, len(preprocessor.names))
    picked = ours.take([3, 1])
    row_by_row = preprocessor.transform(table.take([3, 1]), np.float64)
    assert picked.numeric.tobytes() == row_by_row.numeric.tobytes(), (
        "a row's features depend on that row alone"
    )


# Targets --------------------------------------------------------------------------------------------


def test_skewed_targets_are_bent_by_the_stated_rule() -> None:
    rng = np.random.default_rng(6)
    normal, positive = rng.normal(100, 10, 500), rng.lognormal(12, 0.8, 500)
    assert fit_target(normal).bend == "none"
    assert fit_target(positive).bend == "log"
    assert fit_target(np.append(positive / 1e5, 0.0)).bend == "log1p"
    assert fit_target(positive - 1e5).bend == "yeo-johnson"
    assert fit_target(-positive).bend == "yeo-johnson"
    assert fit_target(positive[:10]).bend == "none", "ten rows say little about skewness"
    assert fit_target(positive, "none").reason == "as asked"
    with pytest.raises(DataError, match="its log does not exist"):
        fit_target(normal - 100, "log")


def test_ames_prices_are_bent_by_the_logarithm() -> None:
    prices = ames()["Sale_Price"].values
    transform = fit_target(prices)
    assert transform.bend == "log"
    assert "skewness 1.7" in transform.reason
    np.testing.assert_allclose(transform.apply(prices).std(), 1.0, rtol=1e-12)
    np.testing.assert_allclose(transform.invert(transform.apply(prices)), prices, rtol=1e-12)
    assert target_from_document(json.loads(json.dumps(transform.to_document()))) == transform


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50), st.sampled_from([None, "none", "yeo-johnson"])
)
@settings(max_examples=60, deadline=None)
def test_targets_come_back_in_their_own_unit(values: list[float], bend: Any) -> None:
    target = np.array(values)
    transform = fit_target(target, bend)
    applied = transform.apply(target)
    assert np.isfinite(applied).all()
    spread = max(1.0, float(np.ptp(target)))
    np.testing.assert_allclose(transform.invert(applied), target, rtol=1e-9, atol=1e-9 * spread)
    assert np.isfinite(transform.invert([-1e6, -50.0, 50.0, 1e6])).all()


def test_skewness() -> None:
    assert skewness(np.ones(5)) == 0.0
    assert abs(skewness(np.array([1.0, 2.0, 3.0]))) < 1e-15
    exponential = np.random.default_rng(7).exponential(size=200_000)
    assert abs(skewness(exponential) - 2.0) < 0.1


def test_a_wild_prediction_is_finite_in_its_own_unit() -> None:
    for bend in ("log", "log1p", "yeo-johnson", "none"):
        transform = fit_target(np.random.default_rng(8).lognormal(size=100), bend)
        assert np.isfinite(transform.invert([-1e5, 1e5])).all(), bend
