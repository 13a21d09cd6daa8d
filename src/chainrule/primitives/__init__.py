"""All records, by name. Each file holds one family; none imports another."""

from __future__ import annotations

from chainrule.primitive import Composite, Primitive
from chainrule.primitives import (
    arrange,
    convolution,
    elementwise,
    getitem,
    index,
    linalg,
    order,
    random,
    reduce,
    shape,
    statistics,
    tally,
)

FAMILIES: dict[str, tuple[Primitive | Composite, ...]] = {
    "elementwise": elementwise.RECORDS,
    "order and choice": order.RECORDS,
    "reductions": reduce.RECORDS,
    "statistics": (*statistics.RECORDS, *tally.RECORDS),
    "shape": shape.RECORDS,
    "arrangement": arrange.RECORDS,
    "linear algebra": (*linalg.RECORDS, *convolution.RECORDS),
    "indexing": (*index.RECORDS, *getitem.RECORDS),
    "random": random.RECORDS,
}
REGISTRY: dict[str, Primitive | Composite] = {
    record.name: record for records in FAMILIES.values() for record in records
}
