"""A headless Chromium for tests, spoken to over a pipe by the DevTools protocol; nothing but the program is needed."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_TEXT = """(() => {
  const found = [];
  const walk = (node) => {
    if (node.nodeType === Node.TEXT_NODE && node.textContent.trim()) found.push(node.textContent.trim());
    if (['STYLE', 'SCRIPT', 'NOSCRIPT'].includes(node.nodeName)) return;
    if (node.shadowRoot) walk(node.shadowRoot);
    node.childNodes.forEach(walk);
  };
  walk(document.body);
  return found.join('\\n');
})()"""
_FREE = 20  # numbers of descriptors from here on, so that none of ours is 3 or 4


def program() -> str | None:
    """The path of a Chromium, if there is one."""
    return next((path for path in map(shutil.which, PROGRAMS) if path), None)


class Browser:
    """A browser with one page, for use in ``with``.

    Args:
        path: of the program.
        profile: an empty folder.
        size: of the window; what is outside of it pages may leave out.
    """

    def __init__(self, path: str, profile: Path, size: tuple[int, int] = (1400, 3000)) -> None:
        (commands, self._commands), (self._answers, answers) = (map(_moved, os.pipe()) for _ in range(2))
        width, height = size
        flags = ["headless=new", "disable-gpu", "disable-dev-shm-usage", "no-first-run", "remote-debugging-pipe"]
        flags += [f"user-data-dir={profile}", f"window-size={width},{height}"]
        flags += ["no-sandbox"] if os.geteuid() == 0 else []
        nowhere = os.open(os.devnull, os.O_RDWR)
        ends = ((commands, 3), (answers, 4), (nowhere, 1), (nowhere, 2))
        arguments = [path, *(f"--{flag}" for flag in flags), "about:blank"]
        moves = [(os.POSIX_SPAWN_DUP2, ours, theirs) for ours, theirs in ends]
        self._process = os.posix_spawn(path, arguments, os.environ, file_actions=moves)
        for end in (commands, answers, nowhere):
            os.close(end)
        self._number, self._unread, self._session = 0, b"", ""

    def __enter__(self) -> Self:
        page = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._session = ""
        with suppress(OSError, TimeoutError):
            self._ask("Browser.close", patience=10.0)
        os.close(self._commands)  # the browser ends when nobody can speak to it
        os.close(self._answers)
        os.waitpid(self._process, 0)

    def text(self, address: str, expected: Sequence[str], patience: float = 90.0) -> str:
        """Open an address and return all text of the page, shadow trees included, once ``expected`` is in it.

        Raises:
            TimeoutError: that names what is missing.
        """
        self._ask("Page.navigate", url="about:blank")  # addresses that differ behind the # are one page
        self._ask("Page.navigate", url=address)
        end = time.monotonic() + patience
        while True:
            answer = self._ask("Runtime.evaluate", expression=_TEXT, returnByValue=True)
            found = str(answer["result"].get("value", ""))
            missing = [one for one in expected if one not in found]
            if not missing:
                return found
            if time.monotonic() > end:
                raise TimeoutError(f"{address}: expected {missing} on the page, found:\n{found[-3000:]}")
            time.sleep(0.3)

    def picture(self) -> bytes:
        """A picture of the page as PNG."""
        return base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])

    def _ask(self, method: str, patience: float = 60.0, **parameters: Any) -> dict[str, Any]:
        """Give a command, and return its result."""
        self._number += 1
        command: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        end = time.monotonic() + patience
        while time.monotonic() < end:
            while b"\0" in self._unread:
                message, _, self._unread = self._unread.partition(b"\0")
                answer: dict[str, Any] = json.loads(message)
                if answer.get("id") == self._number:
                    if "error" in answer:
                        raise OSError(f"{method}: {answer['error']}")
                    result: dict[str, Any] = answer["result"]
                    return result
            if select.select([self._answers], [], [], 1.0)[0]:
                read = os.read(self._answers, 1 << 20)
                if not read:
                    raise OSError("The browser has ended.")
                self._unread += read
        raise TimeoutError(f"{method}: no answer in {patience:g} s.")


def _moved(descriptor: int) -> int:
    """Give a descriptor a high number that no program inherits."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FREE)
    os.close(descriptor)
    return moved
