"""What came of a run, in sentences and beside the baselines; never more than the rows can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chainrule.show.facts import Facts
from chainrule.show.figures import counted, metric, percent

SHOWN = {
    "regression": ("rmse", "mae", "r2"),
    "binary": ("log_loss", "accuracy", "auroc", "average_precision"),
    "multiclass": ("log_loss", "accuracy", "auroc", "average_precision"),
}
"""The metrics of each task, in the order of the tables."""
SELF = "this network"


@dataclass(frozen=True)
class Entry:
    """One model of the comparison; `ratio` is the network's error over its own, with a 95% interval."""

    name: str
    model: str
    metrics: dict[str, float]
    ratio: Sequence[float] | None = None

    @property
    def ours(self) -> bool:
        return self.name == SELF

    @property
    def clear(self) -> bool:
        """Whether the held-out rows can tell the network from this model."""
        return self.ratio is not None and not self.ratio[0] <= 1 <= self.ratio[2]


def shown_metrics(facts: Facts) -> tuple[str, ...]:
    """Names of the metrics that were measured, the headline first."""
    return tuple(name for name in SHOWN.get(facts.result.get("task", ""), ()) if name in facts.metrics)


def entries(facts: Facts) -> list[Entry]:
    """The network and its baselines, the best headline first; the network alone if nothing was compared."""
    if not facts.comparison:
        return [Entry(SELF, "", facts.metrics)] if facts.metrics else []
    headline = facts.comparison["metric"]
    found = [Entry(SELF, "", facts.comparison["network"])]
    found += [
        Entry(each["name"], each["model"], each["metrics"], each["ratio"])
        for each in facts.comparison["baselines"]
    ]
    return sorted(found, key=lambda entry: entry.metrics[headline])


def against(entry: Entry) -> tuple[str, str]:
    """The network's error against this model's, and the 95% interval: ("13% lower", "6–20%")."""
    if entry.ratio is None:
        return "", ""
    low, middle, high = entry.ratio
    if not entry.clear:
        return "no clear difference", f"{percent(1 - low)} lower to {percent(high - 1)} higher"
    near, far = sorted(abs(1 - each) for each in (low, high))
    return (
        f"{percent(abs(1 - middle))} {_direction(middle)}",
        f"{percent(near).removesuffix('%')}–{percent(far)}",
    )


def reference_note(results: Mapping[str, Any]) -> str:
    """How committed figures of several models on several splits came about."""
    return (
        f"The mean of {len(results['splits'])} random splits, as committed; make bench-ames repeats it. "
        f"Every model was tuned alike before, {results['trials']} trials each on other splits."
    )


def verdict(facts: Facts) -> str:
    """What came of the run in one or two sentences."""
    if not facts.finished:
        return _unfinished(facts)
    unmeasured = not facts.metrics and facts.result.get("metrics")  # what older versions made of NaN
    if "bad_step" in facts.result or unmeasured:
        return (
            f"Training failed: {facts.result.get('reason')}. Try a lower learning rate (--lr), or clip "
            "gradients (--set training.clip_norm=1)."
        )
    if not facts.metrics:
        epochs = counted(facts.result.get("epochs", 0), "epoch")
        return f"Trained for {epochs}; no rows were held out to measure on."
    return " ".join(part for part in (_own(facts), _beside_best(facts)) if part)


def _unfinished(facts: Facts) -> str:
    done, asked = len(facts.history), facts.recipe.training.epochs
    return (
        f"Not finished: {counted(done, 'epoch')} of {asked:,} are done. "
        f"Go on with: {facts.command('train --resume')}"
    )


def _own(facts: Facts) -> str:
    rows = facts.result.get("rows", {}).get(facts.part)
    seen = "never seen in training" if facts.part == "test" else "held out for validation"
    where = f"On {counted(rows, 'row')} {seen}" if rows else "On rows held out of training"
    if facts.result["task"] == "regression":
        error = metric("rmse", facts.metrics["rmse"], facts.unit)
        distance = metric("mae", facts.metrics["mae"], facts.unit)
        return (
            f"{where}, predictions of {facts.recipe.data.target or 'the target'} have a root mean squared "
            f"error of {error}; their mean distance from the truth is {distance}."
        )
    accuracy, log_loss = percent(facts.metrics["accuracy"]), metric("log_loss", facts.metrics["log_loss"])
    return f"{where}, the network names the right class in {accuracy}; its log loss is {log_loss}."


def _beside_best(facts: Facts) -> str:
    others = [entry for entry in entries(facts) if not entry.ours and entry.ratio is not None]
    if not others:
        return ""
    best, headline = others[0], facts.comparison["metric"]
    assert best.ratio is not None  # others have one
    low, middle, high = best.ratio
    error = metric(headline, best.metrics[headline], facts.unit)
    theirs = f"the best of the simpler models, {best.name} ({error})"
    if not best.clear:
        return f"These rows cannot tell it from {theirs}: its error is between {_range(low, high)}."
    away = percent(abs(1 - middle))
    return f"That is {away} {_direction(middle)} than {theirs}; 95% interval: {_range(low, high)}."


def _range(low: float, high: float) -> str:
    """The ends of an interval of ratios, as distances from 1."""
    if (low < 1) == (high < 1):
        near, far = sorted(abs(1 - each) for each in (low, high))
        return f"{percent(near)} to {percent(far)} {_direction(high)}"
    return f"{percent(1 - low)} lower and {percent(high - 1)} higher"


def _direction(ratio: float) -> str:
    return "lower" if ratio < 1 else "higher"
