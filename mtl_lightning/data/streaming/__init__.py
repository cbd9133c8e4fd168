"""Tables larger than memory: read from Parquet files block by block, while they are trained on.

The order of an epoch is a function of (seed, epoch), so that it can be shared out over processes and taken up again.
:class:`~mtl_lightning.data.TableData` streams when it is told to::

    data:
      class_path: TableData
      init_args:
        path: logs/*.parquet
        targets: [click]
        stream: {}                # as Streaming() says

From the bottom: ``source`` cuts the files into slices, ``split`` says which split a row is in, ``scan`` is the one pass
before training, ``rows`` reads and encodes a block of a split, ``order`` says which block comes when, ``loader`` cuts
blocks into batches, ``table`` puts them together.
"""

from mtl_lightning.data.streaming.loader import StreamLoader
from mtl_lightning.data.streaming.table import Streaming

__all__ = ["StreamLoader", "Streaming"]
