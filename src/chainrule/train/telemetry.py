"""Telemetry: what the steps of a training told of themselves (see `facts`), kept in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from chainrule.errors import RunError
from chainrule.graph import Graph
from chainrule.train.coarsening import MAXIMUM, SUM, Coarsened
from chainrule.train.facts import EXPONENTS, Column
from chainrule.train.rates import FACTS, NORMS, PICTURES, Rates

Array = np.ndarray[Any, Any]
_PARTS = {NORMS: "norms", FACTS: "facts", PICTURES: "pictures"}
"""What is kept, and what it is called in a file."""
_GAP = 4096
"""Samples that nobody saw are noted in pieces of this size."""
_SAME = np.ones(1)
"""The factors where nothing has to be changed."""
_BYTES = {NORMS: 1 << 22, FACTS: 1 << 24, PICTURES: 1 << 23}
"""Of everything that is kept, at most."""


class ParameterFacts(NamedTuple):
    """What is told of a parameter: arrays with a number per row, see `Telemetry`.

    gradient  its gradient before clipping; weight: the values that the step left; update: what it added
    norm      Euclidean norm; mean: of the elements; max: the largest size of an element; zero: the share of
              elements that are 0; nonfinite: how many are infinite or NaN
    """

    gradient_norm: Array
    gradient_mean: Array
    gradient_max: Array
    gradient_zero: Array
    gradient_nonfinite: Array
    weight_norm: Array
    weight_mean: Array
    weight_max: Array
    weight_zero: Array
    weight_nonfinite: Array
    update_norm: Array
    update_mean: Array
    update_max: Array
    update_zero: Array
    update_nonfinite: Array


class LayerFacts(NamedTuple):
    """What is told of a layer: arrays with a number per row, see `Telemetry`.

    activation  what it hands on, after the function that follows it, if that has no parameters
    error       the derivative of the loss by what it computes, before that function
    saturated   the share of elements within 1% of an end of the range of tanh or sigmoid; NaN for others
    """

    activation_norm: Array
    activation_mean: Array
    activation_max: Array
    activation_zero: Array
    activation_saturated: Array
    activation_nonfinite: Array
    error_norm: Array
    error_mean: Array
    error_max: Array
    error_zero: Array
    error_nonfinite: Array


class GradientNorms(NamedTuple):
    """Norms of gradients, from every step: arrays with a number per row.

    steps    the first step of every row; spans: for how many steps it stands
    norms    by the path of the parameter: the norm, of several steps the root of the mean square
    largest  the largest of a row's steps
    """

    steps: Array
    spans: Array
    norms: dict[str, Array]
    largest: dict[str, Array]


class Histogram(NamedTuple):
    """Sizes of the elements of an array, by powers of two.

    steps      the first step of every row, (rows,)
    exponents  log2 of the lower edge of each bin, (bins,); smaller sizes are in the first, larger in the last
    counts     elements in each bin, (rows, bins): a mean over the samples of a row
    zeros      elements that are 0 (or NaN), (rows,)
    """

    steps: Array
    exponents: Array
    counts: Array
    zeros: Array


class Liveness(NamedTuple):
    """How often an error reaches the units of a layer.

    steps   the first step of every row, (rows,)
    shares  (rows, units): at how many places of the batch, as a share, the error of the unit is not 0
    """

    steps: Array
    shares: Array


class Telemetry(Mapping[str, ParameterFacts]):
    """What was told of every parameter, by its path: ``telemetry["0.weight"].gradient_norm``.

    Each is an array with a number per row. At first a row is a sample, one step of `every` so many.
    Memory is bounded: when there is no room for more rows (2,048, fewer for networks of many layers), every
    two become one, and so on: a row then stands for 2, 4, 8 ... samples. Norms are then root mean squares
    over its samples, the others means; `maxima` has the largest.

    `layers` has the facts of layers; `histograms` and `liveness` their pictures, from one step of every
    `Rates.pictures`.

    Numbers are noted in the parameter's dtype: in float32 a norm under 1e-19 reads 0, one over 1e19 inf.
    Samples that were never read, because an error or Ctrl-C came between, are NaN.
    """

    def __init__(self, rates: Rates | None = None) -> None:
        self.rates = rates
        pictures = Rates().pictures if rates is None else rates.pictures
        self._norms = _Samples(1, NORMS)
        self._facts, self._pictures = _Samples(1, FACTS), _Samples(pictures, PICTURES)
        if rates is not None and rates.facts is not None:
            self._settle(rates)

    def settled(self, asked: Rates | None, graph: Graph, details: Sequence[int]) -> Rates | None:
        """How often facts come: as `asked`, as what was restored says, or as suits a step."""
        if asked is None or asked.facts is not None:
            return asked
        known = self.rates if self.rates and self.rates.facts else asked
        self._settle(known.fitted(graph, details))
        return self.rates

    def _settle(self, rates: Rates) -> None:
        assert rates.facts is not None
        self.rates, self._facts.every = rates, rates.facts

    def note(self, step: int, columns: Mapping[int, Sequence[Column]], told: Sequence[Array]) -> None:
        """Take what steps from `step` on told: norms, facts, pictures, a row for each sample.

        Where that is before the last one noted, training went back: telemetry begins anew.
        """
        for (detail, samples), numbers in zip(self._by_detail().items(), told, strict=False):
            samples.note(step, columns[detail], numbers)

    def _by_detail(self) -> dict[int, _Samples]:
        return {NORMS: self._norms, FACTS: self._facts, PICTURES: self._pictures}

    # -- reading -------------------------------------------------------------------------------------------
    @property
    def steps(self) -> Array:
        """The first step of every row of facts, counted from 0."""
        return self._facts.steps

    @property
    def every(self) -> int:
        """One of every so many steps is a sample of facts."""
        return self._facts.every

    @property
    def spans(self) -> Array:
        """For how many samples every row of facts stands."""
        return self._facts.kept.spans

    def __getitem__(self, name: str) -> ParameterFacts:
        return ParameterFacts(*self._facts.read("parameter", name, ParameterFacts._fields))

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts.names("parameter"))

    def __len__(self) -> int:
        return len(self._facts.names("parameter"))

    @property
    def gradient_norms(self) -> GradientNorms:
        """The norm of every parameter's gradient, before clipping, from every step."""
        names = self._norms.names("parameter")
        fields = ("gradient_norm",)
        means, maxima = (
            {name: next(self._norms.read("parameter", name, fields, which)) for name in names}
            for which in (SUM, MAXIMUM)
        )
        return GradientNorms(self._norms.steps, self._norms.kept.spans, means, maxima)

    @property
    def layers(self) -> dict[str, LayerFacts]:
        """The facts of every layer, by its path."""
        names = self._facts.names("layer")
        return {name: LayerFacts(*self._facts.read("layer", name, LayerFacts._fields)) for name in names}

    @property
    def maxima(self) -> dict[str, ParameterFacts]:
        """The facts of parameters, the largest in every row's samples instead of the mean; NaN where there
        was one.
        """
        return {
            name: ParameterFacts(*self._facts.read("parameter", name, ParameterFacts._fields, MAXIMUM))
            for name in self
        }

    @property
    def histograms(self) -> dict[str, Histogram]:
        """Sizes of activations, errors, gradients and weights: "activation of 0", "gradient of 0.weight"."""
        found = {}
        for name in self._pictures.names("histogram"):
            size = self._pictures.column("histogram", name).size
            at_least = size * self._pictures.array("histogram", name)
            counts = at_least[:, 1:] - np.append(at_least[:, 2:], np.zeros((len(at_least), 1)), axis=1)
            counts[:, 0] += at_least[:, 0] - at_least[:, 1]
            found[name] = Histogram(self._pictures.steps, np.array(EXPONENTS), counts, size - at_least[:, 0])
        return found

    @property
    def liveness(self) -> dict[str, Liveness]:
        """How often an error reaches each unit, by the path of the layer."""
        names = self._pictures.names("liveness")
        return {
            name: Liveness(self._pictures.steps, self._pictures.array("liveness", name)) for name in names
        }

    def __repr__(self) -> str:
        if self.rates is None:
            return "<Telemetry: off>"
        rows = len(self.spans)
        return f"<Telemetry of {len(self)} parameters: {self._facts.kept.total} samples in {rows} rows>"

    # -- keeping -------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Array]:
        """Everything, as arrays for a checkpoint; nothing while there is nothing."""
        found: dict[str, Array] = {}
        for name, samples in zip(_PARTS.values(), self._by_detail().values(), strict=True):
            if samples.columns:
                found |= {f"{name}.{key}": value for key, value in samples.state().items()}
        return found

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Put back what `state` gave; with nothing do nothing."""
        try:
            for detail, name in _PARTS.items():
                parts = {
                    key.removeprefix(f"{name}."): value
                    for key, value in state.items()
                    if key.startswith(f"{name}.")
                }
                if parts:
                    setattr(self, f"_{name}", _Samples.restored(detail, parts))
        except (KeyError, TypeError, ValueError) as reason:
            raise RunError(
                f"the telemetry that was saved cannot be read: {reason}. It was written by another version, "
                "or changed; go on without telemetry"
            ) from None
        if state and (self.rates is None or self.rates.facts is None):
            self.rates = Rates(self._facts.every, self._pictures.every)


class _Samples:
    """The numbers of one detail, from one of every so many steps."""

    def __init__(self, every: int, detail: int) -> None:
        self.every, self._most = every, _BYTES[detail]
        self.first = 0  # number of the first sample
        self._begin(())

    def _begin(self, columns: Sequence[Column]) -> None:
        self.columns = list(columns)
        self._by_name = {each[:3]: each for each in columns}
        self._names: dict[str, dict[str, None]] = {}
        for each in columns:
            self._names.setdefault(each.kind, {})[each.name] = None
        self._fitting: tuple[Sequence[Column], Array | None] = ((), None)
        ends = np.cumsum([0, *(each.width for each in columns)]).tolist()
        self._starts = {each[:3]: start for each, start in zip(columns, ends, strict=False)}
        self.kept = Coarsened(ends[-1], self._most)

    def note(self, step: int, columns: Sequence[Column], numbers: Array) -> None:
        """Take the numbers (samples, width) of those of the steps from `step` on that are samples."""
        if not len(numbers) or not columns:
            return
        sample = -(-step // self.every)
        following = self.first + self.kept.total
        if not self.kept.total or sample < following:
            self._begin(columns)
            self.first = following = sample
        for start in range(following, sample, _GAP):
            self.kept.append(np.full((min(_GAP, sample - start), self.kept.width), np.nan))
        factors = self._factors(columns)
        if factors is None:
            numbers = np.full((len(numbers), self.kept.width), np.nan)
        elif factors is not _SAME:
            numbers = numbers * factors
        self.kept.append(numbers)

    def _factors(self, columns: Sequence[Column]) -> Array | None:
        """What turns numbers of these columns into those of the first ones; None where they tell of others.

        A last batch has fewer rows, so its sums are over fewer numbers. In steps of another kind the model
        may have other layers.
        """
        if self._fitting[0] is not columns:
            found: Array | None = None
            if [each[:4] for each in columns] == [each[:4] for each in self.columns]:
                pairs = zip(self.columns, columns, strict=True)
                ratios = [first.size / each.size for first, each in pairs]
                found = np.repeat(ratios, [each.width for each in columns])
                found = _SAME if (found == 1).all() else found
            self._fitting = columns, found
        return self._fitting[1]

    # -- reading -------------------------------------------------------------------------------------------
    @property
    def steps(self) -> Array:
        """The first step of every row."""
        spans = self.kept.spans
        return (self.first + np.cumsum(spans) - spans) * self.every

    def names(self, kind: str) -> list[str]:
        """What there is of a kind, in its order."""
        return list(self._names.get(kind, ()))

    def column(self, kind: str, name: str, field: str = "") -> Column:
        """One column, by what it tells."""
        return self._by_name[kind, name, field]

    def array(self, kind: str, name: str, field: str = "", which: int = SUM) -> Array:
        """The numbers of one column (rows, width): means, or the largest; NaN for one that is not there."""
        start = self._starts.get((kind, name, field))
        rows = self.kept.rows
        if start is None:
            return np.full((len(rows), 1), np.nan)
        column = self.column(kind, name, field)
        found = rows[:, which, start : start + column.width] / column.size
        return found / self.kept.spans[:, None] if which == SUM else found

    def read(self, kind: str, name: str, fields: Sequence[str], which: int = SUM) -> Iterator[Array]:
        """Some facts of one layer or parameter."""
        known = self.names(kind)
        if name not in known:
            told = ", ".join(known) or "none, because no step has told anything: see Trainer(telemetry=...)"
            raise KeyError(f"there is no telemetry of {name!r}; there is of {told}")
        for field in fields:
            numbers = self.array(kind, name, field, which)[:, 0]
            yield np.sqrt(numbers) if field.endswith("_norm") else numbers

    # -- keeping -------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Array]:
        """Everything, as arrays."""
        columns = json.dumps(self.columns).encode()
        return {
            "columns": np.frombuffer(columns, np.uint8),
            "rows": self.kept.rows.copy(),
            "samples": np.array([self.every, self.first, self.kept.total], np.int64),
        }

    @classmethod
    def restored(cls, detail: int, state: Mapping[str, Array]) -> _Samples:
        """What `state` gave; `KeyError`, `TypeError` or `ValueError` where it did not."""
        columns = [Column(*each) for each in json.loads(state["columns"].tobytes())]
        every, first, total = state["samples"].tolist()
        if every < 1:
            raise ValueError(f"a sample of every {every} steps")
        made = cls(every, detail)
        made._begin(columns)
        rows = state["rows"]
        if rows.shape[1:] != made.kept.rows.shape[1:]:
            raise ValueError(f"numbers of shape {rows.shape[1:]}, not {made.kept.rows.shape[1:]}")
        made.first, made.kept = first, Coarsened.restored(rows, total, made._most)
        return made
