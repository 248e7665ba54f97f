"""Weights that are stored smaller than dense and decoded when a session is made.

`forms` encodes arrays without knowing graphs, `writing` puts a form into a graph as operators that a runtime folds,
`reading` recognises such operators again, and `unpacking` makes them dense weights.
"""

from onnxprune.packing.forms import Coded, Dense, Filled, Form, Masked, encode
from onnxprune.packing.lookups import Lookup, find_lookups
from onnxprune.packing.reading import Packed, find_packed
from onnxprune.packing.unpacking import unpacked
from onnxprune.packing.writing import PackWriter

__all__ = [
    "Coded",
    "Dense",
    "Filled",
    "Form",
    "Lookup",
    "Masked",
    "PackWriter",
    "Packed",
    "encode",
    "find_lookups",
    "find_packed",
    "unpacked",
]
