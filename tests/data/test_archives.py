from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mtl_lightning.data.files import unpack
from mtl_lightning.types import ConfigurationError, DataError

KINDS = ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]
FILES = {"data/a.txt": b"a" * 5000, "data/deep/b.bin": bytes(range(256)) * 40, "c.txt": b"c"}


def tar_entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, link
    return entry


def pack(path: Path, files: dict[str, bytes], *more: tarfile.TarInfo) -> Path:
    """Write an archive of files, and of tar entries without content."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("empty/", b"")
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    mode: Any = "w:" + path.name.rpartition(".tar")[2].removeprefix(".")
    with tarfile.open(path, mode) as tar:
        tar.addfile(tar_entry("empty", tarfile.DIRTYPE))
        for entry in more:
            tar.addfile(entry)
        for name, content in files.items():
            entry = tar_entry(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def found(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_unpacked(tmp_path: Path, kind: str) -> None:
    archive = pack(tmp_path / f"all.{kind}", FILES)
    into = tmp_path / "some" / "where"
    assert unpack(archive, into) == into
    assert found(into) == FILES
    assert (into / "empty").is_dir()
    assert [path.name for path in into.parent.iterdir()] == ["where"]  # nothing else is left


def test_one_compressed_file_is_unpacked(tmp_path: Path) -> None:
    packers: dict[str, Any] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    for ending, packer in packers.items():
        (tmp_path / f"{ending}.csv.{ending}").write_bytes(packer(b"1,2\n"))
        unpack(tmp_path / f"{ending}.csv.{ending}", tmp_path / "into")
    assert found(tmp_path / "into") == {f"{ending}.csv": b"1,2\n" for ending in packers}


def test_what_was_there_stays_and_what_has_the_same_name_is_replaced(tmp_path: Path) -> None:
    into = tmp_path / "into"
    (into / "data").mkdir(parents=True)
    (into / "data" / "mine.txt").write_bytes(b"mine")
    (into / "c.txt").write_bytes(b"old")
    unpack(pack(tmp_path / "all.zip", FILES), into)
    assert found(into) == {**FILES, "data/mine.txt": b"mine"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["../out.txt", "data/../../out.txt", "/out.txt", "..\\out.txt", "C:\\out.txt"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    archive = pack(tmp_path / f"bad.{kind}", {**FILES, name: b"out"})
    with pytest.raises(DataError, match=r"bad\.\S+: expected only files and folders .*found a path that leads out"):
        unpack(archive, tmp_path / "a" / "into")
    assert found(tmp_path).keys() == {archive.name}
    assert not (tmp_path / "a" / "into").exists()


LINKS = {
    "symbolic link": (tar_entry("evil", tarfile.SYMTYPE, "/etc"), "a link: 'evil'"),
    "link to a file outside": (tar_entry("evil", tarfile.LNKTYPE, "../x"), "a link: 'evil'"),
    "device": (tar_entry("evil", tarfile.CHRTYPE), "a device: 'evil'"),
    "pipe": (tar_entry("evil", tarfile.FIFOTYPE), "a device: 'evil'"),
}


@pytest.mark.parametrize(("entry", "message"), LINKS.values(), ids=LINKS)
def test_links_and_devices_are_refused(tmp_path: Path, entry: tarfile.TarInfo, message: str) -> None:
    archive = pack(tmp_path / "bad.tar.gz", {"evil/passwd": b"x"}, entry)
    with pytest.raises(DataError, match=f"found {message}"):
        unpack(archive, tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_a_link_in_a_zip_file_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("evil")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(info, "/etc")
    with pytest.raises(DataError, match="found a link: 'evil'"):
        unpack(tmp_path / "bad.zip", tmp_path / "into")


@pytest.mark.parametrize("kind", [*KINDS, "csv.gz"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_a_truncated_archive_changes_nothing(tmp_path: Path, kind: str, share: float) -> None:
    whole = pack(tmp_path / f"all.{kind}", FILES) if kind != "csv.gz" else tmp_path / "all.csv.gz"
    content = whole.read_bytes() if kind != "csv.gz" else gzip.compress(bytes(range(256)) * 40)
    whole.write_bytes(content[: int(len(content) * share)])
    into = tmp_path / "into"
    into.mkdir()
    (into / "c.txt").write_bytes(b"old")
    with pytest.raises(DataError, match=rf"all\.{kind}: (cannot unpack it: .* cut short or damaged|.*an empty one)"):
        unpack(whole, into)
    assert found(tmp_path).keys() == {whole.name, "into/c.txt"}
    assert (into / "c.txt").read_bytes() == b"old"
    assert [path.name for path in into.iterdir()] == ["c.txt"]


def test_a_tar_file_that_was_cut_between_members_is_seen(tmp_path: Path) -> None:
    archive = pack(tmp_path / "all.tar", {"a": b"a" * 512, "b": b"b" * 512})
    archive.write_bytes(archive.read_bytes()[: 512 * 3])  # the folder, and all of a
    with pytest.raises(DataError, match="the end of the archive is missing"):
        unpack(archive, tmp_path / "into")


def test_a_tar_gz_file_whose_very_end_is_missing_is_seen(tmp_path: Path) -> None:
    archive = pack(tmp_path / "all.tar.gz", FILES)
    archive.write_bytes(archive.read_bytes()[:-4])  # of the compressed file's own checksum and length
    with pytest.raises(DataError, match="end-of-stream marker"):
        unpack(archive, tmp_path / "into")


def test_a_damaged_zip_file_is_seen(tmp_path: Path) -> None:
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as plain:
        plain.writestr("a", b"a" * 5000)
    content = bytearray(archive.read_bytes())
    content[1000] ^= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match="Bad CRC-32 for file 'a'"):
        unpack(archive, tmp_path / "into")


def test_a_link_in_the_folder_that_leads_out_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="found a link that leads out of it"):
        unpack(pack(tmp_path / "all.zip", FILES), tmp_path / "into")
    assert found(tmp_path / "elsewhere") == {}


def test_a_file_in_the_place_of_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "data").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"expected to put a folder at .*data, found a file in its place"):
        unpack(pack(tmp_path / "all.zip", FILES), tmp_path / "into")
    assert found(tmp_path / "into") == {"data": b"mine"}


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "all.rar").write_bytes(b"Rar!")
    with pytest.raises(ConfigurationError, match=r"all.rar: expected an archive with the ending .zip.*found '.rar'"):
        unpack(tmp_path / "all.rar", tmp_path / "into")
    with pytest.raises(DataError, match=r"nowhere.zip: expected an archive, found no such file"):
        unpack(tmp_path / "nowhere.zip", tmp_path / "into")


@pytest.mark.parametrize("kind", [*KINDS, "gz", "bz2", "xz"])
def test_an_archive_that_grows_out_of_proportion_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtl_lightning.encoding.sizes._FREE", 1 << 16)
    zeros = bytes(1 << 24)
    if kind in KINDS:
        archive = pack(tmp_path / f"all.{kind}", {"a": zeros, "b": zeros})
    else:
        archive = tmp_path / f"a.{kind}"
        archive.write_bytes({"gz": gzip, "bz2": bz2, "xz": lzma}[kind].compress(zeros))
    if kind == "tar":  # as large as what is in it
        assert unpack(archive, tmp_path / "into").is_dir()
        return
    with pytest.raises(DataError, match=r"it unpacks to far more bytes.*nothing was unpacked"):
        unpack(archive, tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_headers_alone_may_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtl_lightning.encoding.sizes._FREE", 1 << 16)
    archive = pack(tmp_path / "all.tar.xz", {}, *(tar_entry("same") for _ in range(5000)))
    with pytest.raises(DataError, match="it unpacks to far more bytes"):
        unpack(archive, tmp_path / "into")
