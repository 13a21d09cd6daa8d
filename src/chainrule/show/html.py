"""HTML that cannot be broken by what is in the data: every text is escaped unless it is `Html` already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


# -- tables --------------------------------------------------------------------------------------------------
def table(caption: str, head: Html, body: Sequence[Html], wide: bool = False) -> Html:
    """A table that scrolls by itself where the window is narrow, reachable by keyboard."""
    parts = element("caption", caption), element("thead", head), element("tbody", *body)
    whole = element("table", *parts, class_="wide" if wide else None)
    return element("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)


def figure(picture: Html, name: str, caption: str = "") -> Html:
    """A picture that scrolls by itself where the window is narrow, as a table does."""
    frame = element("div", picture, class_="scroll", tabindex=0, role="region", aria_label=name)
    return element("figure", frame, element("figcaption", caption) if caption else "")


def heads(*names: str) -> Html:
    """A row of headers; a name that begins with ">" stands over numbers."""
    return element(
        "tr",
        *(
            element(
                "th", name.removeprefix(">"), scope="col", class_="number" if name.startswith(">") else None
            )
            for name in names
        ),
    )


def number(text: str) -> Html:
    """A cell that holds a number."""
    return element("td", text, class_="number")


def details(title: str, *contents: Html, open_: bool = False) -> Html:
    """Contents that are there when asked for."""
    return element("details", element("summary", title), *contents, open="open" if open_ else None)
