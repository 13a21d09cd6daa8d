"""All records, by name. Each file holds one family; none imports another."""

from __future__ import annotations

from chainrule.primitive import Composite, Primitive
from chainrule.primitives import elementwise, index, linalg, random, reduce, shape

FAMILIES = {
    "elementwise": elementwise.RECORDS,
    "reductions": reduce.RECORDS,
    "shape": shape.RECORDS,
    "linear algebra": linalg.RECORDS,
    "indexing": index.RECORDS,
    "random": random.RECORDS,
}
REGISTRY: dict[str, Primitive | Composite] = {
    record.name: record for records in FAMILIES.values() for record in records
}
