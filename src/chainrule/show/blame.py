"""Did it learn, and which layer stands in the way: the verdict on a training, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from chainrule.insight.ledger import ACTIVATION, BLOCK, WEIGHT, Entry, Ledger
from chainrule.show.facts import Facts
from chainrule.show.figures import counted, listed, value
from chainrule.show.inside import Inside
from chainrule.show.pictures.canvas import size_of

_TELLING = 3.0
"""Decades between the gradients of the first and the last weight that are worth a sentence."""
_DEEP = 30.0
"""Decades below which a zero is no wonder in float32."""
_FALLEN = 0.05
"""A loss that fell by less has hardly fallen."""
_ALIKE = 0.01
"""A loss below that of the best constant answer by less is no better; noise may leave no more to gain."""
_CHANCE = {"r2": 0.05, "auroc": 0.55}
"""Metrics that say how much better than guessing a network is, and up to where it is not."""
_GUESSES = {"r2": "always predicting the mean", "auroc": "guessing"}
_GAINS = {WEIGHT: "weights", ACTIVATION: "activations", BLOCK: "blocks"}


def verdict(facts: Facts, inside: Inside) -> list[str]:
    """Whether it learned and, unless it did, what stands in the way; nothing where nobody can tell."""
    if not facts.history:
        return []
    found = _learned(facts, inside)
    return [each for each in (found.told, "" if found.well else blamed(inside)) if each]


class _Learned(NamedTuple):
    well: bool
    told: str


def _learned(facts: Facts, inside: Inside) -> _Learned:
    losses = [row["loss"] for row in facts.history]
    if not all(map(math.isfinite, losses)):
        return _Learned(False, "")  # what came of it is said elsewhere
    first = inside.looks[0].ledger.loss if inside.looks else losses[0]
    epochs = counted(len(losses), "epoch")
    fell = f"the training loss went from {value(first)} to {value(losses[-1])} in {epochs}"
    if inside.constant is not None and losses[-1] > (1 - _ALIKE) * inside.constant > 0:
        same = f"always giving the same answer would come to {value(inside.constant)}"
        return _Learned(False, f"It did not learn: {fell}; {same}.")
    for name, least in _CHANCE.items():
        if name in facts.metrics and not facts.metrics[name] >= least:
            return _Learned(False, f"It did not learn: {fell}, and it is no better than {_GUESSES[name]}.")
    if min(losses) > (1 - _FALLEN) * first > 0:
        return _Learned(False, f"It hardly learned: {fell}.")
    return _Learned(True, f"It learned: {fell}.")


def blamed(inside: Inside) -> str:
    """What stands in the way of the gradient, and where; "" where nothing does, or nobody can tell."""
    if inside.bad is not None:
        return f"{inside.bad.sentence[:1].upper()}{inside.bad.sentence[1:]}. {inside.bad.cure}".strip()
    for look in inside.looks:
        cause, flow = look.ledger.cause, flowing(look.ledger, inside.kinds)
        likeliest = f"The likeliest cause: {inside_a_sentence(cause.reason)}." if cause is not None else ""
        if flow or likeliest:
            when = "Before training" if look.step == 0 else f"At step {look.step:,}"
            return f"{when}, {flow} {likeliest}" if flow else f"{likeliest} (That is {when.lower()}.)"
    return ""


def inside_a_sentence(reason: str) -> str:
    """A sentence as it goes on after a colon."""
    words = reason.rstrip(".")
    return words[:1].lower() + words[1:] if words[1:2].islower() else words


# -- how the gradient fares on its way -----------------------------------------------------------------------
class _Layer(NamedTuple):
    """What a layer makes of the error that passes it, in decades."""

    path: str
    decades: float


def flowing(ledger: Ledger, kinds: Mapping[str, str]) -> str:
    """How much smaller or larger the first weight's gradient is than the last one's, and by what."""
    weights = [entry for entry in ledger.entries if len(entry.shape) > 1]
    if len(weights) < 2:
        return ""
    first, last = weights[0], weights[-1]
    if any(term.decades == -math.inf for term in first.terms):
        return _lost(first)
    if any(math.isnan(term.decades) for term in first.terms):
        return f"the gradient of {first.name} is not finite."
    apart = first.log10_norm - last.log10_norm
    if not abs(apart) >= _TELLING:
        return ""
    verb = "vanishes" if apart < 0 else "explodes"
    return (
        f"the gradient {verb} on its way back: its norm is {size_of(last.log10_norm)} at {last.name} and "
        f"{size_of(first.log10_norm)} at {first.name}, {_times(apart)}. {_by(first, apart, kinds)}"
    )


def _lost(entry: Entry) -> str:
    """Where a gradient becomes exactly zero; far down that is the end of what floats can hold."""
    at = next(k for k, term in enumerate(entry.terms) if term.decades == -math.inf)
    before = math.fsum(term.decades for term in entry.terms[:at])
    how = f" (it was {-before:.0f} powers of ten smaller there, and underflows)" if before < -_DEEP else ""
    return f"no gradient reaches {entry.name}: it is exactly zero from “{entry.terms[at].label}” on{how}."


def _times(apart: float) -> str:
    """Decades as a factor.

    >>> _times(-7.1), _times(3.02), _times(-20.2)
    ('13 million times smaller', '1,000 times larger', '20 powers of ten smaller')
    """
    size, way = abs(apart), "smaller" if apart < 0 else "larger"
    if size >= 12:
        return f"{size:.0f} powers of ten {way}"
    digits, word = (9, " billion") if size >= 9 else (6, " million") if size >= 6 else (0, "")
    factor = float(f"{10 ** (size - digits):.2g}")
    return f"{factor:,.{1 if factor < 10 else 0}f}{word} times {way}"


def _by(entry: Entry, apart: float, kinds: Mapping[str, str]) -> str:
    """Which kind of factor does most of it, in which layers, by how much each."""
    sign = math.copysign(1.0, apart)
    sums = {kind: sign * entry.total(kind) for kind in _GAINS}
    kind = max(sums, key=lambda each: sums[each])
    layers = sorted(_layers(entry, kind), key=lambda each: -sign * each.decades)
    telling = [each for each in layers if sign * each.decades >= sums[kind] / (2 * max(1, len(layers)))]
    if not telling:
        return ""
    sizes = sorted(abs(each.decades) for each in telling)
    names = [each.path for each in layers if each in telling]
    what = _common_kind(names, kinds)
    return (
        f"The {_GAINS[kind]} make {sums[kind]:.1f} of these decades (powers of ten): "
        f"{what}{listed(_in_order(names), 12)}, {_range(sizes)}."
    )


def _layers(entry: Entry, kind: str) -> list[_Layer]:
    found: dict[str, float] = {}
    for term in entry.terms:
        if term.kind == kind:
            place = term.layer or term.label
            found[place] = found.get(place, 0.0) + term.decades
    return [_Layer(*each) for each in found.items()]


def _in_order(names: Sequence[str]) -> list[str]:
    return sorted(
        names, key=lambda name: [part.zfill(6) if part.isdigit() else part for part in name.split(".")]
    )


def _common_kind(names: Sequence[str], kinds: Mapping[str, str]) -> str:
    found = {kinds.get(name, "") for name in names}
    layers = "layer" if len(names) == 1 else "layers"
    return f"the {kind} in {layers} " if (kind := found.pop()) and not found else f"{layers} "


def _range(sizes: Sequence[float]) -> str:
    low, high = f"{sizes[0]:.2f}", f"{sizes[-1]:.2f}"
    if len(sizes) == 1:
        return f"{low} decades"
    return f"{low} decades each" if low == high else f"{low} to {high} decades each"
