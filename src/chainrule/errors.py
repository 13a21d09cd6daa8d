"""Everything chainrule raises on purpose.

Each class also inherits the built-in exception a Python reader would expect, so `except ValueError` keeps
working for callers who have never heard of this module. Messages are one helpful paragraph: they name the
place (file, column, row, layer, the user's own line) and the cure.
"""


class ChainruleError(Exception):
    """The base of every error chainrule raises on purpose."""

    is_located = False  # the message already names the operation and the user's line


class ShapeError(ChainruleError, ValueError):
    """Operands whose shapes do not fit the operation."""


class BoundsError(ChainruleError, IndexError):
    """An index beyond the end of an axis."""


class DTypeError(ChainruleError, TypeError):
    """Operands whose dtypes do not fit the operation."""


class GradientError(ChainruleError, RuntimeError):
    """A derivative that was asked for cannot be given."""


class TraceError(ChainruleError, RuntimeError):
    """A traced value was used where only a concrete one can serve."""


class GraphError(ChainruleError, ValueError):
    """A graph breaks its own grammar."""


class LawError(ChainruleError, AssertionError):
    """A record of a primitive breaks one of the laws in `chainrule.laws`."""


class NumericalError(ChainruleError, FloatingPointError):
    """An operation made NaN or infinity out of other numbers, and somebody asked to be told."""


class DataError(ChainruleError, ValueError):
    """A table that cannot be read or learned from; the command line prints the paragraph and exits 2."""


class RecipeError(ChainruleError, ValueError):
    """A recipe that contradicts itself or cannot be read."""


class RunError(ChainruleError, RuntimeError):
    """A run that is missing, damaged, or cannot be resumed."""


class MissingDependency(ChainruleError, ImportError):
    """An optional library is not installed; the message carries the install command."""
