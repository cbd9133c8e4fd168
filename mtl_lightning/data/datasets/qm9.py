"""QM9: 130,831 small molecules and the eleven properties of the multi-task papers, from the data package qm9pack."""

from __future__ import annotations

import zipfile
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]  # it ships no types

from mtl_lightning.data.base import MultiTaskDataModule, Split, TaskFactory, TaskOverrides
from mtl_lightning.data.datasets.molecules import ELEMENTS, coulomb_eigenvalues, pair_counts
from mtl_lightning.data.datasets.packaged import DataPackage, csv_pieces, key_of, replaced
from mtl_lightning.data.rows import TensorRows
from mtl_lightning.tasks.regression import Regression
from mtl_lightning.types import ConfigurationError, DataError, TargetSpec, TensorSpec, input_spec_to_dict

PACKAGE = DataPackage("qm9pack", "qm9", ("qm9_part1.csv", "qm9_part2.csv", "qm9_part3.csv"))
VERSION = "1"  # of the features
ATOMS = 29  # of the largest molecule
PART = 1 << 13  # rows of which sums are taken at a time
HARTREE = 27211.386245988  # meV


class Property(NamedTuple):
    """A property: its column, its units, how many of them one of the column's is, and what it is of the single atoms.

    Attributes:
        column: in the package's files.
        units: ours, which are the papers'.
        scale: our units in one of the column's.
        atoms: energies of single atoms H, C, N, O, F, in hartree, that are taken off: what is left is the energy by
            which the molecule is bound.
    """

    column: str
    units: str
    scale: float = 1.0
    atoms: tuple[float, ...] = (0.0,) * 5


PROPERTIES = {
    "mu": Property("Dipole_debye", "D"),
    "alpha": Property("Polarizability_bohr3", "a0^3"),
    "homo": Property("HOMO_au", "meV", HARTREE),
    "lumo": Property("LUMO_au", "meV", HARTREE),
    "r2": Property("R2_bohr2", "a0^2"),
    "zpve": Property("ZPVE_au", "meV", HARTREE),
    "u0": Property("InternalEnergy_0K_au", "meV", HARTREE, (-0.500273, -37.846772, -54.583861, -75.064579, -99.718730)),
    "u": Property(
        "InternalEnergy_298K_au", "meV", HARTREE, (-0.498857, -37.845355, -54.582445, -75.063163, -99.717314)
    ),
    "h": Property("Enthalphy_298K_au", "meV", HARTREE, (-0.497912, -37.844411, -54.581501, -75.062219, -99.716370)),
    "g": Property(
        "GibbsFreeEnergy_298K_au", "meV", HARTREE, (-0.510927, -37.861317, -54.598897, -75.079532, -99.733544)
    ),
    "cv": Property("Heatcapacity_Cv_cal_mol_K", "cal/(mol K)"),
}
COLUMNS = {"Elements": pa.string(), "XYZ_Ang": pa.string()} | {
    known.column: pa.float64() for known in PROPERTIES.values()
}


class Molecules(NamedTuple):
    """What is made of the files: features (N, D) float32, and the properties (N, 11) float64 in their order."""

    features: NDArray[np.float32]
    targets: NDArray[np.float64]


class QM9(MultiTaskDataModule):
    """Eleven properties of 130,831 organic molecules of up to nine heavy atoms, from density functional theory:
    `Quantum chemistry structures and properties of 134 kilo molecules <https://doi.org/10.1038/sdata.2014.22>`_
    (Ramakrishnan et al., 2014) without the 3,054 whose structures are in doubt, as its first author's data package
    `qm9pack <https://pypi.org/project/qm9pack/>`_ has them (MIT), ``pip install "mtl-lightning[qm9]"``.

    The tasks are those of `Multi-Task Learning as a Bargaining Game <https://arxiv.org/abs/2202.01017>`_ (Navon et al.,
    2022, section 6.3) and the papers after it, in their order and units, standardised: ``mu`` (dipole moment, D),
    ``alpha`` (polarisability, a0^3), ``homo`` and ``lumo`` (orbital energies, meV), ``r2`` (a0^2), ``zpve`` (meV),
    ``u0``, ``u``, ``h`` and ``g`` (energies of atomisation, meV), ``cv`` (heat capacity, cal/(mol K)). ``mae`` is the
    papers' metric.

    Departure: their network passes messages in the graph of all atoms. Inputs here are fixed features (B, 454) for any
    network: the number of atoms of each element, the sorted eigenvalues of the Coulomb matrix, and the counts of pairs
    of atoms by elements and distance (:mod:`~mtl_lightning.data.datasets.molecules`). They are computed once, in about
    half a minute, kept in ``root``, and standardised over the training rows. The papers' statistics of the targets are
    over all rows, ours over those for training.

    The split is by chance, always the same: ``numpy.random.default_rng(0).permutation``, the first ``test`` rows for
    test, the next ``val`` for validation, the others for training. The papers divide likewise, each in its own way.

    Args:
        root: a folder for the computed features; it may hold ``qm9_part1.csv``, ``qm9_part2.csv`` and
            ``qm9_part3.csv`` in place of the package.
        val: the number of molecules for validation.
        test: the number of molecules for test.
        progress: show a bar while features are computed.
        batch_size: rows of a batch of one process.
        tasks: other tasks for declared names, as functions of the ``TargetSpec``; None removes a task.
        seed: of the order of the training rows.
        num_workers: processes that read rows ahead.
        drop_last: leave out the last batch of a training epoch where it would be short.

    Raises:
        DataError: if there is neither the package nor its files, or if they cannot be read.
        ConfigurationError: if validation and test leave no rows for training.
    """

    def __init__(
        self,
        *,
        root: str | Path = "data/qm9",
        val: int = 10_000,
        test: int = 10_000,
        progress: bool = True,
        batch_size: int = 128,
        tasks: TaskOverrides | None = None,
        seed: int = 0,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size=batch_size, tasks=tasks, seed=seed, num_workers=num_workers, drop_last=drop_last)
        self.folder = self.root = Path(root)
        self.held_out, self.progress = {"test": test, "val": val}, progress
        self._cache = self.folder / "features.npz"

    def prepare_data(self) -> None:
        """Compute the features, unless that has been done of the same files."""
        files = PACKAGE.find(self.folder)
        if files is None:
            if not self._cache.is_file():
                raise PACKAGE.absent(self.folder)
            return
        key = key_of(VERSION, files)
        if self._cache.is_file() and _key(self._cache) == key:
            return
        made = self._compute([files[name] for name in PACKAGE.files])
        with replaced(self._cache) as part, part.open("wb") as file:
            np.savez(file, key=np.array(key), features=made.features, targets=made.targets)

    def read_schema(self) -> dict[str, Any]:
        """Fit mean and standard deviation of each feature on the training rows; 1 for one that does not vary."""
        features, rows = self._molecules.features, self._rows_of("train")
        parts = np.array_split(rows, len(rows) // PART + 1)  # in float64 all rows together would take much memory
        mean = sum(features[part].sum(0, dtype=np.float64) for part in parts) / len(rows)
        std = np.sqrt(sum(np.square(features[part] - mean).sum(0) for part in parts) / len(rows))
        return {
            "input_spec": input_spec_to_dict(TensorSpec((len(mean),))),
            "mean": mean.tolist(),
            "std": np.where(std > 1e-6, std, 1.0).tolist(),
        }

    def declared_tasks(self) -> dict[str, tuple[TargetSpec, TaskFactory]]:
        """Return a standardised regression for each property."""
        return {
            name: (TargetSpec(units=known.units), partial(Regression, standardize=True))
            for name, known in PROPERTIES.items()
        }

    def rows(self, split: Split) -> TensorRows:
        """Return features (N, D), standardised, and targets (N,)."""
        mean, std = (np.array(self.schema[name], dtype=np.float32) for name in ("mean", "std"))
        made, rows = self._molecules, self._rows_of(split)
        targets = torch.from_numpy(made.targets[rows].astype(np.float32))
        features = made.features[rows]
        features -= mean
        features /= std
        return TensorRows(
            torch.from_numpy(features),
            {name: targets[:, column].contiguous() for column, name in enumerate(PROPERTIES)},
        )

    @cached_property
    def _molecules(self) -> Molecules:
        try:
            with np.load(self._cache, allow_pickle=False) as kept:
                return Molecules(kept["features"], kept["targets"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{self._cache}: expected features that QM9 computed, found a file that cannot be read: {error}. "
                "Remove it; they are then computed anew."
            ) from error

    def _rows_of(self, split: Split) -> NDArray[np.int64]:
        """Return the rows of a split, in the order of the files."""
        rows, ends = len(self._molecules.targets), np.cumsum([*self.held_out.values()])
        if ends[-1] >= rows:
            raise ConfigurationError(
                f"QM9: expected `val` and `test` to leave some of the {rows} molecules for training, found "
                f"val={self.held_out['val']} and test={self.held_out['test']}. Use fewer."
            )
        parts = np.split(np.random.default_rng(0).permutation(rows), ends)
        return np.sort(dict(zip(("test", "val", "train"), parts, strict=True))[split])

    def _compute(self, files: list[Path]) -> Molecules:
        """Read the files a piece at a time; only features and targets of all rows are held."""
        pieces: list[Molecules] = []
        with tqdm(desc="QM9: features", unit="molecules", disable=not self.progress) as bar:
            for file in files:
                for piece in csv_pieces(file, COLUMNS):
                    pieces.append(molecules(piece, file))
                    bar.update(piece.num_rows)
        if not pieces:
            raise DataError(f"{files[0]}: expected molecules, found none. Install the package again.")
        return Molecules(*(np.concatenate(parts) for parts in zip(*pieces, strict=True)))


def _key(cache: Path) -> str | None:
    """Return what a cache says that it was made of; None of a file that cannot be read."""
    try:
        with np.load(cache, allow_pickle=False) as kept:
            return str(kept["key"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def molecules(piece: Any, file: Path) -> Molecules:
    """Compute features and targets of a record batch with :data:`COLUMNS`.

    Raises:
        DataError: for a molecule without as many positions as atoms, or with an element that QM9 has not.
    """
    try:
        symbols, positions = _parts(piece["Elements"]), _parts(piece["XYZ_Ang"])
        atoms = np.diff(symbols.offsets.to_numpy())
        kinds = pc.index_in(symbols.flatten(), pa.array([*ELEMENTS])).to_numpy(zero_copy_only=False)
        places = positions.flatten().cast(pa.float64()).to_numpy()
        if (np.diff(positions.offsets.to_numpy()) != 3 * atoms).any() or atoms.max() > ATOMS or np.isnan(kinds).any():
            raise ValueError("another element, too many atoms, or fewer or more coordinates")
    except ValueError as error:
        raise DataError(
            f"{file}: expected molecules of at most {ATOMS} atoms {', '.join(ELEMENTS)}, with three coordinates each, "
            f"found others: {error}. Install the package again, or get the file again."
        ) from error
    there = np.arange(ATOMS) < atoms[:, None]
    kind: NDArray[np.int64] = np.full(there.shape, -1, dtype=np.int64)
    kind[there] = kinds
    place = np.zeros((*there.shape, 3))
    place[there] = places.reshape(-1, 3)
    charges = np.array([*map(float, ELEMENTS.values()), 0.0])[kind]
    counts = np.stack([(kind == code).sum(1) for code in range(len(ELEMENTS))], axis=1)
    features = [counts, coulomb_eigenvalues(charges, place), pair_counts(kind, place, len(ELEMENTS))]
    targets = [
        (piece[known.column].to_numpy(zero_copy_only=False) - counts @ np.array(known.atoms)) * known.scale
        for known in PROPERTIES.values()
    ]
    return Molecules(np.concatenate(features, axis=1).astype(np.float32), np.stack(targets, axis=1))


def _parts(texts: Any) -> Any:
    """Take texts (N,) such as ``[[0.1,2],[1E-6,3]]`` and ``['C','H']`` apart: lists of what is between the commas."""
    return pc.split_pattern(pc.replace_substring_regex(texts, r"[\[\]' ]", ""), ",")
