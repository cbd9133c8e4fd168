"""Rows of a table as arrays that a network reads, by a schema of plain data; without torch.

>>> import pyarrow as pa
>>> from mtl_lightning.encoding import RowEncoder
>>> schema = {
...     "numeric": {"area": {"mean": 70.0, "std": 20.0, "log1p": False}},
...     "categorical": {"town": ["Bonn", "Ulm"]},
...     "missing_values": ["NA"],
... }
>>> inputs = RowEncoder(schema).inputs(pa.table({"area": [90.0, 70.0], "town": ["Ulm", "NA"]}))
>>> inputs["numeric"].flatten().tolist(), inputs["categorical"].flatten().tolist()
([1.0, 0.0], [2, 0])

From the bottom: ``sizes``, ``pages`` and ``bounds`` refuse files that no table has, ``reader`` reads CSV and Parquet,
``notation`` says how texts spell numbers, ``cells`` reads a column as numbers or as texts, ``drift`` counts what
training never saw, ``encoder`` applies the schema. What fits a schema, and what makes tensors of targets, is in
:mod:`mtl_lightning.data.table`.
"""

from mtl_lightning.encoding.drift import DriftCounts, Strange
from mtl_lightning.encoding.encoder import RowEncoder
from mtl_lightning.encoding.reader import TableFiles

__all__ = ["DriftCounts", "RowEncoder", "Strange", "TableFiles"]
