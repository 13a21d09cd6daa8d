"""What a result is measured against: simpler models on the same rows, and its predictions beside the truth.

Everything here is aggregated: a comparison holds no row of the table, so a report made from it can be shared.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule.errors import DataError
from chainrule.train import metrics
from chainrule.train.result import Run
from chainrule.train.table import Prepared, prepare, read_source

Array = np.ndarray[Any, Any]

DOCUMENT = "comparison.json"
MOST_ROWS = 200_000  # baselines are fitted to at most this many, so that comparing never outlasts training
MOST_OPERATIONS = 3e10  # of about 10^9 in a second: baselines that would take longer are left out, and named
BINS = 24  # of each side of the grid of predictions against actual values
GROUPS = 10  # of equally many rows, in the calibration of probabilities
MOST_CLASSES = 12  # in a confusion matrix; rarer ones are counted together
RESAMPLED, BLOCKS = 2000, 2000  # resamples of an interval, and the most units each is drawn from


def comparison_of(run: Run) -> dict[str, Any]:
    """The comparison of a run: the one that was kept, else a new one; {} if there is nothing to compare.

    A run that was read back needs its data for a new one, unchanged and where the recipe says.
    """
    if run.folder is not None and run.folder.has(DOCUMENT):
        kept: dict[str, Any] = run.folder.document(DOCUMENT)
        return kept
    if not run.metrics or run.recipe.network.model:
        return {}
    return compare(run)


def compare(run: Run) -> dict[str, Any]:
    """Fit the baselines to the rows `run` learned from and measure all on the rows it was tested on.

    Returns a plain document, and keeps it as comparison.json where the run has a folder. Each baseline gets
    the prepared features and the transformed target that the network gets, and scikit-learn's default
    settings. Its "ratio" is the network's headline error divided by the baseline's: low end, middle and high
    end of a 95% interval over the held-out rows, both models being measured on the same ones.
    """
    prepared = run.prepared if isinstance(run.prepared, Prepared) else _prepared_again(run)
    part = "test" if len(prepared.parts["test"]) else "validation"
    if not len(prepared.parts[part]):
        raise DataError("no rows were held out, so there is nothing to compare on; set split.test above 0")
    measured = _Measured(prepared.task.kind, prepared.targets[part])
    predictions = run.predict(prepared.table.take(prepared.parts[part]))
    own = predictions.values if measured.task == "regression" else predictions.probabilities
    learned = _learned(prepared, part)
    baselines, left_out = [], []
    for name, model, predict in _BASELINES[measured.task]:
        if predict is not _constant and _operations(learned) > MOST_OPERATIONS:
            left_out.append(name)
            continue
        predicted = predict(learned)
        ratio = measured.ratio(own, predicted)
        baselines.append(
            {"name": name, "model": model, "metrics": measured.metrics(predicted), "ratio": ratio}
        )
    document = {
        "on": part,
        "rows": len(measured.targets),
        "fitted_to": len(learned.targets),
        "metric": metrics.HEADLINE[measured.task],
        "network": measured.metrics(own),
        "baselines": baselines,
        "left_out": left_out,
        "agreement": _agreement(prepared, measured.targets, own),
    }
    if run.folder is not None:
        run.folder.write_document(DOCUMENT, document)
    return document


def _prepared_again(run: Run) -> Prepared:
    table = read_source(run.recipe)
    if table.data_hash != run.recipe.data.hash:
        raise DataError(
            f"{table.source} has changed since the run was trained on it, so nothing new can be measured: "
            f"its hash is {table.data_hash}, the recipe says {run.recipe.data.hash}. Restore the data"
        )
    return prepare(run.recipe, table)


# -- measuring -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Measured:
    """The targets of the held-out rows, and how predictions of them are judged."""

    task: str
    targets: Array

    def metrics(self, predicted: Array) -> dict[str, float]:
        if self.task == "regression":
            return metrics.regression(self.targets, predicted)
        return metrics.classification(self.targets.astype(np.int64), predicted)

    def losses(self, predicted: Array) -> Array:
        """Squared error, or log loss, of each row."""
        if self.task == "regression":
            squares: Array = (np.asarray(self.targets, np.float64) - predicted) ** 2
            return squares
        chosen = predicted[np.arange(len(predicted)), self.targets.astype(np.int64)]
        return -np.log(np.maximum(chosen, np.finfo(np.float64).eps))

    def ratio(self, ours: Array, theirs: Array) -> list[float] | None:
        """Our headline error over theirs between the ends of its 95% interval, paired by row.

        A percentile bootstrap (Efron, 1979), always with the same random numbers; from `BLOCKS` rows on it
        resamples blocks of rows, whose sums are as independent as the rows are.
        """
        a, b = self.losses(ours), self.losses(theirs)
        if len(a) < 2 or not (a.mean() > 0 and b.mean() > 0):
            return None
        power = 0.5 if self.task == "regression" else 1.0  # RMSE is the root of the mean loss
        blocks = np.arange(len(a)) % BLOCKS
        a, b = np.bincount(blocks, a), np.bincount(blocks, b)
        chosen = np.random.Generator(np.random.Philox(0)).integers(0, len(a), (RESAMPLED, len(a)))
        ratios = a[chosen].sum(axis=1) / np.maximum(b[chosen].sum(axis=1), np.finfo(np.float64).tiny)
        low, high = np.quantile(ratios, (0.025, 0.975))
        return [float(each) ** power for each in (low, a.sum() / b.sum(), high)]


# -- baselines -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Learned:
    """What a baseline learns from, and what it predicts for: the network's own features, bent targets."""

    prepared: Prepared
    features: Array
    codes: Array | None
    targets: Array
    asked: Array
    asked_codes: Array | None


def _learned(prepared: Prepared, part: str) -> _Learned:
    """Validation rows too: the network has seen them when it chose its best epoch."""
    parts = [name for name in ("train", "validation") if name != part and len(prepared.parts[name])]
    features = np.concatenate([prepared.features[name].numeric for name in parts])
    given = [prepared.features[name].codes for name in parts]
    codes = np.concatenate([each for each in given if each is not None]) if given[0] is not None else None
    targets = np.concatenate([prepared.targets[name] for name in parts])
    if len(targets) > MOST_ROWS:
        chosen = np.random.Generator(np.random.Philox(0)).choice(len(targets), MOST_ROWS, replace=False)
        features, targets = features[chosen], targets[chosen]
        codes = None if codes is None else codes[chosen]
    asked = prepared.features[part]
    return _Learned(prepared, features, codes, targets, asked.numeric, asked.codes)


def _operations(learned: _Learned) -> float:
    """About how much gradient boosting computes: a hundred trees per output, each of them histograms.

    Every tree visits each value a few times, fills 31 histograms of 255 bins, and has a cost of its own.
    """
    rows, columns = learned.features.shape
    outputs = learned.prepared.task.outputs
    return float(100 * outputs * (columns * (5 * rows + 31 * 255) + 2e6))


def _constant(learned: _Learned) -> Array:
    rows = len(learned.asked)
    if learned.prepared.task.kind == "regression":
        return np.full(rows, float(np.mean(learned.targets)))
    classes = len(learned.prepared.task.classes)
    shares = np.bincount(learned.targets.astype(np.int64), minlength=classes) / len(learned.targets)
    return np.tile(shares, (rows, 1))


def _linear(learned: _Learned) -> Array:
    """Ridge or logistic regression; coded columns one-hot, as a linear model needs them."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.preprocessing import OneHotEncoder

    features, asked = learned.features, learned.asked
    if learned.codes is not None:
        encoder = OneHotEncoder(handle_unknown="ignore", dtype=np.float32).fit(learned.codes)
        features = hstack([csr_matrix(features), encoder.transform(learned.codes)]).tocsr()
        asked = hstack([csr_matrix(asked), encoder.transform(learned.asked_codes)]).tocsr()
    if learned.prepared.task.kind == "regression":
        return _regressed(learned, Ridge(), features, asked)
    return _classified(learned, LogisticRegression(max_iter=1000), features, asked)


def _boosted(learned: _Learned) -> Array:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    def joined(numeric: Array, codes: Array | None) -> Array:
        return numeric if codes is None else np.hstack([numeric, codes.astype(np.float32)])

    features, asked = joined(learned.features, learned.codes), joined(learned.asked, learned.asked_codes)
    if learned.prepared.task.kind == "regression":
        return _regressed(learned, HistGradientBoostingRegressor(random_state=0), features, asked)
    return _classified(learned, HistGradientBoostingClassifier(random_state=0), features, asked)


def _regressed(learned: _Learned, model: Any, features: Any, asked: Any) -> Array:
    transform = learned.prepared.transform
    if transform is None:
        predicted: Array = model.fit(features, learned.targets).predict(asked)
        return predicted
    bent = transform.apply(learned.targets)
    # A linear model may extrapolate without bound, which the inverse of a logarithm turns into infinity; one
    # width of the training targets beyond their range is allowed.
    low, high = float(bent.min()), float(bent.max())
    width = high - low
    return transform.invert(np.clip(model.fit(features, bent).predict(asked), low - width, high + width))


def _classified(learned: _Learned, model: Any, features: Any, asked: Any) -> Array:
    """Probabilities of every class of the task, also of those without a row to learn from."""
    targets = learned.targets.astype(np.int64)
    if len(np.unique(targets)) < 2:
        return _constant(learned)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # a baseline that could be a little better is no concern of the user's
        model.fit(features, targets)
    shares = np.zeros((len(learned.asked), len(learned.prepared.task.classes)))
    shares[:, model.classes_] = model.predict_proba(asked)
    shares /= shares.sum(axis=1, keepdims=True)  # float32 features give sums of 1 in float32 only
    return shares


_Baseline = tuple[str, str, Callable[[_Learned], Array]]
_CLASSIFIERS: tuple[_Baseline, ...] = (
    ("gradient boosting", "HistGradientBoostingClassifier", _boosted),
    ("logistic regression", "LogisticRegression", _linear),
    ("class frequencies", "", _constant),
)
_BASELINES: dict[str, tuple[_Baseline, ...]] = {
    "regression": (
        ("gradient boosting", "HistGradientBoostingRegressor", _boosted),
        ("ridge regression", "Ridge", _linear),
        ("always the mean", "", _constant),
    ),
    "binary": _CLASSIFIERS,
    "multiclass": _CLASSIFIERS,
}


# -- predictions beside the truth ----------------------------------------------------------------------------
def _agreement(prepared: Prepared, targets: Array, own: Array) -> dict[str, Any]:
    if prepared.task.kind == "regression":
        bend = "none" if prepared.transform is None else prepared.transform.bend
        return _grid(np.asarray(targets, np.float64), own, bend == "log" and bool((own > 0).all()))
    classes = [str(name) for name in prepared.task.classes]
    if prepared.task.kind == "binary":
        return _calibration(targets.astype(np.int64), own[:, 1], classes[1])
    return _confusion(targets.astype(np.int64), own.argmax(axis=1), classes)


def _grid(actual: Array, predicted: Array, logarithmic: bool) -> dict[str, Any]:
    """How many rows fall into each cell of predicted value by actual value."""
    low = float(min(actual.min(), predicted.min()))
    high = float(max(actual.max(), predicted.max()))
    if not low < high:
        low, high, logarithmic = low - 0.5, high + 0.5, False
    edges = np.geomspace(low, high, BINS + 1) if logarithmic else np.linspace(low, high, BINS + 1)
    edges[0], edges[-1] = low, high  # rounding must not push the extremes out
    counts, _, _ = np.histogram2d(predicted, actual, bins=(edges, edges))
    cells = [[int(i), int(j), int(counts[i, j])] for i, j in np.argwhere(counts)]
    return {
        "kind": "grid",
        "scale": "log" if logarithmic else "linear",
        "edges": edges.tolist(),
        "cells": cells,
    }


def _calibration(targets: Array, probability: Array, name: str) -> dict[str, Any]:
    """Groups of rows by predicted probability, and how often the class occurred in each."""
    groups = [each for each in np.array_split(np.argsort(probability, kind="stable"), GROUPS) if len(each)]
    bins = [
        {
            "predicted": float(probability[rows].mean()),
            "observed": float(targets[rows].mean()),
            "rows": len(rows),
        }
        for rows in groups
    ]
    return {"kind": "calibration", "class": name, "bins": bins}


def _confusion(targets: Array, predicted: Array, classes: list[str]) -> dict[str, Any]:
    """Rows by actual (first index) and predicted class; the rarest classes counted as one."""
    names, place = list(classes), np.arange(len(classes))
    if len(classes) > MOST_CLASSES:
        rows = np.bincount(targets, minlength=len(classes))
        frequent = np.argsort(-rows, kind="stable")[: MOST_CLASSES - 1]
        names = [classes[k] for k in frequent] + [f"{len(classes) - len(frequent)} other classes"]
        place = np.full(len(classes), len(frequent))
        place[frequent] = np.arange(len(frequent))
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (place[targets], place[predicted]), 1)
    return {"kind": "confusion", "classes": names, "counts": counts.tolist()}
