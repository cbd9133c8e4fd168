"""`mtl-lightning serve`, over HTTP: answers are the predictor's, wrong rows are told, nothing is lost."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mtl_lightning import Predictor
from tests.serve.conftest import Running
from tests.serve.houses import rows

CHECKPOINT = "run/checkpoints/last.ckpt"


def test_the_five_commands_leave_what_they_say(folder: Path) -> None:
    """The fifth is the server that the other tests ask."""
    assert {path.name for path in (folder / "exported").iterdir()} == {"model.onnx", "schema.json", "README.md"}
    (predicted,) = folder.rglob("predictions*.parquet")
    found = pq.read_table(predicted)
    assert found.column("id").to_pylist() == [str(number) for number in range(20)]
    assert {"price", "sold", "style"} <= {*found.column_names}
    assert "Of the test split." in (folder / "exported/README.md").read_text()


def assert_answers(found: list[Any], expected: list[Any]) -> None:
    """Compare answers: labels, probabilities to 1e-5, and prices to a fraction of their deviation."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert one["sold"]["label"] == other["sold"]["label"]
        np.testing.assert_allclose(one["price"]["value"], other["price"]["value"], rtol=0, atol=1e-5 * 9e4)
        for task in ("sold", "style"):
            for name, probability in other[task]["probabilities"].items():
                assert abs(one[task]["probabilities"][name] - probability) <= 1e-5


def asked(server: Running, some: list[dict[str, Any]]) -> list[Any]:
    status, body = server.ask("POST", "/predict", {"rows": some})
    assert status == 200, body
    answers: list[Any] = body["answers"]
    return answers


def test_the_answers_are_those_of_the_checkpoint(server: Running, folder: Path) -> None:
    """500 rows with gaps and unknown values: checkpoint, export and server agree."""
    some = rows(500, seed=2)
    expected = Predictor.from_checkpoint(folder / CHECKPOINT, on_unknown="ignore")(some).to_list()
    assert_answers(Predictor.from_export(folder / "exported", on_unknown="ignore")(some).to_list(), expected)
    assert_answers(asked(server, some), expected)


def test_what_training_never_saw_is_told(server: Running) -> None:
    status, body = server.ask("POST", "/predict", {"rows": [{"area": 1e9, "rooms": 2, "kind": "castle", "id": 7}]})
    assert status == 200
    assert {(one["column"], one["kind"]) for one in body["unlike_training"]} == {
        ("area", "outside"),
        ("kind", "unseen"),
    }


GOOD = {"area": 90.0, "rooms": 2, "kind": "flat"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"rows": [GOOD, {**GOOD, "area": "large"}]}, "row 2, column 'area': expected a number or null, found 'large'"),
        ({"rows": [GOOD, {**GOOD, "kind": ["flat"]}]}, "row 2, column 'kind': expected a text or a number"),
        ({"rows": [{"area": 1.0, "kind": "flat", "roms": 2}]}, "row 1, column 'rooms': .*Did you mean 'roms'"),
        ({"rows": [GOOD, 3]}, "row 2: expected an object of columns, found 3"),
        ({"rows": []}, "at least 1 item"),
        ({"row": [GOOD]}, "Field required"),
        (b"{", "JSON"),
    ],
)
def test_wrong_rows_are_told_by_column_and_row(body: Any, message: str, server: Running) -> None:
    status, answer = server.ask("POST", "/predict", body)
    assert status == 422
    said = " ".join(one["msg"] for one in answer["detail"])
    assert re.search(message, said), said
    assert "input" not in answer["detail"][0]


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain", "application/json"])
def test_a_body_is_json_whatever_its_content_type(kind: str | None, server: Running) -> None:
    assert server.ask("POST", "/predict", {"rows": [GOOD]}, kind)[0] == 200


def test_head_is_answered_as_get_is(server: Running) -> None:
    assert server.ask("HEAD", "/health") == (200, "")
    assert server.ask("HEAD", "/info") == (200, "")
    assert server.ask("HEAD", "/predict")[0] == 405


def test_a_body_that_is_too_large_is_refused(server: Running) -> None:
    status, answer = server.ask("POST", "/predict", b'{"rows": [' + b" " * 150_000 + b"]}")
    assert (status, answer["detail"][:42]) == (413, "Expected a body of at most 100,000 bytes. ")
    assert server.ask("GET", "/health")[0] == 200


def test_the_page_of_the_interface(server: Running) -> None:
    status, page = server.ask("GET", "/openapi.json")
    assert status == 200
    schema = page["components"]["schemas"]["Rows"]
    assert schema["examples"][0]["rows"][0].keys() == {"area", "rooms", "kind"}
    assert server.ask("GET", "/docs")[0] == 200
    assert server.ask("GET", "/info")[1]["model"]["tasks"].keys() == {"price", "sold", "style"}


def load(server: Running, folder: Path, requests: int, clients: int = 8) -> None:
    """Ask from several clients at once, one row or a few each time."""
    some = rows(500, seed=3)
    expected = Predictor.from_export(folder / "exported", on_unknown="ignore")(some).to_list()

    def one(number: int) -> None:
        start, size = number % 490, 1 + number % 3
        assert_answers(asked(server, some[start : start + size]), expected[start : start + size])

    with ThreadPoolExecutor(clients) as pool:
        assert len(list(pool.map(one, range(requests)))) == requests


def test_a_load_of_200_requests(server: Running, folder: Path) -> None:
    load(server, folder, 200)


@pytest.mark.slow
def test_a_load_of_2000_requests_from_8_clients(server: Running, folder: Path) -> None:
    load(server, folder, 2000)


@pytest.mark.slow
def test_a_checkpoint_is_served_as_its_export_is(folder: Path, tmp_path: Path) -> None:
    running = Running(["--model", CHECKPOINT, "--tasks", "[price, sold, style]"], tmp_path / "log.txt", folder)
    try:
        some = rows(100, seed=6)
        expected = Predictor.from_export(folder / "exported", on_unknown="ignore")(some).to_list()
        assert_answers(asked(running, some), expected)
        assert running.stop() == 0
    finally:
        running.kill()


def test_a_wrong_request_spoils_no_other(server: Running, folder: Path) -> None:
    def wrong(_: int) -> int:
        return server.ask("POST", "/predict", {"rows": [{**GOOD, "area": "large"}]})[0]

    with ThreadPoolExecutor(2) as pool:
        wrongs = pool.map(wrong, range(30))
        load(server, folder, 60, clients=2)
        assert set(wrongs) == {422}


def is_refused(server: Running, within: float) -> bool:
    """Wait until connections are refused, for some seconds at most."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
        except ConnectionRefusedError:
            return True
        except OSError:  # one that was taken as it stopped
            continue
        time.sleep(0.1)
    return False


def test_sigterm_answers_what_is_under_way(server: Running) -> None:
    """The last test of this file, as it ends the server: one request is half sent by then, others go on and on."""
    statuses: list[int] = []

    def client() -> None:
        with contextlib.suppress(OSError):  # it has stopped listening
            while True:
                statuses.append(server.ask("POST", "/predict", {"rows": [GOOD] * 20})[0])

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    body = json.dumps({"rows": [GOOD] * 50}).encode()
    begun = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    begun.putrequest("POST", "/predict")
    begun.putheader("Content-Type", "application/json")
    begun.putheader("Content-Length", str(len(body)))
    begun.endheaders(body[:100])
    time.sleep(1.0)
    server.process.send_signal(signal.SIGTERM)
    assert is_refused(server, within=30.0)  # no connection is taken that would not be answered
    begun.send(body[100:])
    answer = begun.getresponse()
    assert (answer.status, len(json.loads(answer.read())["answers"])) == (200, 50)
    assert server.process.wait(120) == 0
    for thread in threads:
        thread.join(60)
    assert len(statuses) >= 4
    assert set(statuses) == {200}
    assert "Traceback" not in server.log.read_text()
