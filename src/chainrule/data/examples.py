"""Tables that travel with the package, so that examples and the demo need no network."""

from pathlib import Path

from chainrule.data.table import suggestion
from chainrule.errors import DataError

#: `example:<name>` is read as one of these files; where each comes from and its licence stand beside it.
EXAMPLES: dict[str, Path] = {"ames": Path(__file__).parent / "files" / "ames.csv.gz"}

EXAMPLE_PREFIX = "example:"


def example_path(name: str) -> Path:
    """The file of an example table: `ames`, 2,930 house sales with their prices in dollars.

    >>> example_path("ames").name
    'ames.csv.gz'
    """
    if name not in EXAMPLES:
        raise DataError(
            f"There is no example table '{name}'.{suggestion(name, list(EXAMPLES))} "
            f"There is {', '.join(EXAMPLES)}."
        )
    return EXAMPLES[name]
