"""``mtl-lightning serve``: a checkpoint or an export behind HTTP."""

from __future__ import annotations

from typing import Literal

from mtl_lightning.cli.parser import Parser
from mtl_lightning.errors import ConfigurationError


def serve(
    model: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    tasks: list[str] | None = None,
    workers: int = 1,
    accelerator: Literal["cpu", "cuda", "auto"] = "cpu",
    max_batch_size: int = 64,
    batch_wait: float = 0.0,
    max_bytes: int = 10_000_000,
    timeout: float = 30.0,
    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info",
    trusted: list[str] | None = None,
) -> None:
    """Serve a model: POST rows to /predict; /health, /docs.

    Args:
        model: a checkpoint, or a folder that `mtl-lightning export` wrote.
        host: 127.0.0.1 hears this machine alone; 0.0.0.0, and :: for IPv6, every one that reaches it.
        port: of TCP, from 1024.
        tasks: the tasks to answer, all by default.
        workers: processes that hold the network.
        accelerator: where they run it.
        max_batch_size: requests that are computed together, at most.
        batch_wait: seconds to wait for more of them; by default those that are there are taken.
        max_bytes: the largest body of a request; a larger one is answered with 413.
        timeout: seconds after which a request that waits is given up.
        log_level: how much is logged.
        trusted: modules or packages of yours whose classes a checkpoint may name.
    """
    try:
        from mtl_lightning.serve.model import Served
        from mtl_lightning.serve.server import make_server, run
    except ImportError as error:
        raise ConfigurationError(
            f"`serve` needs {error.name}, which is not installed: pip install 'mtl-lightning[serve]'."
        ) from error
    server = make_server(
        Served(model, tasks, trusted or []),
        max_batch_size=max_batch_size,
        batch_wait=batch_wait,
        max_bytes=max_bytes,
        workers=workers,
        accelerator=accelerator,
        timeout=timeout,
    )
    run(server, host, port, log_level)


def main(arguments: list[str]) -> None:
    """Run the command with the arguments that follow its name."""
    parser = Parser(prog="mtl-lightning serve", description=str(serve.__doc__).partition("\n")[0])
    parser.add_argument("-c", "--config", action="config", help="Path to a file with these options.")
    parser.add_function_arguments(serve)
    serve(**{name: value for name, value in parser.parse_args(arguments).as_dict().items() if name != "config"})
