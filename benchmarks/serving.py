"""Rows per second and latencies of ``mtl-lightning serve``, beside a bare FastAPI application with the same predictor.

Run with ``python -m benchmarks.serving``. Both serve the same export of a small network on a table over HTTP on this
machine, each in processes of its own: LitServe one that takes requests and one that computes; the bare application a
single one, which reads JSON, calls the predictor, and writes JSON, without batches, checks or limits. Eight clients in
one further process ask again and again. On a machine with few cores all of them share these.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch

from benchmarks.command import Benchmark
from benchmarks.records import Cell, Table
from mtl_lightning import Network
from mtl_lightning.architectures import SharedBottom, TabularEncoder
from mtl_lightning.export import export_network
from mtl_lightning.tasks import BinaryClassification, Regression
from mtl_lightning.types import TableSpec, TargetSpec

BARE = """
import sys, uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from mtl_lightning.predictor import Predictor
predictor, app = Predictor.from_export(sys.argv[1], on_unknown="ignore"), FastAPI()
@app.get("/health")
async def health():
    return "ok"
@app.post("/predict")
async def predict(request: Request):
    return JSONResponse({"answers": predictor((await request.json())["rows"]).to_list()})
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
"""
OURS = """
import sys
from mtl_lightning.serve.model import Served
from mtl_lightning.serve.server import make_server, run
run(make_server(Served(sys.argv[1])), port=int(sys.argv[2]), log_level="warning")
"""
NUMERIC, CATEGORICAL = 10, 5
PACKAGES = ("litserve", "fastapi", "uvicorn", "onnxruntime", "onnxscript")


def made(folder: Path) -> Path:
    """Export a shared bottom of 128 and 64 units on 15 columns, with two tasks."""
    numeric = {f"n{place}": {"mean": 0.0, "std": 1.0, "log1p": False} for place in range(NUMERIC)}
    categorical = {f"c{place}": [f"v{value}" for value in range(20)] for place in range(CATEGORICAL)}
    targets = {"price": {"kind": "number", "column": "price", "mean": 0.0, "std": 1.0}, "sold": {"column": "sold"}}
    schema = {
        "numeric": numeric,
        "categorical": categorical,
        "missing_values": ["NA"],
        "ranges": {name: [-3.0, 3.0] for name in numeric},
        "rows": 1000,
        "targets": {**targets, "sold": {"kind": "classes", "column": "sold", "values": ["no", "yes"]}},
    }
    spec = TableSpec(tuple(numeric), {name: len(values) + 1 for name, values in categorical.items()})
    torch.manual_seed(0)
    tasks = {
        "price": Regression(TargetSpec()),
        "sold": BinaryClassification(TargetSpec(names=("no", "yes"), classes=2)),
    }
    network = Network(tasks, partial(SharedBottom, encoder=TabularEncoder), spec)
    return export_network(network, folder / "exported", schema=schema).folder


def rows(number: int) -> list[dict[str, Any]]:
    """Rows of plain values."""
    values = torch.randn(number, NUMERIC, generator=torch.Generator().manual_seed(0)).tolist()
    return [
        {f"n{place}": value for place, value in enumerate(row)}
        | {f"c{place}": f"v{place}" for place in range(CATEGORICAL)}
        for row in values
    ]


def measured(program: str, folder: Path, size: int, requests: int, clients: int) -> tuple[float, list[float]]:
    """Return the seconds that all requests took, and the latency of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", program, str(folder), str(port)], start_new_session=True)
    try:
        _wait(port, process)
        body = json.dumps({"rows": rows(size)}).encode()
        _asked(port, body, 50)
        start = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            parts = list(pool.map(lambda _: _asked(port, body, requests // clients), range(clients)))
        return time.perf_counter() - start, [one for part in parts for one in part]
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _asked(port: int, body: bytes, number: int) -> list[float]:
    """Send requests one after the other over one connection; return the seconds of each."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    took = []
    for _ in range(number):
        start = time.perf_counter()
        connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"Expected an answer, found the status {answer.status}.")
        took.append(time.perf_counter() - start)
    connection.close()
    return took


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        time.sleep(0.1)
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
    raise RuntimeError("The server did not start.")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 100], help="rows of a request")


def missing(_options: argparse.Namespace) -> str:
    """Say which packages of the extra there are not."""
    absent = [name for name in PACKAGES if find_spec(name) is None]
    return f"the extra 'serve' is not installed ({', '.join(absent)})" if absent else ""


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Ask both servers."""
    found: list[list[Cell]] = []
    with tempfile.TemporaryDirectory() as folder:
        exported = made(Path(folder))
        for size in options.sizes:
            for name, program in (("mtl-lightning serve", OURS), ("bare FastAPI", BARE)):
                seconds, took = measured(program, exported, size, options.requests, options.clients)
                cuts = quantiles(took, n=100)
                rates = [len(took) / seconds, len(took) * size / seconds]
                found.append([name, size, *rates, *(1e3 * cuts[place] for place in (49, 94, 98))])
    yield Table(
        f"{options.requests:,} requests of {options.clients} clients",
        {"server": "", "rows a request": ",", "requests/s": ",.0f", "rows/s": ",.0f",
         "median, ms": ".1f", "95 %, ms": ".1f", "99 %, ms": ".1f"},
        found,
    )  # fmt: skip


BENCHMARK = Benchmark("serving", __doc__, add_options, tables, quick=("--requests=400",), missing=missing)
main = BENCHMARK.main

if __name__ == "__main__":
    main()
