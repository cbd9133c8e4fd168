from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mtl_lightning.data import QM9
from mtl_lightning.data.base import Split
from mtl_lightning.data.datasets import qm9
from mtl_lightning.data.datasets.molecules import BOHR, ELEMENTS, GRID, coulomb_eigenvalues, pair_counts
from mtl_lightning.types import Batch, ConfigurationError, DataError
from tests.data.make_tables import QM9_COLUMNS, write_qm9

METHANE = {
    "Elements": "['C','H','H','H','H']",
    "XYZ_Ang": "[[-0.0126981359,1.0858041578,0.0080009958],[0.002150416,-0.0060313176,0.0019761204],[1.0117308433,"
    "1.4637511618,0.0002765748],[-0.540815069,1.4475266138,-0.8766437152],[-0.5238136345,1.4379326443,0.9063972942]]",
    "Dipole_debye": 0.0, "Polarizability_bohr3": 13.21, "HOMO_au": -0.3877, "LUMO_au": 0.1171, "R2_bohr2": 35.3641,
    "ZPVE_au": 0.044749, "InternalEnergy_0K_au": -40.47893, "InternalEnergy_298K_au": -40.476062,
    "Enthalphy_298K_au": -40.475117, "GibbsFreeEnergy_298K_au": -40.498597, "Heatcapacity_Cv_cal_mol_K": 6.469,
}  # fmt: skip


def whole(data: QM9, split: Split) -> Batch:
    rows = data.rows(split)
    return rows.__getitems__(range(len(rows)))


def made_of(**changes: Any) -> Any:
    row = METHANE | changes
    return pa.record_batch({name: pa.array([row[name]], kind) for name, kind in qm9.COLUMNS.items()})


# --------------------------------------------------------------------------------------------------------- the features
def test_eigenvalues_are_those_of_two_hydrogens_and_no_third_atom() -> None:
    positions = np.zeros((1, 3, 3))
    positions[0, 1, 0] = 2 * BOHR
    found = coulomb_eigenvalues(np.array([[1.0, 1.0, 0.0]]), positions)
    np.testing.assert_allclose(found, [[1.0, 0.0, 0.0]], atol=1e-12)  # 1/2 + 1/2, and 1/2 - 1/2


def test_features_do_not_depend_on_the_order_of_atoms_or_where_the_molecule_is() -> None:
    random = np.random.default_rng(0)
    kinds, positions = random.integers(0, 5, (1, 9)), random.normal(0, 2, (1, 9, 3))
    turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
    order = random.permutation(9)
    charges = np.array([*ELEMENTS.values()], dtype=float)
    moved = positions[:, order] @ turn + 7.0
    one = coulomb_eigenvalues(charges[kinds], positions)
    np.testing.assert_allclose(one, coulomb_eigenvalues(charges[kinds[:, order]], moved), rtol=1e-10, atol=1e-10)
    assert (np.diff(np.abs(one)) <= 0).all()
    np.testing.assert_allclose(pair_counts(kinds, positions, 5), pair_counts(kinds[:, order], moved, 5), atol=1e-9)


def test_pairs_are_counted_by_elements_between_two_distances() -> None:
    """Two H and one C on a line at 0, 1.45 and 9.45: H-H at 1.45, H-C at 8 (beyond the grid) and 9.45."""
    kinds = np.array([[0, 1, 0, -1]])
    positions = np.zeros((1, 4, 3))
    positions[0, :, 0] = [0.0, 9.45, 1.45, 5.0]
    found = pair_counts(kinds, positions, 2).reshape(3, len(GRID))  # HH, HC, CC
    expected = np.zeros((3, len(GRID)))
    low = int(np.flatnonzero(np.isclose(GRID, 1.4))[0])
    expected[0, low] = expected[0, low + 1] = 0.5
    expected[1, -1] = 2.0
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_every_pair_counts_once() -> None:
    random = np.random.default_rng(0)
    sizes = np.array([3, 29, 10])
    kinds = np.where(np.arange(29) < sizes[:, None], random.integers(0, 5, (3, 29)), -1)
    found = pair_counts(kinds, random.normal(0, 3, (3, 29, 3)), 5)
    assert found.shape == (3, 15 * len(GRID))
    np.testing.assert_allclose(found.sum(1), sizes * (sizes - 1) / 2)


# ---------------------------------------------------------------------------------------------------------- the targets
def test_methane_has_the_published_properties() -> None:
    """In the papers' units; the energies of atomisation are those that graph libraries give, in eV there."""
    features, targets = qm9.molecules(made_of(), Path("a.csv"))
    assert features[0, :5].tolist() == [4, 1, 0, 0, 0]  # H, C, N, O, F
    found = dict(zip(qm9.PROPERTIES, targets[0], strict=True))
    assert [*found] == ["mu", "alpha", "homo", "lumo", "r2", "zpve", "u0", "u", "h", "g", "cv"]
    published = {"homo": -10549.85, "lumo": 3186.45, "zpve": 1217.68, "u0": -17172.18, "u": -17286.82, "h": -17389.66,
                 "g": -16151.92, "alpha": 13.21, "r2": 35.3641, "cv": 6.469, "mu": 0.0}  # fmt: skip
    assert found == pytest.approx(published, abs=0.03)


def test_energies_of_atoms_agree_with_each_other() -> None:
    """U - U0 of an atom is 3/2 kT, H - U is kT at 298.15 K, in hartree."""
    kt = 3.166811563e-6 * 298.15
    energies = {name: np.array(qm9.PROPERTIES[name].atoms) for name in ("u0", "u", "h")}
    np.testing.assert_allclose(energies["u"] - energies["u0"], 1.5 * kt, atol=2e-6)
    np.testing.assert_allclose(energies["h"] - energies["u"], kt, atol=2e-6)


def test_a_property_that_is_not_there_is_a_missing_label() -> None:
    assert np.isnan(qm9.molecules(made_of(R2_bohr2=None), Path("a.csv")).targets[0]).nonzero()[0].tolist() == [4]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"Elements": "['C','H','H','H']"}, "fewer or more coordinates"),
        ({"Elements": "['C','H','H','H','Xx']"}, "another element"),
        ({"XYZ_Ang": METHANE["XYZ_Ang"].replace("1.08", "one")}, "one58"),  # type: ignore[attr-defined]  # it is a str
    ],
)
def test_a_damaged_molecule_is_told_with_its_file(changes: dict[str, str], found: str) -> None:
    with pytest.raises(DataError, match=rf"a.csv: expected molecules of at most 29 atoms H, C, N, O, F.*{found}"):
        qm9.molecules(made_of(**changes), Path("a.csv"))


# ------------------------------------------------------------------------------------------------------------- the data
def test_features_are_standardised_over_the_training_rows_and_the_split_is_fixed(tmp_path: Path) -> None:
    root = write_qm9(tmp_path)
    data, other = (QM9(root=root, val=9, test=11, seed=seed, progress=False) for seed in (0, 5))
    train = whole(data, "train")["inputs"].double()
    assert train.shape == (40, 5 + 29 + 15 * len(GRID))
    torch.testing.assert_close(train.mean(0), torch.zeros(train.shape[1]).double(), atol=1e-4, rtol=0)
    spread = train.std(0, correction=0)
    assert ((spread - 1).abs() < 1e-3).logical_or(spread < 1e-3).all()
    order = np.random.default_rng(0).permutation(60)
    kept = np.load(root / "features.npz")
    parts: dict[Split, Any] = {"test": order[:11], "val": order[11:20], "train": order[20:]}
    for split, rows in parts.items():
        for made in (data, other):
            targets = whole(made, split)["targets"]
            np.testing.assert_allclose(targets["mu"].sort()[0], np.sort(kept["targets"][rows, 0]), rtol=1e-6)


def test_the_numbers_are_those_of_the_files(tmp_path: Path) -> None:
    data = QM9(root=write_qm9(tmp_path), val=1, test=1, progress=False)
    rows = []
    for part in (1, 2, 3):
        with (tmp_path / f"qm9_part{part}.csv").open() as file:
            rows += [*csv.DictReader(file)]
    assert len(rows) == 60
    assert [*rows[0]] == QM9_COLUMNS
    _ = data.schema
    kept = np.load(tmp_path / "features.npz")
    assert kept["features"].dtype == np.float32
    for row, counts, targets in zip(rows, kept["features"][:, :5], kept["targets"], strict=True):
        assert counts.tolist() == [row["Elements"].count(f"'{symbol}'") for symbol in ELEMENTS]
        assert targets[1] == float(row["Polarizability_bohr3"])
        assert targets[2] == pytest.approx(float(row["HOMO_au"]) * 27211.386)


def test_features_are_computed_once_and_anew_of_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_qm9(tmp_path)
    few: dict[str, Any] = {"val": 5, "test": 5, "progress": False}
    first = QM9(root=root, **few).schema
    monkeypatch.setattr(qm9, "molecules", lambda *_: pytest.fail("computed again"))
    assert QM9(root=root, **few).schema == first
    monkeypatch.undo()
    write_qm9(root, seed=1)
    assert QM9(root=root, **few).schema != first
    (root / "features.npz").write_bytes((root / "features.npz").read_bytes()[:1000])  # cut off
    assert QM9(root=root, **few).schema != first
    for part in (1, 2, 3):
        (root / f"qm9_part{part}.csv").unlink()
    monkeypatch.setattr(qm9, "PACKAGE", qm9.PACKAGE._replace(name="qm9pack_not_installed"))
    assert QM9(root=root, **few).schema != first  # the features are enough
    (root / "features.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"features.npz: expected features that QM9 computed.*Remove it"):
        _ = QM9(root=root, **few).schema
    (root / "features.npz").unlink()
    with pytest.raises(DataError, match=r"found neither. Install it, pip install 'mtl-lightning\[qm9\]', or put"):
        _ = QM9(root=root, **few).schema
    assert {path.name for path in root.iterdir()} == {".mtl_lightning.lock"}


def test_a_file_that_pickles_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qm9, "PACKAGE", qm9.PACKAGE._replace(name="qm9pack_not_installed"))
    np.savez(tmp_path / "features.npz", features=np.array([{}], dtype=object), targets=np.zeros((1, 11)))
    with pytest.raises(DataError, match="allow_pickle=False"):
        _ = QM9(root=tmp_path).schema


def test_splits_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"some of the 60 molecules for training, found val=30 and test=30"):
        _ = QM9(root=write_qm9(tmp_path), val=30, test=30, progress=False).schema


# ------------------------------------------------------------------------------------------------------- the real files
@pytest.mark.slow
def test_the_real_files_have_the_published_counts_and_means(tmp_path: Path) -> None:
    if qm9.PACKAGE.find(tmp_path) is None:
        pytest.skip("the package qm9pack is not installed: pip install 'mtl-lightning[qm9]'")
    data: Any = QM9(root=tmp_path, progress=False)
    rows = {split: len(data.rows(split)) for split in ("train", "val", "test")}
    assert rows == {"train": 110_831, "val": 10_000, "test": 10_000}
    targets = np.load(tmp_path / "features.npz")["targets"]
    assert not np.isnan(targets).any()
    means = dict(zip(qm9.PROPERTIES, targets.mean(0), strict=True))
    # Of all 130,831 molecules, as other libraries give them, energies there in eV.
    assert means == pytest.approx(
        {"mu": 2.673, "alpha": 75.28, "homo": -6536.5, "lumo": 322.0, "r2": 1189.4, "zpve": 4056.7, "u0": -76115.0,
         "u": -76580.0, "h": -77018.0, "g": -70836.0, "cv": 31.62}, rel=5e-3,
    )  # fmt: skip
