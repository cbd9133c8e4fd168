"""One update: the gradient of a complete window of micro-batches, then one step of every group's optimizer.

In order: count labels from the targets; forward each micro-batch; divide the summed losses by the window's counts;
let the balancer make one number; differentiate once; leave absent tasks untouched; step, clear, schedule, record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mtl_lightning.balancing.lookahead import TriesSteps
from mtl_lightning.core import record
from mtl_lightning.core.counts import count_labels
from mtl_lightning.core.frozen import frozen
from mtl_lightning.core.gradient import differentiate
from mtl_lightning.core.losses import window_losses
from mtl_lightning.core.rescaling import rescale_targets
from mtl_lightning.core.sharding import average_whole_gradients, total_norm
from mtl_lightning.core.trial import Trial
from mtl_lightning.types import Batch, MtlLightningError

if TYPE_CHECKING:
    from mtl_lightning.core.module import MultiTaskModule


class NonFiniteError(MtlLightningError, ArithmeticError):
    """A loss or a gradient is inf or nan; says where."""


def update(module: MultiTaskModule, window: Sequence[Batch]) -> Tensor | None:
    """Make one update from a complete window and return the objective (); None if no task has a label."""
    counts = count_labels(module, window)
    if not any(counts.values()):
        return None
    module.labels.labelled.update(task for task, count in counts.items() if count)
    present = module.present_mask(tuple(count > 0 for count in counts.values()))
    clear_gradients(module)
    rescale_targets(module, window, counts)
    if module.balancer.tries_steps:
        cast("TriesSteps", module.balancer).before_update(Trial(module, window), present)
    seen = differentiate(module, window, counts, present)
    average_whole_gradients(module)
    leave_absent_untouched(module, counts)
    row = record.collect(module, seen, counts)
    module.pending_row, module.pending_window, module.last_losses = row, (window, counts), seen.tasks
    optimizer, skipped = module.composite_optimizer(), module.skipped
    optimizer.step()
    if module.skipped == skipped:
        module.architecture.after_update()
        module.balancer.after_update(lambda: recompute(module, window, counts))
        if module.balancer.follows_epochs:
            module.epoch_losses.add(seen.tasks, counts)
    record.write(module, row)
    module.pending_row, module.pending_window = None, ([], {})
    module.step_schedulers("step", module.trainer.global_step)
    return seen.objective


def finish_epoch(module: MultiTaskModule) -> None:
    """Give the balancer the epoch's mean losses; on its last batch, since later hooks are lost at a resume."""
    means = module.epoch_losses.take(module.all_sum, module.world_size)
    if means is not None:
        module.balancer.after_epoch(*means)


def clear_gradients(module: MultiTaskModule) -> None:
    """Clear the last update's gradients with the hooks of automatic optimization, and as late: callbacks read them."""
    optimizer = module.optimizers(use_pl_optimizer=False)
    for callback in module.trainer.callbacks:  # type: ignore[attr-defined]  # set outside its __init__
        callback.on_before_zero_grad(module.trainer, module, optimizer)
    module.on_before_zero_grad(optimizer)  # type: ignore[arg-type]  # one optimizer, not a list
    module.composite_optimizer().zero_grad()


# --------------------------------------------------------------------------------------------------------- absent tasks
def leave_absent_untouched(module: MultiTaskModule, counts: Mapping[str, float]) -> None:
    """Set the gradients of absent tasks to None, so that no optimizer moves them: neither by momentum nor decay.

    A task that a present one reads through an open edge keeps its gradients, though not its balancer state.
    """
    absent = [name for name, count in counts.items() if not count]
    if not absent:
        return
    reached = module.graph.reached_by(name for name, count in counts.items() if count)
    owned = module.balancer.owned()
    for index, name in enumerate(module.tasks):
        if name in absent:
            parameters = [] if name in reached else list(module.roles.tasks[name].values())
            for parameter in [*parameters, *owned.get(index, [])]:
                parameter.grad = None


def recompute(module: MultiTaskModule, window: Sequence[Batch], counts: Mapping[str, float]) -> Tensor:
    """Return the window's losses (T,) over all processes at the new weights; buffers and random state untouched."""
    with torch.no_grad(), frozen(module):
        parts = [torch.stack(window_losses(module, batch, counts)[0]) for batch in window]
        return module.all_sum(torch.stack(parts).sum(0))


# ----------------------------------------------------------------------------------------- between gradient and step
def finish_gradients(module: MultiTaskModule) -> None:
    """Do what needs the unscaled gradients: record their norms, refuse or skip non-finite ones, clip per group."""
    row = module.pending_row
    if row is None and module.on_nonfinite == "ignore":
        groups: dict[str, list[Tensor]] = {}
    else:
        groups = {
            name: [_values(p.grad) for p in named.values() if p.grad is not None]
            for name, named in module.groups.items()
        }
    known = None if row is None else row.add_norms(groups)
    if module.on_nonfinite != "ignore" and (bad := _nonfinite_groups(groups, known)):
        if module.on_nonfinite == "skip":
            _skip(module)
        elif module.scaler is None:  # a gradient scaler meets overflows all the time, and skips these updates itself
            _refuse(module, bad)
    if module.on_nonfinite == "skip" and row is not None:
        row.host["train/skipped"] = module.skipped
    for name, value in module.gradient_clip.items():
        if name in groups:
            nn.utils.clip_grad_norm_(list(module.groups[name].values()), value)


def _values(grad: Tensor) -> Tensor:
    """Return a gradient, or the values of a sparse one, which norms do not take."""
    return grad.coalesce().values() if grad.is_sparse else grad


def _nonfinite_groups(groups: Mapping[str, list[Tensor]], known: Tensor | None) -> list[str]:
    """Return the groups whose gradient norm is inf or nan: one host sync where there are none.

    A finite gradient whose norm overflows counts as well: no optimizer could use it, and its loss is infinite.

    Args:
        groups: the gradients of each group.
        known: the norms of all of them (N,), where they were taken already.
    """
    norm = total_norm([grad for grads in groups.values() for grad in grads]) if known is None else known.norm()
    if math.isfinite(norm.item()):
        return []
    return [name for name, grads in groups.items() if not torch.isfinite(total_norm(grads))] or [*groups]


def _skip(module: MultiTaskModule) -> None:
    """Leave nothing to step: no weight decay, no momentum. The step itself still counts, as under a gradient scaler."""
    module.skipped += 1
    for named in module.groups.values():
        for parameter in named.values():
            parameter.grad = None


def _refuse(module: MultiTaskModule, bad: list[str]) -> None:
    heads = [
        any(p.grad is not None and not torch.isfinite(p.grad).all() for p in named.values())
        for named in module.roles.tasks.values()
    ]
    found = ~torch.isfinite(module.last_losses) | torch.tensor(heads, device=module.device)
    found = module.all_sum(found.float())  # a task may be at fault on another process
    if not found.any():
        found = module.all_sum(_overflowing(module))
    tasks = [name for name, number in zip(module.tasks, found.tolist(), strict=True) if number]
    raise NonFiniteError(
        f"Update {module.trainer.global_step + 1}: expected finite gradients, found a norm of inf or nan in the groups "
        f"{bad}; the loss or the gradient of {tasks or 'no single task'} is not finite. Lower that group's learning "
        "rate, clip its gradient (`gradient_clip`), or look for extreme values in its targets; `on_nonfinite: skip` "
        "leaves such updates out."
    )


def _overflowing(module: MultiTaskModule) -> Tensor:
    """Return (T,), 1 for each task whose loss alone gives the trunk a gradient that is not finite: one more forward."""
    window, counts = module.pending_window
    trunk = [parameter for parameter in module.roles.shared.values() if parameter.requires_grad]
    flags = torch.zeros(len(module.tasks), device=module.device)
    if any(isinstance(parameter, DTensor) for parameter in trunk):
        return flags  # sharded parameters give no gradient of a single task
    with torch.enable_grad(), frozen(module):
        for batch in window:
            for index, loss in enumerate(window_losses(module, batch, counts)[0]):
                if loss.requires_grad:
                    grads = torch.autograd.grad(loss, trunk, retain_graph=True, allow_unused=True)
                    finite = torch.isfinite(total_norm([grad for grad in grads if grad is not None]))
                    flags[index] += ~finite
    return flags
