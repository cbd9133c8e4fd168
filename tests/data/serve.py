"""A server on this machine that can do what a download meets: ranges, no ranges, broken connections, refusals."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Shop:
    """Serves one content at every path.

    Attributes:
        ranges: whether it knows ``Range``.
        shift: how many bytes later than asked for its parts start.
        breaks: how many bytes the next answers send before they break off; None: all of them.
        refuses: HTTP codes that the next answers give in place of the content.
        asked: the ``Range`` of each request, or None.
        sent: how many bytes of content were sent in all.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.ranges = True
        self.shift = 0
        self.breaks: list[int | None] = []
        self.refuses: list[int] = []
        self.asked: list[str | None] = []
        self.sent = 0
        self.url = ""


@contextmanager
def serving(content: bytes) -> Iterator[Shop]:
    shop = Shop(content)

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            shop.asked.append(wanted)
            if shop.refuses:
                self.send_error(shop.refuses.pop(0))
                return
            start = int(re.findall(r"\d+", wanted)[0]) + shop.shift if wanted and shop.ranges else 0
            if start >= len(shop.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(shop.content)}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(shop.content) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(shop.content) - 1}/{len(shop.content)}")
            self.end_headers()
            stop = shop.breaks.pop(0) if shop.breaks else None
            part = shop.content[start:] if stop is None else shop.content[start : start + stop]
            self.wfile.write(part)
            shop.sent += len(part)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    shop.url = f"http://127.0.0.1:{server.server_port}/data.bin"
    try:
        yield shop
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
