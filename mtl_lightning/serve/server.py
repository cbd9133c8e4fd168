"""The server: LitServe with a limit on the size of requests, words for wrong rows, and an orderly end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from litserve import LitServer

from mtl_lightning.errors import MtlLightningError
from mtl_lightning.serve.body import Expected, Rows
from mtl_lightning.serve.model import Served
from mtl_lightning.serve.options import check_address, check_numbers, device_of
from mtl_lightning.serve.worker import AnswerAPI
from mtl_lightning.version import __version__

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
_WATCHING = 0.5
"""Seconds between two looks at the workers, for which an orderly end has to wait."""
_PATIENCE = 10
"""How many times too large a body is read to its end, and then refused; a larger one is cut off."""


class SizeLimit:
    """Answers 413 to a request whose body is larger than so many bytes, of which no more are kept.

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
        messages: list[Message] = []
        size, more = 0, True
        while more and size <= _PATIENCE * self.largest:  # a client sees no answer before it has sent it all
            message = await receive()
            size += len(message.get("body", b""))
            messages = [*messages, message] if size <= self.largest else []
            more = message["type"] == "http.request" and message.get("more_body", False)
        if size > self.largest:
            said = f"Expected a body of at most {self.largest:,} bytes. Send fewer rows at once."
            await JSONResponse({"detail": said}, 413, headers={"connection": "close"})(dict(scope), receive, send)
            return
        waiting = iter(messages)

        async def again() -> Message:
            return next(waiting, None) or await receive()

        await self.app(scope, again, send)


class Usual:
    """Takes requests as clients usually send them: JSON of any content type, and HEAD where GET is answered.

    Args:
        app: what is asked.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Take a request."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # the body is left out by uvicorn, which knows of HEAD
        elif scope["type"] == "http" and scope["method"] == "POST":  # the only bodies that are read are JSON
            kept = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
            scope = {**scope, "headers": [*kept, (b"content-type", b"application/json")]}
        await self.app(scope, receive, send)


class _Listening(socket.socket):
    """A socket of which every copy stops listening when one is closed.

    LitServe's helper of queues, a fork, has one to the end, in which connections would wait for no answer.

    Args:
        fileno: of a socket.
    """

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self._copy = socket.socket(fileno=os.dup(fileno))  # uvloop closes the other one behind Python's back

    def close(self) -> None:
        """Stop listening, in all processes."""
        with contextlib.suppress(OSError):  # of one that is closed
            self._copy.shutdown(socket.SHUT_RDWR)
        self.leave()

    def leave(self) -> None:
        """Close it in this process alone."""
        self._copy.close()
        super().close()


class Server(LitServer):
    """LitServe that ends once, and whose helper of queues outlives a SIGTERM to the whole group of processes.

    Attributes:
        failure: why it ended by itself, which it does when a worker dies.
    """

    failure: str | None = None
    _watchers: Collection[threading.Thread] = ()

    def _init_manager(self, num_api_servers: int) -> Any:
        self._ending, self._ended = threading.Lock(), False
        with _ignored(signal.SIGTERM):
            return super()._init_manager(num_api_servers)

    def _start_server(
        self, port: Any, number: int, log_level: str, sockets: list[socket.socket], kind: str, **options: Any
    ) -> Any:
        heard = [_Listening(one.detach()) for one in sockets]
        started = super()._start_server(port, number, log_level, heard, kind, **options)
        if kind == "process":  # which has a copy of its own
            for one in heard:
                one.leave()
        return started

    def _start_worker_monitoring(self, manager: Any, uvicorn_workers: Any) -> None:
        self.monitor_internal, before = _WATCHING, {*threading.enumerate()}
        super()._start_worker_monitoring(manager, uvicorn_workers)
        self._watchers = {*threading.enumerate()} - before

    def _perform_graceful_shutdown(self, manager: Any, uvicorn_workers: Any, shutdown_reason: str = "normal") -> None:
        with self._ending:
            if self._ended:
                return
            self._ended = True
            if shutdown_reason not in ("normal", "keyboard_interrupt"):
                self.failure = shutdown_reason
            # From a thread, since this one's connection may still wait for that event.
            told = threading.Thread(target=self._shutdown_event.set, daemon=True)
            told.start()
            told.join(2.0)
            for watcher in {*self._watchers} - {threading.current_thread()}:  # it would miss the event's process
                watcher.join(4 * _WATCHING)
            super()._perform_graceful_shutdown(manager, uvicorn_workers, shutdown_reason)


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

    Raises:
        ConfigurationError: for a number out of range, or ``cuda`` where there is none.
    """
    check_numbers(
        max_batch_size=max_batch_size, batch_wait=batch_wait, max_bytes=max_bytes, workers=workers, timeout=timeout
    )
    description = served.load().description
    Rows.expected = Expected(description)
    Rows.model_rebuild(force=True)
    server = Server(
        AnswerAPI(served, max_batch_size, batch_wait),
        accelerator=device_of(served, accelerator),
        devices=1,
        workers_per_device=workers,
        timeout=timeout,
        middlewares=[(SizeLimit, {"largest": max_bytes}), (Usual, {})],
        model_metadata={"tasks": description["tasks"], "versions": description["versions"]},
    )
    server.app.title, server.app.version = "mtl-lightning", __version__
    server.app.add_exception_handler(RequestValidationError, _wrong_rows)
    return server


async def _wrong_rows(_: Request, error: RequestValidationError) -> JSONResponse:
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
        ConfigurationError: for another host or port, or one that is taken.
        MtlLightningError: when a worker dies.
    """
    check_address(host, port)
    try:
        with _told_to_stop(), contextlib.suppress(KeyboardInterrupt):
            server.run(host=host, port=port, num_api_servers=1, generate_client_file=False, log_level=log_level)
    finally:
        for worker in getattr(server, "inference_workers", []):  # of a server that was stopped as it began
            worker.kill()
    if server.failure:
        raise MtlLightningError("A worker has ended, and the server with it; its last words are in the log.")


@contextmanager
def _told_to_stop() -> Iterator[None]:
    """Take the first SIGTERM for Ctrl-C, on which LitServe ends in order, and no further one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    own = os.getpid()

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.getpid() != own:  # a process of uvicorn's, which raises the signal again when it has ended in order
            raise SystemExit(0)
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
