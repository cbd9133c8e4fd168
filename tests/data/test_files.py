from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtl_lightning.data import files
from mtl_lightning.data.files import _number, check_sha256, download
from mtl_lightning.types import ConfigurationError, DataError
from tests.data.serve import Shop, serving

CONTENT = random.Random(0).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setattr(files, "_FIRST_PAUSE", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(CONTENT) as served:
        yield served


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_a_file_is_fetched_once(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "data.bin"
    for _ in range(2):
        assert download(shop.url, path, sha256=SHA256.upper(), md5=MD5) == path
    assert path.read_bytes() == CONTENT
    assert shop.asked == [None]
    assert [file.name for file in path.parent.iterdir()] == ["data.bin"]  # no part and no lock is left
    assert "data.bin: 100%" in capsys.readouterr().err


def test_the_bar_can_be_left_out(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    download(shop.url, tmp_path / "data.bin", progress=False)
    assert capsys.readouterr().err == ""


def test_a_broken_connection_is_taken_up_where_it_broke(shop: Shop, tmp_path: Path) -> None:
    shop.breaks = [1_000_000, 500_000]
    path = download(shop.url, tmp_path / "data.bin", sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert shop.asked == [None, "bytes=1000000-", "bytes=1500000-"]
    assert shop.sent == len(CONTENT)  # no byte came twice


def test_tries_are_counted_only_where_nothing_new_came(shop: Shop, tmp_path: Path) -> None:
    shop.breaks = [100_000] * 6
    assert download(shop.url, tmp_path / "data.bin", tries=2).read_bytes() == CONTENT
    shop.asked.clear()
    shop.refuses = [503, 503]
    with pytest.raises(DataError, match=r"data.bin: the download failed: HTTP Error 503"):
        download(shop.url, tmp_path / "other.bin", tries=2)
    assert len(shop.asked) == 2


def test_the_next_call_goes_on_where_the_last_one_gave_up(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    shop.breaks = [700_000]
    with pytest.raises(
        DataError, match=r"ended after 700000 of 3000000 bytes. 700000 bytes of it are kept in .*\.part"
    ):
        download(shop.url, path, tries=1)
    assert visible(tmp_path) == {"data.bin.part"}
    assert (tmp_path / "data.bin.part").read_bytes() == CONTENT[:700_000]
    download(shop.url, path, sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert shop.sent == len(CONTENT)
    assert visible(tmp_path) == {"data.bin"}


def test_a_part_that_was_complete_only_needs_its_name(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    assert download(shop.url, tmp_path / "data.bin", sha256=SHA256).read_bytes() == CONTENT
    assert shop.sent == 0


@pytest.mark.parametrize("part", [CONTENT[:9] + b"?" * 90, CONTENT + b"more than there is"], ids=["shorter", "longer"])
def test_a_part_of_another_file_is_fetched_anew(shop: Shop, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "data.bin.part").write_bytes(part)
    assert download(shop.url, tmp_path / "data.bin", md5=MD5).read_bytes() == CONTENT


def test_a_server_without_ranges_is_read_from_the_start(shop: Shop, tmp_path: Path) -> None:
    shop.ranges, shop.breaks = False, [1_000_000]
    assert download(shop.url, tmp_path / "data.bin", sha256=SHA256).read_bytes() == CONTENT
    assert shop.asked == [None, "bytes=1000000-"]
    shop.breaks = [1_000_000] * 9
    with pytest.raises(DataError, match="1000000 of 3000000"):  # never ends otherwise
        download(shop.url, tmp_path / "other.bin", tries=3)
    assert len(shop.breaks) == 6


def test_another_part_than_asked_for_is_not_taken(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:5])
    shop.shift = 1
    with pytest.raises(DataError, match="another part of the file than was asked for"):
        download(shop.url, tmp_path / "data.bin", tries=2)
    assert (tmp_path / "data.bin.part").read_bytes() == CONTENT[:5]


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_checksum_gives_both_sums_and_leaves_nothing(shop: Shop, tmp_path: Path, kind: str) -> None:
    expected, found = "0" * {"sha256": 64, "md5": 32}[kind], {"sha256": SHA256, "md5": MD5}[kind]
    with pytest.raises(DataError, match=rf"expected the {kind} {expected}, found {found} \(3000000 bytes\)"):
        download(shop.url, tmp_path / "data.bin", **{kind: expected})  # type: ignore[arg-type]  # of either name
    assert visible(tmp_path) == set()


def test_a_refusal_is_final_and_keeps_what_there_was(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:5])
    shop.refuses = [404]
    with pytest.raises(DataError, match=r"HTTP Error 404: Not Found. 5 bytes of it are kept"):
        download(shop.url, tmp_path / "data.bin")
    assert len(shop.asked) == 1
    assert download(shop.url, tmp_path / "data.bin", sha256=SHA256).read_bytes() == CONTENT


def test_a_server_that_does_not_answer_is_given_up(shop: Shop, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        start = time.perf_counter()
        with pytest.raises(DataError, match="timed out"):
            download(f"http://127.0.0.1:{silent.getsockname()[1]}/", tmp_path / "data.bin", tries=2, timeout=0.1)
    assert time.perf_counter() - start < 5


def test_many_may_ask_for_one_file(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    threads = [threading.Thread(target=download, args=(shop.url, path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() == CONTENT
    assert shop.asked == [None]


def test_a_file_of_this_machine(tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(CONTENT)
    assert download(source.as_uri(), tmp_path / "data.bin", sha256=SHA256).read_bytes() == CONTENT
    with pytest.raises(DataError, match=r"nowhere.bin: the download failed: .*No such file"):
        download((tmp_path / "nowhere.bin").as_uri(), tmp_path / "other.bin")
    assert visible(tmp_path) == {"source.bin", "data.bin"}


def test_other_addresses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="starts with http://, https:// or file://, found 'ftp://a/b'"):
        download("ftp://a/b", tmp_path / "data.bin")


def test_a_checksum_is_checked_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(CONTENT)
    check_sha256(path, SHA256)
    with pytest.raises(DataError, match=rf"data.bin: expected the sha256 {'f' * 64}, found {SHA256}"):
        check_sha256(path, "f" * 64)
    assert path.exists()
    with pytest.raises(DataError, match="expected a file, found none"):
        check_sha256(tmp_path / "nowhere", SHA256)


@pytest.mark.parametrize("text", [None, "", "-1", "1e3", "9" * 19, "9" * 5000, "0x10"])
def test_a_number_of_bytes_that_cannot_be_one_is_none(text: str | None) -> None:
    assert _number(text) is None
    assert _number("1234") == 1234
