"""Tables in, arrays a network can train on out, and the way back to the table's own units.

`read_table` reads anything DuckDB reads; `infer_task` says what is to be predicted; `split_rows` cuts rows
into training, validation and test; a `Preprocessor` fitted on the training rows turns columns into numbers.
Importing this package imports NumPy alone: DuckDB and scikit-learn are loaded when first needed.
"""

from chainrule.data.examples import example_path
from chainrule.data.reading import ames, read_table
from chainrule.data.table import LEARNABLE, Column, Kind, Table

__all__ = ["LEARNABLE", "Column", "Kind", "Table", "ames", "example_path", "read_table"]
