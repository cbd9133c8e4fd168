"""Tables of numbers and categories: columns are named, fitted on the training rows, and encoded as tensors.

What is fitted is a schema of plain data; with it, rows become a batch without another look at the training rows:

>>> import pyarrow as pa
>>> from mtl_lightning.data import TableColumns, TableEncoder, TableFitter, TargetColumn
>>> rows = pa.table({"area": [50.0, 70.0, 90.0], "town": ["Ulm", "Bonn", "Ulm"], "price": [1.0, 2.0, 4.0]})
>>> fitter = TableFitter(TableColumns({"price": TargetColumn(kind="number")}, numeric=["area"]))
>>> fitter.update(rows)
>>> batch = TableEncoder(fitter.finish()).encode(rows)
>>> batch["inputs"]["categorical"].flatten().tolist(), batch["targets"]["price"].tolist()
([2, 1, 2], [1.0, 2.0, 4.0])

Files are read by :class:`~mtl_lightning.encoding.reader.TableFiles` and divided as :class:`TableSplit` says. The
datamodule of a table is :class:`~mtl_lightning.data.TableData`, which can also stream one.
"""

from mtl_lightning.data.table.columns import TableColumns
from mtl_lightning.data.table.date_column import DateColumn
from mtl_lightning.data.table.encoder import TableEncoder
from mtl_lightning.data.table.kind_columns import ListColumn, TextColumn
from mtl_lightning.data.table.schema import TableFitter
from mtl_lightning.data.table.split import TableSplit
from mtl_lightning.data.table.target_column import TargetColumn

__all__ = [
    "DateColumn",
    "ListColumn",
    "TableColumns",
    "TableEncoder",
    "TableFitter",
    "TableSplit",
    "TargetColumn",
    "TextColumn",
]
