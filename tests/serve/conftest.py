"""A server of a real export, asked over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mtl_lightning.cli import main
from tests.serve.houses import commands, written

WAIT = 120.0  # seconds, for a machine that does much else


class Running:
    """A server in a process of its own.

    Args:
        arguments: of ``mtl-lightning serve``.
        log: where it writes.
        folder: where it runs.
    """

    def __init__(self, arguments: list[str], log: Path, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.log = log
        command = [sys.executable, "-m", "mtl_lightning", "serve", *arguments, "--port", str(self.port)]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, "--log_level", "warning"], stdout=out, stderr=out, cwd=folder, start_new_session=True
            )
        until = time.monotonic() + WAIT
        while not self._is_up():
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"The server did not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)

    def _is_up(self) -> bool:
        try:
            return self.ask("GET", "/health")[0] == 200
        except OSError:
            return False

    def ask(self, method: str, path: str, body: Any = None, kind: str | None = "application/json") -> tuple[int, Any]:
        """Send a request of a content type; return the status, and the body as data if it is JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        try:
            sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, sent, {} if kind is None else {"Content-Type": kind})
            answer = connection.getresponse()
            text = answer.read().decode()
            is_json = answer.headers.get_content_type() == "application/json"
            return answer.status, json.loads(text) if is_json and text else text
        finally:
            connection.close()

    def stop(self) -> int:
        """Send SIGTERM, and return the status when it has ended."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT)

    def kill(self) -> None:
        """Kill whatever is left of it."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait(WAIT)


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the first four commands of docs/production.md were run."""
    place = tmp_path_factory.mktemp("served")
    written(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for words in commands()[:4]:
            main(words)
    return place


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The server of the fifth command, on a free port."""
    log = tmp_path_factory.mktemp("log") / "log.txt"
    command, *options = commands()[4]
    assert command == "serve"
    running = Running([*options, "--max_bytes", "100000"], log, folder)
    try:
        yield running
    finally:
        running.kill()
