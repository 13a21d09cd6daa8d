"""What is predicted, how rows are cut, and the two together with preprocessing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from chainrule.data import (
    Task,
    Windows,
    ames,
    infer_task,
    prepare,
    read_table,
    split_rows,
    target_rows,
    target_values,
)
from chainrule.errors import DataError

OTHER = [1.5, 2.5] * 30


def task_of(values: list[object], kind: str | None = None) -> Task:
    table = read_table({"y": values, "x": (OTHER * len(values))[: len(values)]})
    return infer_task(table, "y", kind)  # type: ignore[arg-type]


# The task -------------------------------------------------------------------------------------------


def test_the_task_is_read_off_the_target() -> None:
    assert infer_task(ames(), "Sale_Price").kind == "regression"
    assert infer_task(ames(), "Central_Air") == Task("binary", "Central_Air", ("N", "Y"), 0, "2 classes")
    assert infer_task(ames(), "Lot_Shape").kind == "multiclass"
    assert task_of([True, False, None]).classes == ("false", "true")
    assert task_of([0, 1, 1]).classes == ("0", "1")
    assert task_of([1, 2, 3] * 5).kind == "multiclass"
    assert task_of([3, 4, 5] * 5).kind == "regression", "not counted from 0 or 1"
    assert task_of([0, 1, 2, 11] * 5).kind == "regression", "with gaps"
    assert task_of([0.5, 1.5, 2.5]).kind == "regression"
    assert task_of(list(range(30))).kind == "regression", "a row number can be a target"
    assert task_of([1, 2, 3] * 5).outputs == 3
    assert task_of([0, 1, 1]).outputs == 1


def test_the_task_can_be_overruled() -> None:
    assert task_of([0, 1, 1], "regression").kind == "regression"
    assert task_of([1, 2, 3] * 5, "regression").reason == "as asked"
    assert task_of([20, 40, 90] * 5, "multiclass").classes == ("20", "40", "90")
    with pytest.raises(DataError, match="3 classes, so the task cannot be binary"):
        task_of([1, 2, 3] * 5, "binary")
    with pytest.raises(DataError, match="holds texts"):
        task_of(["a", "b", "a"], "regression")


def test_rows_without_a_target_are_counted_and_left_out() -> None:
    table = read_table({"y": ["a", None, "b", "a"], "x": [1.0, 2.0, 3.0, 4.0]})
    task = infer_task(table, "y")
    assert task.dropped == 1
    assert target_rows(table, task).tolist() == [0, 2, 3]
    assert target_values(table.take([0, 2, 3]), task).tolist() == [0, 1, 0]
    with pytest.raises(DataError, match="Row 2"):
        target_values(table, task)
    with pytest.raises(DataError, match="class 'c'"):
        target_values(read_table({"y": ["c", "a"], "x": [1, 2]}), task)


def test_targets_that_cannot_be_learned() -> None:
    with pytest.raises(DataError, match="Did you mean 'Sale_Price'"):
        infer_task(ames(), "SalePrice")
    with pytest.raises(DataError, match="is 7 in every row"):
        task_of([7, 7, 7])
    with pytest.raises(DataError, match=r"one class only: all 3 rows are 'yes'"):
        task_of(["yes", "yes", "yes"])
    with pytest.raises(DataError, match="one class only"):
        task_of([1, 1, 1], "binary")
    with pytest.raises(DataError, match=r"No row of .* has a value in the target"):
        task_of([None, None])
    with pytest.raises(DataError, match="only column"):
        infer_task(read_table({"y": [1.0, 2.0]}), "y")
    with pytest.raises(DataError, match="30 classes in 30 rows"):
        task_of([f"house {i}" for i in range(30)])
    with pytest.raises(DataError, match="of kind time"):
        infer_task(
            read_table({"y": np.array(["2024-01-01", "2024-01-02"], "datetime64[D]"), "x": [1, 2]}), "y"
        )


def test_a_price_written_with_a_currency_names_the_query_that_cures_it() -> None:
    prices = [f"${1000 + 137 * i:,}" for i in range(40)]
    with pytest.raises(DataError) as caught:
        task_of(list(prices))
    query = str(caught.value).split("query: ")[1].replace("FROM …", "FROM prices")
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE prices (y VARCHAR)")
        connection.executemany("INSERT INTO prices VALUES (?)", [[price] for price in prices])
        assert connection.execute(query).fetchall()[1] == (1137.0,)


def test_a_task_survives_as_a_document() -> None:
    task = infer_task(ames(), "Lot_Shape")
    assert Task.from_document(task.to_document()) == task
    with pytest.raises(DataError, match="damaged"):
        Task.from_document({"kind": "binary"})


# The split ------------------------------------------------------------------------------------------


@given(
    st.integers(10, 200), st.integers(0, 1000), st.floats(0.0, 0.4), st.floats(0.0, 0.4), st.integers(1, 8)
)
@settings(max_examples=60, deadline=None)
def test_every_row_lands_in_one_part(
    rows: int, seed: int, test: float, validation: float, classes: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, classes, rows)
    for given_labels in (None, labels):
        split = split_rows(rows, seed=seed, test=test, validation=validation, classes=given_labels)
        parts = (split.train, split.validation, split.test)
        assert sorted(np.concatenate(parts).tolist()) == list(range(rows))
        assert len(split.test) == np.ceil(test * rows - 1e-9)
        again = split_rows(rows, seed=seed, test=test, validation=validation, classes=given_labels)
        for one, other in zip(parts, (again.train, again.validation, again.test), strict=True):
            assert one.tolist() == other.tolist()


def test_test_rows_are_scikit_learns_and_do_not_depend_on_validation() -> None:
    _, theirs = train_test_split(np.arange(2930), test_size=0.2, random_state=3)
    for validation in (0.0, 0.1, 0.3):
        assert split_rows(2930, seed=3, test=0.2, validation=validation).test.tolist() == theirs.tolist()


def test_classes_keep_their_proportions_and_rare_ones_go_to_training() -> None:
    labels = np.array([0] * 700 + [1] * 290 + [2] * 9 + [3])
    split = split_rows(1000, seed=0, test=0.2, validation=0.1, classes=labels)
    assert np.bincount(labels[split.test], minlength=4)[:2].tolist() == [140, 58]
    assert np.bincount(labels[split.validation], minlength=4)[:2].tolist() == [70, 29]
    assert 999 in split.train


def test_shares_must_leave_rows_to_train_on() -> None:
    with pytest.raises(DataError, match="together less than 1"):
        split_rows(100, seed=0, test=0.6, validation=0.5)
    with pytest.raises(DataError, match="1 row cannot be cut"):
        split_rows(1, seed=0)


# Everything together --------------------------------------------------------------------------------


def test_prepare_learns_from_training_rows_alone() -> None:
    rng = np.random.default_rng(0)
    columns = {"x": rng.normal(size=200), "y": rng.lognormal(size=200), "c": rng.choice(["a", "b"], 200)}
    first = prepare(columns, "y", seed=1)
    columns["x"][first.split.test] *= 100.0
    columns["y"][first.split.test] *= 100.0
    second = prepare(columns, "y", seed=1)
    assert second.preprocessor == first.preprocessor
    assert second.transform == first.transform
    assert (len(first.train), len(first.validation), len(first.test)) == (140, 20, 40)
    np.testing.assert_allclose(first.in_own_unit(first.train.target), first.train.original, rtol=1e-5)
    assert first.train.features.numeric.dtype == first.train.target.dtype == np.float32


def test_prepare_for_classes() -> None:
    binary = prepare(ames(), "Central_Air", validation=0.0)
    assert len(binary.validation) == 0
    assert binary.transform is None
    assert set(np.unique(binary.train.target).tolist()) == {0.0, 1.0}
    several = prepare(ames(), "Lot_Shape", test=0.0)
    assert several.train.target.dtype == np.int64
    assert several.task.classes[0] == "Irregular"
    assert several.in_own_unit([1.0]).tolist() == [1.0]


def test_windows_slide_by_one() -> None:
    windows = Windows(np.arange(20).reshape(10, 2), 3)
    inputs, targets = windows.batch(np.arange(len(windows)))
    assert inputs.shape == targets.shape == (7, 3, 2)
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
    with pytest.raises(DataError, match="do not fit"):
        Windows(np.arange(3), 3)
