"""Tables of one's own: CSV or Parquet files, several targets, no Python."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from mtl_lightning.data.base import MultiTaskDataModule, Split, TaskFactory, TaskOverrides
from mtl_lightning.data.loader import ResumableLoader
from mtl_lightning.data.streaming.loader import StreamLoader
from mtl_lightning.data.streaming.rows import StreamedRows
from mtl_lightning.data.streaming.split import StreamSplit
from mtl_lightning.data.streaming.table import Streaming, TableStream
from mtl_lightning.data.table.columns import TableColumns
from mtl_lightning.data.table.conditions import declared_conditions
from mtl_lightning.data.table.date_column import DateColumn, declared_dates
from mtl_lightning.data.table.drift import Drift, Drifts
from mtl_lightning.data.table.encoder import TableEncoder
from mtl_lightning.data.table.kind_columns import (
    ListColumn,
    TextColumn,
    declared_lists,
    declared_text,
    declared_vectors,
)
from mtl_lightning.data.table.pieces import ReadOnce, Selected, placed, select
from mtl_lightning.data.table.predicted import PredictedRows
from mtl_lightning.data.table.rows import RowsBuilder, TableRows
from mtl_lightning.data.table.schema import TableFitter, what_matters
from mtl_lightning.data.table.split import NONE, SPLITS, TableSplit, shares_of_train, table_of, without_rows
from mtl_lightning.data.table.target_column import TargetColumn
from mtl_lightning.data.table.targets import declared_targets, declared_task
from mtl_lightning.data.table.words import described
from mtl_lightning.encoding.cells import CellError
from mtl_lightning.encoding.reader import As, Piece, TableFiles, UnreadableNumberError, find_files
from mtl_lightning.tasks.class_weights import ClassWeightedTask
from mtl_lightning.tasks.regression import Regression
from mtl_lightning.types import Batch, ConfigurationError, DataError, TableSpec, TargetSpec

LabelValue: TypeAlias = bool | int | float | str
Source = Literal["train", "val", "test", "path", "predict"]


class TableData(MultiTaskDataModule):
    """A table in CSV or Parquet files whose columns are inputs, targets and sample weights.

    ::

        data:
          class_path: TableData
          init_args:
            path: houses/*.csv
            targets: [price, sold, kind]       # a number, yes or no, one of several classes: seen from the values
            split: {fractions: [0.8, 0.1, 0.1], group: street}

    Every other column is a feature. Its kind, a number or a category, is guessed from the training rows where it is not
    declared, and the guess is printed, doubtful ones marked, and kept in the schema (docs/tables.md has the rules). A
    column of numbers in which some cells are none is refused. Numbers are standardised; categories become codes, 0 for
    a missing one or one that training did not have. Whatever is fitted is fitted on the training split, the same from
    any storage. With a checkpoint its schema is used, and nothing is fitted.

    A target with two values is a yes-or-no question (the later in order, as numbers or else as text, is yes), text, or
    few integers that repeat, are classes, other numbers a regression, standardised. ``tasks`` chooses other tasks, and
    names further target columns. An empty field of a target is a missing label.

    Rows are held as tensors: a batch is one index operation. With ``stream``, a table may be larger than memory.

    Args:
        path: the rows that are divided into those splits that have no path of their own: a file, a folder, a pattern
            such as ``logs/*.csv.gz``, or a list of such (:class:`~mtl_lightning.encoding.reader.TableFiles`).
        train: the rows for training, where they are in files of their own.
        val: the rows for validation, likewise; or a share of the training rows, drawn by chance: ``0.1 of train``.
        test: the rows for test, likewise.
        predict: the rows to predict, which need no targets; the test rows by default.
        targets: the target columns; or, by the name of the task, where its target comes from
            (:class:`~mtl_lightning.data.TargetColumn`).
        numeric: columns of numbers; here and below, names may be patterns such as ``price_*``, and a full name goes
            before a pattern. A column may be both numeric and categorical: the network then sees it both ways.
        categorical: columns of categories.
        ignore: columns to leave out.
        weights: the column of sample weights for all tasks, or one by task.
        ids: columns that travel along with the rows as they stand in the file, and come out beside their predictions;
            metrics by group (:class:`~mtl_lightning.callbacks.GroupedMetrics`) take groups of them. They are no
            features unless they are declared.
        only_where: by task ``{column or task: value or values}``, such as ``{bought: {clicked: 1}}``: its labels count
            only in rows where that column (or target) holds one of these values; elsewhere, and where the value is
            missing, there is no label. Several conditions must all hold. Statistics are those of the rows that count.
            Columns that only say so are no features unless they are declared.
        log1p: numeric columns of which sign(x) log(1 + abs(x)) is taken, for amounts with a long tail.
        missing_values: what stands for a missing value, such as ``"?"``, beside empty fields, null, nan and the usual
            marks.
        usual_missing: true: ``NA``, ``N/A``, ``null``, ``NULL``, ``None``, ``NaN``, ``nan``, ``-`` and ``#N/A`` are
            missing values everywhere; false, or a list of those that are, where some of them mean something.
        min_count: a category, or a bucket of ``hashed``, with fewer training rows than this counts as not met in
            training; for all columns, or by column.
        hashed: columns of ids of many levels, each with a number of buckets, ``{user_id: 200000}``: an id's code is the
            bucket that its hash falls in.
        lists: columns of lists of categories, by name; or each with what separates its elements, ``{tags: "|"}``, or
            more (:class:`~mtl_lightning.data.ListColumn`). Lists of Parquet need no declaration.
        vectors: columns of lists of numbers, all of one length; texts are JSON, or ``{place: " "}`` separates them.
        text: columns of free text, by name, or each with more (:class:`~mtl_lightning.data.TextColumn`): words and
            groups of letters become codes.
        share: columns that have one vocabulary and their embeddings in common, by any name,
            ``{user: [user_id, friend_id]}``.
        split: how ``path`` is divided (:class:`~mtl_lightning.data.TableSplit`): by chance, 80, 10 and 10 %
            by default, by time, or by a column. Its columns are no features unless they are declared.
        thousands: what sets groups of three digits apart in texts, such as ``","`` in 2,125,730; by default what all
            cells of a column agree in.
        decimal: what stands before the fraction in texts, such as ``","`` in 100,13; likewise.
        dates: columns of dates and times, ISO 8601's (which are seen without it where all cells agree); or
            ``{column: format}``, such as ``{bought: "%d.%m.%Y"}``, or :class:`~mtl_lightning.data.DateColumn`, with a
            time zone and more. They become seconds since 1970, weekdays, and positions in the day and the year.
        buckets: columns of numbers that the network is given as categories too, each with the number of equal shares
            that the training rows are divided into, such as ``{age: 20}``.
        header: the names of the columns, for text files whose first line has none.
        delimiter: what separates the fields of text files; a comma, or a tab in ``.tsv`` files, by default.
        encoding: of text files.
        stream: read Parquet files while they are trained on, for tables larger than memory: true, or how
            (:class:`~mtl_lightning.data.Streaming`). Splits by chance are then met nearly, not to a row
            (:class:`~mtl_lightning.data.streaming.split.StreamSplit`).
        unseen_share: the share of a column's rows above which ``test`` and ``predict`` warn in the end that
            training never saw such cells: unknown categories, numbers far outside of the training rows' range, missing
            cells beyond their share in training. What there is of them is printed; null counts nothing.
        batch_size: rows of a batch of one process.
        tasks: other tasks for target columns, as functions of the ``TargetSpec``; None removes a task.
        seed: of the split and of the order of the training rows.
        num_workers: processes that read rows ahead.
        drop_last: leave out the last batch of a training epoch where it would be short.

    Attributes:
        text_options: ``header``, ``delimiter`` and ``encoding``, by which a predictor reads text files as well.

    Raises:
        ConfigurationError: if no rows or no targets are given, or the declaration does not fit the columns.
        DataError: for a file that cannot be read, and for a cell that is not what its column needs; it names the file
            and the row, counted from 1 without the header.
    """

    def __init__(
        self,
        *,
        path: str | list[str] | None = None,
        train: str | list[str] | None = None,
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        predict: str | list[str] | None = None,
        targets: list[str] | dict[str, TargetColumn] | None = None,
        numeric: list[str] | None = None,
        categorical: list[str] | None = None,
        ignore: list[str] | None = None,
        weights: str | dict[str, str] | None = None,
        ids: list[str] | None = None,
        only_where: dict[str, dict[str, LabelValue | list[LabelValue]]] | None = None,
        log1p: list[str] | None = None,
        missing_values: list[str] | None = None,
        usual_missing: bool | list[str] = True,
        min_count: int | dict[str, int] = 1,
        hashed: dict[str, int] | None = None,
        lists: list[str] | dict[str, str | ListColumn | None] | None = None,
        vectors: list[str] | dict[str, str | None] | None = None,
        text: list[str] | dict[str, TextColumn | None] | None = None,
        share: dict[str, list[str]] | None = None,
        split: TableSplit | None = None,
        thousands: str | None = None,
        decimal: str | None = None,
        dates: list[str] | dict[str, str | DateColumn] | None = None,
        buckets: dict[str, int] | None = None,
        header: list[str] | None = None,
        delimiter: str | None = None,
        encoding: str = "utf8",
        stream: bool | Streaming = False,
        unseen_share: float | None = 0.05,
        batch_size: int = 1024,
        tasks: TaskOverrides | None = None,
        seed: int = 0,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size=batch_size, tasks=tasks, seed=seed, num_workers=num_workers, drop_last=drop_last)
        paths = {"path": path, "train": train, "val": val, "test": test, "predict": predict}
        self.paths, self.split = shares_of_train(paths, split or TableSplit())
        declared = declared_targets(targets or {}, self._overrides)
        self.columns = TableColumns(
            targets=declared,
            numeric=numeric or (),
            categorical=categorical or (),
            ignore=ignore or (),
            aside=self.split.columns,
            weights=weights,
            ids=ids or (),
            only_where=declared_conditions(only_where or {}, declared),
            log1p=log1p or (),
            missing_values=missing_values or (),
            usual_missing=usual_missing,
            min_count=min_count,
            hashed=hashed or {},
            lists=declared_lists(lists or {}),
            vectors=declared_vectors(vectors or {}),
            text=declared_text(text or {}),
            share=share or {},
            thousands=thousands,
            decimal=decimal,
            dates=declared_dates(dates or ()),
            buckets=buckets or {},
        )
        self.text_options: dict[str, Any] = {"header": header, "delimiter": delimiter, "encoding": encoding}
        self._drifts = Drifts(unseen_share, type(self).__name__, num_workers, streamed=bool(stream))
        self._assigned: NDArray[np.int8] | None = None  # the splits of the rows of `path`
        self._encoded: dict[Split, TableRows] = {}  # read, but not asked for yet
        self._read_once = ReadOnce()
        self.streaming = Streaming() if stream is True else stream or None
        self.loader_type = ResumableLoader if self.streaming is None else StreamLoader
        self._streams: dict[Source, TableStream] = {}

    # ---------------------------------------------------------------------------------------------------- the contract
    def read_schema(self) -> dict[str, Any]:
        """Fit the schema on the training rows, and print what was guessed."""
        if not self.columns.targets:
            raise ConfigurationError(f"{type(self).__name__}: expected `targets` or `tasks`, found neither.")
        source = self._source("train")
        if self.streaming is not None:
            schema = self._stream(source).fit(self.columns)
        else:
            try:
                schema = self._fit(source)
            except UnreadableNumberError:  # which may be spelled in another way
                schema = self._fit(source, as_text=True)
        rank_zero_info(f"{type(self).__name__}: {described(schema)}")
        return schema

    def _fit(self, source: Source, *, as_text: bool = False) -> dict[str, Any]:
        """Fit a schema on the training rows; numbers are read as text where it must be seen how they are spelled."""
        fitter, files = TableFitter(self.columns), self._files(source)
        needed = fitter.needed(files.names())
        columns: Mapping[str, As] = dict.fromkeys(needed, "text") if as_text else needed
        pieces = self._read_once.keeping(source, columns, files.pieces(columns))
        for selected in self._selected(source, files, pieces, "train"):
            with selected.located():
                fitter.update(selected.batch(), selected.locate)
        return fitter.finish()

    def declared_tasks(self) -> dict[str, tuple[TargetSpec, TaskFactory]]:
        """Return a task for each target."""
        return {name: declared_task(name, known) for name, known in self.schema["targets"].items()}

    def rows(self, split: Split) -> TableRows | StreamedRows:
        """Read the rows of a split; its source's other splits, read along, are kept until they are asked for."""
        source = self._source(split)
        if self.streaming is None and split not in self._encoded:
            splits = SPLITS if source == "path" else (split,)
            self._encoded |= self._read(
                source, splits, drift=self._drifts.of("test", self.schema) if "test" in splits else None
            )
        drift = self._drifts.of(split, self.schema) if split == "test" else None
        found = self._encoded.pop(split, None) if self.streaming is None else self._streamed(source, split, drift=drift)
        if not found:
            raise DataError(
                f"{type(self).__name__}: expected rows in the split {split!r} of {self.paths[source]}, found none. "
                f"{without_rows(split, source)}"
            )
        return found

    def train_target(self, task: str) -> Tensor:
        """Return the target (N,) of the training rows.

        Of streamed numbers two with the same mean and deviation; of streamed classes that are to be balanced
        the labels, in order of class.
        """
        if self.streaming is None:
            return cast("TableRows", self._split("train")).target(task)
        known = self.schema["targets"][task]
        made = self._made[task]
        if "counts" in known and isinstance(made, ClassWeightedTask) and made.balances:
            return torch.arange(len(known["counts"])).repeat_interleave(torch.tensor(known["counts"]))
        needs_all = type(made).fit_target is not Regression.fit_target or getattr(made, "transform", None) is not None
        if known["kind"] != "number" or needs_all:
            return super().train_target(task)
        mean, std = known["mean"], known["std"]
        return torch.tensor([mean - std, mean + std], dtype=torch.float64)

    def predict_dataloader(self) -> ResumableLoader:
        """Return the rows of ``predict``, or else the test rows, in order, none of them made up."""
        if self.paths["predict"] is None:
            return super().predict_dataloader()
        if "predict" not in self._splits:
            found = (
                self._read("predict", ("test",), targets=False, drift=self._drifts.of("predict", self.schema)).get(
                    "test"
                )
                if self.streaming is None
                else self._streamed("predict", "test", targets=False, drift=self._drifts.of("predict", self.schema))
            )
            if not found:
                raise DataError(f"{self.paths['predict']}: expected rows to predict, found none.")
            self._splits["predict"] = found
        return self._loader(cast("Split", "predict"), pad=False)

    @property
    def predicted(self) -> PredictedRows | None:
        """The rows that a prediction is of: their columns, and what of them is unlike training; None without files."""
        sources: tuple[Source, ...] = ("predict", "test", "path")
        source = next((name for name in sources if self.paths[name] is not None), None)
        if source is None:
            return None
        name = "predict" if source == "predict" else "test"
        if self.streaming is not None:
            return PredictedRows(
                self._stream(source).source.names,
                lambda columns: self._stream(source).rows(SPLITS.index("test"), _as_they_are, columns).tables(),
                lambda: self._drifts.report(name),
            )
        files = self._files(source)
        return PredictedRows(
            files.names(),
            lambda columns: (
                pa.Table.from_batches([selected.batch()])
                for selected in self._selected(source, files, files.pieces(dict.fromkeys(columns, "text")), "test")
            ),
            lambda: self._drifts.report(name),
        )

    def teardown(self, stage: str) -> None:
        """After a test or a prediction, say what its rows hold that training never saw."""
        name = "predict" if stage == "predict" and self.paths["predict"] is not None else "test"
        if stage in ("test", "predict"):
            self._drifts.tell(name)

    def what_matters(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return how columns and targets are encoded, without what was met and said of them."""
        return what_matters(schema)

    # --------------------------------------------------------------------------------------------------------- reading
    def assign(self, files: TableFiles) -> NDArray[np.int8]:
        """Return the split of each row (N,) of ``path``, as its number in ``SPLITS``, or -1 for none."""
        rule, given = self._rule()
        pieces = list(files.pieces(dict.fromkeys(rule.columns, "text")))
        table = table_of([piece.rows for piece in pieces], rule.columns)
        try:
            assigned = rule.assign(table, self.seed, self._missing)
        except CellError as error:
            raise placed(error, pieces) from error
        return np.where(np.array([*given, False])[assigned], NONE, assigned).astype(np.int8)

    def _rule(self) -> tuple[TableSplit, list[bool]]:
        """Return how ``path`` is divided, and whether training, validation and test have paths of their own."""
        given = [self.paths[name] is not None for name in SPLITS]
        return self.split.without(given), given

    def _stream(self, source: Source) -> TableStream:
        assert self.streaming is not None
        if source not in self._streams:
            split = None
            if source == "path":
                rule, given = self._rule()
                split = StreamSplit(rule, self.seed, self._missing, given)
            self._streams[source] = TableStream(find_files(self.paths[source]), self.streaming, split)
        return self._streams[source]

    def _streamed(
        self, source: Source, split: Split, *, targets: bool = True, drift: Drift | None = None
    ) -> StreamedRows:
        encoder = TableEncoder(self.schema, self.missing_labels, self.columns.ids)
        columns = encoder.needed(targets=targets)
        encode = partial(encoder.encode, targets=targets, drift=drift)
        return self._stream(source).rows(SPLITS.index(split), encode, columns)

    def _source(self, split: Split) -> Source:
        """Return which of the paths has the rows of a split."""
        source: Source = split if self.paths[split] is not None else "path"
        if self.paths[source] is None:
            raise ConfigurationError(
                f"{type(self).__name__}: expected rows for the split {split!r}, found neither `path` nor `{split}`. "
                f"{without_rows(split, source)}"
            )
        return source

    @property
    def _missing(self) -> Sequence[str]:
        """What stands for a missing value: as in the schema once there is one."""
        return self.columns.missing if self._schema is None else self._schema["missing_values"]

    def _files(self, source: Source) -> TableFiles:
        return TableFiles(self.paths[source], **self.text_options, missing=self._missing)

    def _assign(self, source: Source, files: TableFiles) -> None:
        if source == "path" and self._assigned is None:
            self._assigned = self.assign(files)

    def _selected(
        self, source: Source, files: TableFiles, pieces: Iterable[Piece], *splits: Split
    ) -> Iterator[Selected]:
        """Pick those rows of the pieces of a source that belong to ``splits``."""
        self._assign(source, files)
        wanted = [SPLITS.index(split) for split in splits]
        return select(pieces, wanted, self._assigned if source == "path" else None)

    def _read(
        self, source: Source, splits: Sequence[Split], *, targets: bool = True, drift: Drift | None = None
    ) -> dict[Split, TableRows]:
        """Encode rows of a source; a split without rows is left out, so that it fails when it is asked for."""
        encoder = TableEncoder(self.schema, self.missing_labels, self.columns.ids)
        files = self._files(source)
        spec = cast("TableSpec", self.input_spec)
        lists = max((codes for codes, _ in spec.lists.values()), default=1)
        most = {"categorical": max(spec.categorical.values(), default=1), "lists": lists}
        found = {split: RowsBuilder(most) for split in splits}
        needed = encoder.needed(targets=targets)
        self._assign(source, files)
        kept = self._read_once.has(source, needed)
        pieces = self._read_once.give(needed) if kept else files.pieces(needed)
        for selected in self._selected(source, files, pieces, *splits):
            with selected.located():
                tested = np.flatnonzero(selected.splits == SPLITS.index("test"))
                batch = encoder.encode(selected.batch(), targets=targets, drift=drift, counted=tested)
            for split, builder in found.items():
                rows = np.flatnonzero(selected.splits == SPLITS.index(split))
                if len(rows):
                    builder.add(batch, torch.from_numpy(rows))
        return {split: builder.build() for split, builder in found.items() if builder.rows}


def _as_they_are(table: Any) -> Batch:
    return {"inputs": table}
