"""The process that holds the network: it answers the requests that wait, together.

LitServe reads annotations as objects, so that they are not postponed in this file.
"""

import contextlib
import json
import logging
import math
import signal
import time
from collections.abc import Sequence
from queue import Empty
from typing import Any

from fastapi import HTTPException, Response
from litserve import LitAPI
from litserve.loops.base import LitLoop
from litserve.loops.simple_loops import PickleableHTTPException
from litserve.utils import LitAPIStatus, LoopResponseType

from mtl_lightning.errors import MtlLightningError
from mtl_lightning.predictor.predictor import Predictor
from mtl_lightning.serve.body import Rows
from mtl_lightning.serve.inputs import arrays_of, tensors_of
from mtl_lightning.serve.model import Served

_POLL, _IDLE = 0.25, 0.5
"""Seconds to wait for a request; seconds without one after which a worker that was told to leave does so."""


class AnswerAPI(LitAPI):
    """LitServe's description of what is served: ``POST /predict`` takes :class:`Rows`.

    Args:
        served: the model.
        max_batch_size: requests that are answered together, at most.
        wait: seconds to wait for more of them; by default those that are there already.
    """

    def __init__(self, served: Served, max_batch_size: int, wait: float = 0.0) -> None:
        super().__init__(max_batch_size=max_batch_size, batch_timeout=wait, loop=AnswerLoop())
        self.served = served

    def setup(self, device: str) -> None:
        """Load the model, in the worker."""
        self.predictor = self.served.load(device)

    def decode_request(self, request: Rows) -> Rows:
        """Return the rows, which were checked when they came."""
        return request

    def predict(self, x: Sequence[Rows], **kwargs: Any) -> list[Response | Exception]:
        """Answer some requests together; one that cannot be answered spoils no other."""
        return answered(self.predictor, x)

    def encode_response(self, output: Response) -> Response:
        """Return the answer, which is a response already."""
        return output


def answered(predictor: Predictor, requests: Sequence[Rows]) -> list[Response | Exception]:
    """Return a response, or the error, for each request."""
    try:
        rows = [row for request in requests for row in request.rows]
        answers = predictor(_inputs(predictor, rows)).to_list()
    except Exception as error:  # whatever a predictor or its runtime raises
        if len(requests) == 1:
            return [error]
        return [one for request in requests for one in answered(predictor, [request])]
    found: list[Response | Exception] = []
    start = 0
    for request in requests:
        body: dict[str, Any] = {"answers": answers[start : start + len(request.rows)]}
        start += len(request.rows)
        if request.unlike:
            body["unlike_training"] = request.unlike
        found.append(Response(_json(body), media_type="application/json"))
    return found


def _inputs(predictor: Predictor, rows: list[Any]) -> Any:
    """Return rows as a predictor takes them: arrays, where they are no table's."""
    if predictor.description["schema"] is not None:
        return rows
    return arrays_of(rows, tensors_of(predictor.description["input_spec"]))


def _json(body: Any) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except ValueError:
        return json.dumps(_without_nan(body), allow_nan=False).encode()


def _without_nan(value: Any) -> Any:
    """Put null in place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class AnswerLoop(LitLoop):
    """Takes the requests that wait, answers them together, and leaves when there are none and it was told to.

    LitServe's own loop for batches fails all requests of a batch for the fault of one, waits for the whole timeout
    whether others come or not, and ends at once at SIGTERM.
    """

    def __init__(self) -> None:
        super().__init__()
        self.leaving = False

    def __call__(
        self,
        lit_api: Any,
        device: str,
        worker_id: int,
        request_queue: Any,
        transport: Any,
        workers_setup_status: Any,
        callback_runner: Any,
    ) -> None:
        """Run until the process is told to leave."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal, which the server's process hears too
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "leaving", True))
        last = time.monotonic()
        while not (self.leaving and time.monotonic() - last > _IDLE):
            batch = self._next(lit_api, request_queue)
            if batch:
                self._answer(lit_api, transport, batch)
                last = time.monotonic()

    def _next(self, lit_api: Any, queue: Any) -> list[Any]:
        """Return the requests that wait, or none."""
        batch: list[Any] = []
        with contextlib.suppress(Empty, EOFError, ConnectionError):
            batch.append(queue.get(timeout=_POLL))
            until = time.monotonic() + lit_api.batch_timeout
            while len(batch) < lit_api.max_batch_size:
                rest = until - time.monotonic()
                batch.append(queue.get(timeout=rest) if rest > 0 else queue.get_nowait())
        return batch

    def _answer(self, lit_api: Any, transport: Any, batch: list[Any]) -> None:
        late = time.monotonic() - lit_api.request_timeout if lit_api.request_timeout > 0 else -math.inf
        fresh = [request for request in batch if request[2] >= late]
        found = lit_api.predict([rows for *_, rows in fresh]) if fresh else []
        expired = HTTPException(504, "The request waited for too long.")
        outcomes = [(request, expired) for request in batch if request[2] < late]
        for (queue, uid, *_), outcome in [*zip(fresh, found, strict=True), *outcomes]:
            good = isinstance(outcome, Response)
            self.put_response(
                transport,
                queue,
                uid,
                outcome if good else PickleableHTTPException.from_exception(_told(outcome)),
                LitAPIStatus.OK if good else LitAPIStatus.ERROR,
                LoopResponseType.REGULAR,
            )


def _told(error: Any) -> HTTPException:
    """Return what a client is told of an error: ours in words, of others that there was one."""
    if isinstance(error, HTTPException):
        return error
    if isinstance(error, MtlLightningError):
        return HTTPException(422, str(error))
    logging.getLogger(__name__).error("A request could not be answered.", exc_info=error)
    return HTTPException(500, "Internal server error")
