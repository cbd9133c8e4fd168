"""The end of the process group: destroyed when the program ends, while the interpreter is still whole.

Lightning destroys the groups of NCCL alone (``_init_dist_connection`` in ``lightning.fabric.utilities.distributed``).
Those of gloo outlive the interpreter, and every few runs their threads then abort the process, whose work is done:
``terminate called without an active exception``, SIGABRT in place of status 0.
"""

from __future__ import annotations

import atexit
from functools import cache

import torch.distributed as dist


@cache
def destroy_at_exit() -> None:
    """Have a process group that exists at the end of the program destroyed there; asked again, do nothing.

    To be asked before the trainer makes the group, so that a run that fails right after that ends with its error. The
    group stays until the end: further runs of the trainer use it, and it may be the user's. Whoever destroys it
    earlier, Lightning or the user in a handler of a later date, leaves nothing to do.
    """
    atexit.register(_destroy)


def _destroy() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
