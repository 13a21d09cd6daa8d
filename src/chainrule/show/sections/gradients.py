"""Where the gradient comes from: the ledger, the flow through the network, single numbers opened."""

from __future__ import annotations

from collections.abc import Iterator

from chainrule.insight.departures import signed
from chainrule.show.blame import inside_a_sentence
from chainrule.show.figures import clipped
from chainrule.show.html import Html, details, element, figure, heads, number, table
from chainrule.show.inside import Inside, Look
from chainrule.show.pictures import canvas, dataflow, tree, waterfall


def ledgers(inside: Inside) -> list[Html]:
    """How the gradient changes on its way back from the loss, at the first and the last step."""
    if inside.missing:
        return [element("p", f"The steps of this run are not opened here. {_sentence(inside.missing)}")]
    if not inside.looks:
        return []
    said = (
        "The norm of a weight's gradient is a product: the error at the loss, what each layer makes of it on "
        "the way back, the norm of what comes in, and how well the two are aligned. In decades (powers of "
        "ten) the product is a sum, which is exact."
    )
    return [element("p", said), *(part for look in inside.looks for part in _ledger(look))]


def _ledger(look: Look) -> Iterator[Html]:
    falls = waterfall.of_ledger(look.ledger)
    yield element("h3", when(look).capitalize())
    if look.ledger.cause is not None:
        reason = inside_a_sentence(look.ledger.cause.reason)
        yield element("p", f"Should the network not learn, the likeliest cause: {reason}.")
    named = f"{waterfall.title(falls)}, {when(look)}"
    yield figure(waterfall.svg(falls), named, waterfall.described(falls))
    yield details("The picture as numbers", picture_table(f"{named}, as numbers", waterfall.table(falls)))
    yield details("Every parameter", _entries(look))


def _entries(look: Look) -> Html:
    """The ledger by kind of factor, a row for each parameter."""
    kinds = look.ledger.kinds
    body = [
        element(
            "tr",
            element("th", element("code", clipped(entry.name)), scope="row", class_="what"),
            *(number(signed(entry.total(kind))) for kind in kinds),
            number(signed(entry.log10_norm)),
        )
        for entry in look.ledger.entries
    ]
    head = heads("parameter", *(f">{kind}" for kind in kinds), ">gradient norm")
    return table(f"Norms of gradients in decades, {when(look)}", head, body, wide=True)


def flows(inside: Inside) -> list[Html]:
    """The network as boxes and arrows; at the last step, and the first one behind a fold."""
    drawn = [list(_flow(look)) for look in reversed(inside.looks)]
    if not drawn:
        return []
    said = (
        "Values go down, derivatives come back up. Where a value is used several times, the share says how "
        "much of what comes back to it came over that arrow."
    )
    return [
        element("p", said),
        *drawn[0],
        *(details(f"The same {when(inside.looks[0])}", *rest) for rest in drawn[1:]),
    ]


def _flow(look: Look) -> Iterator[Html]:
    caption = f"{when(look).capitalize()}. {dataflow.described(look.flow)}"
    named = f"{dataflow.title(look.flow)}, {when(look)}"
    yield figure(dataflow.svg(look.flow), named, caption)
    yield details("The picture as numbers", picture_table(f"{named}, as numbers", dataflow.table(look.flow)))


def opened(inside: Inside) -> list[Html]:
    """The largest elements of two gradients, opened into what made them."""
    look = inside.looks[-1] if inside.looks else None
    if look is None or not look.opened:
        return []
    said = (
        "One number in a gradient is the sum of what came to it over the elements of the next layer, and so "
        f"on up to the loss. Here are, {when(look)}, the largest elements in the gradients of the first and "
        "of the last weight, with the largest parts of each, which open further; all the others are one row. "
        "The bar is the size of a part among those of all parts of the same number."
    )
    return [element("p", said), *(part for branch in look.opened for part in _tree(branch, look))]


def _tree(branch: tree.Branch, look: Look) -> Iterator[Html]:
    yield element("h3", f"The gradient's element {clipped(branch.label)}")
    yield tree.html(branch)
    named = f"{branch.label}, {when(look)}"
    yield details("The tree as a table", picture_table(named, tree.table(branch)))


def picture_table(caption: str, shown: canvas.Table) -> Html:
    """The table under a picture."""
    names, rows = shown
    numeric = [name.startswith(">") for name in names]
    body = [
        element(
            "tr",
            *(
                number(cell) if right else element("td", clipped(cell))
                for cell, right in zip(row, numeric, strict=True)
            ),
        )
        for row in rows
    ]
    return table(clipped(caption), heads(*names), body)


def when(look: Look) -> str:
    """Which step, in words."""
    return "before training" if look.step == 0 else f"at step {look.step:,}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
