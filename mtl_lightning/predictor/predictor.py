"""A trained model as a function of raw rows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from mtl_lightning.errors import ConfigurationError, DataError, MtlLightningWarning
from mtl_lightning.exported import SCHEMA, ExportedFolder
from mtl_lightning.names import known_name, listed
from mtl_lightning.predictor.answers import Predictions
from mtl_lightning.predictor.arrays import Inputs, sliced
from mtl_lightning.predictor.decode import answer, empty_outputs, prepared
from mtl_lightning.predictor.description import check_description
from mtl_lightning.predictor.intake import Encoded, intake_of
from mtl_lightning.ranges import Ranged

__all__ = ["Backend", "OnUnknown", "Predictor"]

OnUnknown: TypeAlias = Literal["ignore", "warn", "raise"]


class Backend(Protocol):
    """What runs a network: of a checkpoint, or of an export. It is called from several threads."""

    @property
    def description(self) -> Mapping[str, Any]:
        """What a predictor has to know beside the network (:mod:`~mtl_lightning.predictor.description`)."""

    def run(self, inputs: Inputs, tasks: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return the final outputs (B, *) of some tasks by name, as of
        :func:`~mtl_lightning.core.network.final.final_outputs`.

        Args:
            inputs: an array (B, *), or several by name; B is at least 1.
            tasks: those to compute, in the network's order.
        """


class Predictor(Ranged):
    """Maps raw rows to answers by task: no trainer, no datamodule, any number of rows, from any number of threads.

    ::

        predictor = Predictor.from_checkpoint("best.ckpt")
        answers = predictor([{"area": 70, "town": "Ulm"}])
        answers.to_list()      # [{"price": {"value": 251000.0}, "sold": {"label": "yes", "probabilities": {...}}}]
        answers["price"]["value"], answers.report, answers.to_arrow()

    Rows of a table are a list of dicts, a dict of columns, a table or record batch of Arrow, a data frame of pandas or
    polars, or the path, or paths, of CSV and Parquet files. They are encoded as in training, by the schema that was
    fitted there: values of Python as a file that holds them would be, so that 1 and 1.0 and "1" are one category, and
    true is ``true``. Columns that the schema does not know, those of targets too, are not looked at; one that is not
    there counts as missing. For other data rows are the inputs of a batch: arrays or tensors, or dicts of such.

    What training never saw is in the answers' ``report``
    (:class:`~mtl_lightning.predictor.report.Report`): columns that are not there, cells that cannot be read, unknown
    categories, numbers far outside of the training rows' range, and more gaps than in training.

    Args:
        model: a :class:`~mtl_lightning.MultiTaskModule` or :class:`~mtl_lightning.Network`, of which a copy is taken;
            or a :class:`Backend`.
        device: where the network runs, such as ``cuda``; that of the module by default.
        tasks: the tasks to predict, all by default; only they, and those that they read, are computed.
        batch_size: rows that are computed at once.
        on_unknown: about rows unlike those of training: ``warn``, where they are more than ``unseen_share`` of a
            column; ``raise`` an error for any (but for more gaps than in training); or ``ignore``.
        unseen_share: the share of a column's rows above which there is a warning.

    Raises:
        ConfigurationError: for unknown tasks and other arguments that cannot be.
    """

    def __init__(
        self,
        model: Any,
        *,
        device: Any = None,
        tasks: Sequence[str] | None = None,
        batch_size: int = 1024,
        on_unknown: OnUnknown = "warn",
        unseen_share: float = 0.05,
    ) -> None:
        if on_unknown not in get_args(OnUnknown):
            raise ConfigurationError(f"`on_unknown`: expected one of {get_args(OnUnknown)}, found {on_unknown!r}.")
        self._backend = _backend_of(model, device)
        self.description = self._backend.description
        self.on_unknown, self.unseen_share, self.batch_size = on_unknown, unseen_share, batch_size
        self.tasks = self._chosen(tasks, list(self.description["tasks"]))
        self._calibration: Mapping[str, Any] = self.description["calibration"] or {}
        self._intake = intake_of(self.description)
        self._decodings = {name: prepared(decoding) for name, decoding in self.description["tasks"].items()}

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        device: Any = "cpu",
        tasks: Sequence[str] | None = None,
        batch_size: int = 1024,
        on_unknown: OnUnknown = "warn",
        unseen_share: float = 0.05,
        trusted: Sequence[str] = (),
        **changes: Any,
    ) -> Predictor:
        """Make the predictor of a checkpoint; a file, or an address, as of
        :meth:`mtl_lightning.MultiTaskModule.load_from_checkpoint`.

        Args:
            path: the checkpoint.
            device: where the network runs.
            tasks: as of :class:`Predictor`, like ``batch_size``, ``on_unknown`` and ``unseen_share``.
            batch_size: see there.
            on_unknown: see there.
            unseen_share: see there.
            trusted: modules or packages of yours whose classes and functions the checkpoint may name.
            changes: arguments of the module that the checkpoint cannot hold.

        Raises:
            CheckpointError: for a file that is no checkpoint, or names what is not trusted.
        """
        from mtl_lightning.predictor.checkpoint import CheckpointBackend

        backend = CheckpointBackend.from_checkpoint(path, device=device, trusted=trusted, **changes)
        options: dict[str, Any] = {"on_unknown": on_unknown, "unseen_share": unseen_share}
        return cls(backend, tasks=tasks, batch_size=batch_size, **options)

    @classmethod
    def from_export(
        cls,
        folder: str | Path,
        *,
        device: Any = "cpu",
        tasks: Sequence[str] | None = None,
        batch_size: int = 1024,
        on_unknown: OnUnknown = "warn",
        unseen_share: float = 0.05,
    ) -> Predictor:
        """Make the predictor of a folder that ``mtl-lightning export`` or ``module.export`` wrote.

        The answers are those of the checkpoint. A folder with ONNX needs onnxruntime alone, and neither torch nor
        lightning is imported; one with a ``.pt2`` file is run by torch.

        Args:
            folder: the folder, which is compared with its checksums.
            device: ``cpu`` or ``cuda``.
            tasks: as of :class:`Predictor`, like ``batch_size``, ``on_unknown`` and ``unseen_share``.
            batch_size: see there.
            on_unknown: see there.
            unseen_share: see there.

        Raises:
            ExportError: for another folder, one that has been changed, of another format, or whose parts do not fit.
        """
        backend = ExportedFolder(folder, str(device))
        check_description(backend.description, str(Path(folder) / SCHEMA))
        options: dict[str, Any] = {"on_unknown": on_unknown, "unseen_share": unseen_share}
        return cls(backend, tasks=tasks, batch_size=batch_size, **options)

    def __call__(self, rows: Any, *, tasks: Sequence[str] | None = None) -> Predictions:
        """Predict rows.

        Args:
            rows: of a table, or the inputs of a batch, see above.
            tasks: some of the predictor's tasks; all by default.

        Raises:
            DataError: for rows that are none, and with ``on_unknown="raise"`` for rows unlike those of training; names
                columns and rows.
            ConfigurationError: for an unknown task.
        """
        chosen = self.tasks if tasks is None else self._chosen(tasks, self.tasks)
        encoded = self._intake(rows)
        if encoded.report and self.on_unknown != "ignore":
            self._tell(encoded)
        decodings = self.description["tasks"]
        outputs = self._outputs(encoded, chosen)
        return Predictions(
            {name: self._answer(name, outputs, encoded) for name in chosen},
            encoded.report,
            {name: decodings[name] for name in chosen},
        )

    def _answer(self, name: str, outputs: Mapping[str, NDArray[Any]], encoded: Encoded) -> dict[str, NDArray[Any]]:
        known = self._calibration.get(name)
        groups = None if known is None else encoded.groups.get(known.get("by") or "")
        return answer(name, self._decodings[name], outputs, known, groups)

    def _outputs(self, encoded: Encoded, tasks: Sequence[str]) -> dict[str, NDArray[Any]]:
        rows, size = encoded.rows, self.batch_size
        if not rows:
            empty = [empty_outputs(name, self.description["tasks"][name]) for name in tasks]
            return {name: output for outputs in empty for name, output in outputs.items()}
        if rows <= size:
            return self._backend.run(encoded.inputs, tasks)
        parts = [self._backend.run(sliced(encoded.inputs, at, at + size), tasks) for at in range(0, rows, size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _tell(self, encoded: Encoded) -> None:
        """Warn of rows unlike those of training, or refuse them."""
        report = encoded.report
        if self.on_unknown == "raise":
            if wrong := [one for one in report.columns if one.kind != "missing"]:
                found = "; ".join(f"{one.column!r}: {one.words}" for one in wrong[:12])
                raise DataError(
                    f"Expected rows like those of training, found in {report.rows} rows: {found}. Correct them, or "
                    "take what is predicted from them for a guess (`on_unknown='warn'`)."
                )
        elif columns := report.above(self.unseen_share):
            warnings.warn(
                f"Predictor: expected rows like those of training, found more than {100 * self.unseen_share:g} % "
                f"unlike them in the columns {listed(columns, 12)}; the answers' `report` has the counts. What is "
                "predicted from them is a guess: look for another spelling, unit or source.",
                MtlLightningWarning,
                stacklevel=3,
            )

    @staticmethod
    def _chosen(tasks: Sequence[str] | None, known: Sequence[str]) -> list[str]:
        if isinstance(tasks, str):
            raise ConfigurationError(f"`tasks`: expected a list of names, found {tasks!r}. Write [{tasks!r}].")
        for name in tasks or ():
            known_name(name, known, "tasks")
        return [name for name in known if tasks is None or name in tasks]


def _backend_of(model: Any, device: Any) -> Backend:
    if hasattr(model, "description"):
        backend: Backend = model
        return backend
    from mtl_lightning.predictor.checkpoint import CheckpointBackend

    return CheckpointBackend.of_copy(model, device=device)
