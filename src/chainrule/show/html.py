"""HTML that cannot be broken by what is in the data: every text is escaped unless it is `Html` already."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_EMPTY = frozenset({"br", "hr", "meta"})


class Html(str):
    """Text that is HTML, made by `element` or `joined`, so that it needs no escaping."""

    __slots__ = ()


def element(name: str, /, *children: object, **attributes: str | int | None) -> Html:
    """An element with its children and attributes, all escaped.

    Underscores around an attribute's name are dropped, inner ones become hyphens; None leaves it out.

    >>> element("td", "<script>", class_="number", aria_label='a "b"')
    '<td class="number" aria-label="a &quot;b&quot;">&lt;script&gt;</td>'
    """
    written = "".join(
        f' {key.strip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{joined(children)}</{name}>")


def joined(parts: Iterable[object], between: str = "") -> Html:
    """Parts one after the other, texts escaped."""
    return Html(between.join(part if isinstance(part, Html) else escape(str(part)) for part in parts))
