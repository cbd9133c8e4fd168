"""The server: LitServe with a limit on the size of requests, words for wrong rows, and an orderly end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from litserve import LitServer

from mtl_lightning.errors import ConfigurationError
from mtl_lightning.serve.body import Expected, Rows
from mtl_lightning.serve.model import Served
from mtl_lightning.serve.worker import AnswerAPI
from mtl_lightning.version import __version__

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
LEAST_PORT, LARGEST_PORT = 1024, 65535
ANYWHERE = ("127.0.0.1", "0.0.0.0", "::")


class SizeLimit:
    """Answers 413 to a request whose body is larger than so many bytes, before it is read to its end.

    Args:
        app: what is asked otherwise.
        largest: bytes.
    """

    def __init__(self, app: Any, largest: int) -> None:
        self.app, self.largest = app, largest

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Take a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        messages, size = [], 0
        declared = headers.get(b"content-length", b"0")
        more = declared.isdigit() and int(declared) <= self.largest
        while more:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False) and size <= self.largest
        if not messages or size > self.largest:
            said = f"Expected a body of at most {self.largest:,} bytes. Send fewer rows at once."
            await JSONResponse({"detail": said}, 413, headers={"connection": "close"})(dict(scope), receive, send)
            return
        waiting = iter(messages)

        async def again() -> Message:
            return next(waiting, None) or await receive()

        await self.app(scope, again, send)


class Server(LitServer):
    """LitServe, whose helper of queues is not killed by a SIGTERM to the whole group of processes."""

    def _init_manager(self, num_api_servers: int) -> Any:
        with _ignored(signal.SIGTERM):
            return super()._init_manager(num_api_servers)


def make_server(
    served: Served,
    *,
    max_batch_size: int = 64,
    batch_wait: float = 0.0,
    max_bytes: int = 10_000_000,
    workers: int = 1,
    accelerator: Literal["cpu", "cuda", "auto"] = "cpu",
    timeout: float = 30.0,
) -> Server:
    """Make the server of a model, which is loaded once here, to know its columns, and once in each worker.

    Args:
        served: the model.
        max_batch_size: requests that are computed together, at most.
        batch_wait: seconds to wait for more of them; by default those that are there are taken.
        max_bytes: the largest body of a request.
        workers: processes that hold the network.
        accelerator: where they run it.
        timeout: seconds after which a request that waits is given up.
    """
    description = served.load().description
    Rows.expected = Expected(description)
    Rows.model_rebuild(force=True)
    server = Server(
        AnswerAPI(served, max_batch_size, batch_wait),
        accelerator=accelerator,
        devices=1,
        workers_per_device=workers,
        timeout=timeout,
        middlewares=[(SizeLimit, {"largest": max_bytes})],
        model_metadata={"tasks": description["tasks"], "versions": description["versions"]},
    )
    server.app.title, server.app.version = "mtl-lightning", __version__
    server.app.add_exception_handler(RequestValidationError, _wrong_rows)  # type: ignore[arg-type]  # for this class
    return server


async def _wrong_rows(request: Request, error: RequestValidationError) -> JSONResponse:
    """Say what is wrong with a request, without what was sent."""
    kept = [{key: part for key, part in one.items() if key in ("loc", "msg", "type")} for one in error.errors()]
    for told, one in zip(kept, error.errors(), strict=True):
        if mistakes := (one.get("ctx") or {}).get("mistakes"):
            told["mistakes"] = mistakes
    return JSONResponse({"detail": kept}, 422)


def run(server: Server, host: str = "127.0.0.1", port: int = 8000, log_level: str = "info") -> None:
    """Serve until SIGTERM or Ctrl-C; requests under way are answered, then everything ends.

    Args:
        server: of :func:`make_server`.
        host: 127.0.0.1 hears this machine alone; 0.0.0.0, and :: for IPv6, every one that reaches it.
        port: of TCP, 1024 to 65535.
        log_level: of uvicorn: critical, error, warning, info, debug or trace.

    Raises:
        ConfigurationError: for another host or port.
    """
    if host not in ANYWHERE:
        raise ConfigurationError(f"`host`: expected one of {list(ANYWHERE)}, found {host!r}.")
    if not LEAST_PORT <= port <= LARGEST_PORT:
        raise ConfigurationError(f"`port`: expected a number from {LEAST_PORT} to {LARGEST_PORT}, found {port}.")
    try:
        with _told_to_stop(), contextlib.suppress(KeyboardInterrupt):
            server.run(host=host, port=port, num_api_servers=1, generate_client_file=False, log_level=log_level)
    finally:
        for worker in getattr(server, "inference_workers", []):  # of a server that was stopped as it began
            worker.kill()


@contextmanager
def _told_to_stop() -> Iterator[None]:
    """Take the first SIGTERM for Ctrl-C, on which LitServe ends in order, and no further one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _ignored(number: signal.Signals) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)
