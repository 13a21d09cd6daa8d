"""What the pictures draw with: the frame that makes an SVG readable to all, lines of text, scales, numbers.

Colours are the CSS variables of the page around (`show/report.css` has them), so that a picture fits a light
and a dark page. Texts come from users, so all of them are escaped, and control characters become marks.
"""

from __future__ import annotations

import math
import textwrap
import zlib
from collections.abc import Iterable

from chainrule.show.figures import printable
from chainrule.show.html import Html, element, joined

INK, MUTED, RULE, ACCENT, SECOND, GOOD, SHRINK, GROW = (
    f"var(--{name})" for name in ("ink", "muted", "rule", "accent", "second", "good", "shrink", "grow")
)
NARROWEST = 60  # lines of text that a picture needs on a terminal, whatever is asked for
Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Names of columns, those of numbers begin with ">", and the rows under them."""

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


# -- SVG -----------------------------------------------------------------------------------------------------
def picture(title: str, description: str, width: float, height: float, *contents: Html) -> Html:
    """An SVG image with a name and a description for those who cannot see it."""
    drawn = joined(contents)
    mark = f"p{zlib.crc32(f'{title}{description}{drawn}'.encode()):08x}"  # ids that no other picture has
    return element(
        "svg",
        element("title", printable(title), id=f"{mark}-title"),
        element("desc", printable(description), id=f"{mark}-description"),
        drawn,
        class_="chart",
        role="img",
        aria_labelledby=f"{mark}-title",
        aria_describedby=f"{mark}-description",
        viewBox=f"0 0 {at(width)} {at(height)}",
        width=at(width),
        font_family="system-ui, sans-serif",
        xmlns="http://www.w3.org/2000/svg",
    )


def words(
    x: float, y: float, text: object, fill: str = MUTED, size: float = 12, anchor: str | None = None
) -> Html:
    """A line of text that begins at (x, y), its base line; `anchor` "middle" or "end" where it does not."""
    return element(
        "text", printable(text), x=at(x), y=at(y), fill=fill, font_size=at(size), text_anchor=anchor
    )


def boxes(rectangles: Iterable[tuple[float, float, float, float]], fill: str) -> Html:
    """Filled rectangles (x, y, width, height) of one colour; one path is a third of the bytes of elements."""
    drawn = "".join(f"M{at(x)} {at(y)}h{at(w)}v{at(h)}h{at(-w)}z" for x, y, w, h in rectangles)
    return element("path", d=drawn, fill=fill) if drawn else Html("")


def legend(x: float, y: float, entries: Iterable[tuple[str, str]]) -> Html:
    """Squares of colour with what they stand for, in a row."""
    parts = []
    for colour, text in entries:
        parts += [boxes([(x, y - 9, 10, 10)], colour), words(x + 15, y, text, INK)]
        x += 35 + width_of(text)
    return joined(parts)


def at(number: float) -> str:
    """A coordinate; a tenth of a pixel is fine enough.

    >>> at(12.0), at(0.349), at(-0.01)
    ('12', '0.3', '0')
    """
    return f"{round(number, 1) + 0.0:g}"


def width_of(text: str, size: float = 12) -> float:
    """About how wide a text is in pixels."""
    return 0.56 * size * len(text)


class Decades:
    """A scale of norms by their log10: whole decades between two ends, beside the low one a place for zero.

    norms  log10 of what is shown; -inf for zeros, what is nan has no place
    start  where the low end stands, `end` where the high one
    room   left of the start for a zero, taken where there is one
    """

    def __init__(self, norms: Iterable[float], start: float, end: float, room: float) -> None:
        known = list(norms)
        finite = [norm for norm in known if math.isfinite(norm)] or [0.0]
        self.zeros = -math.inf in known
        self.low, self.high = math.floor(min(finite) - 0.05), math.ceil(max(finite) + 0.05)
        self.start, self.end, self._zero = start + room * self.zeros, end, start

    def __call__(self, norm: float) -> float:
        """Where a norm stands."""
        if norm == -math.inf:
            return self._zero
        return self.start + (norm - self.low) / (self.high - self.low) * (self.end - self.start)

    def marks(self, most: int) -> list[tuple[float, str]]:
        """Places and names of whole decades, about as many as wanted at most."""
        every = next(
            step for step in (1, 2, 5, 10, 20, 50, 100, 500) if (self.high - self.low) <= step * most
        )
        marks = [(self(k), power(k)) for k in range(self.low, self.high + 1) if k % every == 0]
        return [(self(-math.inf), "0"), *marks] if self.zeros else marks


# -- texts ---------------------------------------------------------------------------------------------------
def power(exponent: int) -> str:
    """A power of ten.

    >>> power(-12), power(0), power(1)
    ('10⁻¹²', '1', '10')
    """
    return {0: "1", 1: "10"}.get(exponent, f"10{superscript(exponent)}")


def superscript(exponent: int) -> str:
    """A whole number as an exponent is written.

    >>> superscript(-3)
    '⁻³'
    """
    return str(exponent).translate(_SUPERSCRIPTS)


def size_of(decades: float) -> str:
    """A norm from its log10, in the way people write it.

    >>> size_of(-5.74), size_of(0.3), size_of(-math.inf)
    ('1.8e-06', '2.0', '0')
    """
    if math.isnan(decades):
        return "undefined"
    if decades == -math.inf:
        return "0"
    if -2 <= decades < 4:
        return f"{10**decades:,.{max(0, 1 - math.floor(decades))}f}"
    exponent = math.floor(decades)
    return f"{10 ** (decades - exponent):.1f}e{exponent:+03}"


def shortened(text: str, most: int) -> str:
    """At most so many characters; of a path, the end tells more.

    >>> shortened("encoder.layers.11.attention", 20)
    '…layers.11.attention'
    """
    return text if len(text) <= most else f"…{text[len(text) - most + 1 :]}"


def wrapped(text: str, width: int) -> str:
    """A text for a terminal, in lines of at most so many characters."""
    return "\n".join(textwrap.wrap(printable(text), max(width, NARROWEST), break_on_hyphens=False))
