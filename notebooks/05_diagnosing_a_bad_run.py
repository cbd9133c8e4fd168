# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Diagnosing a bad run
#
# Nothing crashes, losses fall, and the result is bad. This notebook starts from such a run, which has three faults at
# once, and finds them one after the other by what the library says of it. Two more faults follow, of a balancer and of
# a sign. The whole notebook takes some ten seconds on one core.

# %%
import csv
import logging
import textwrap
import warnings
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.optim import Adam

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, MLPHead, SharedBottom
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.callbacks import Conflict, DeadUnits, LearningSpeed, Overfitting, UnsettledSigma, UpdateRatio
from mtl_lightning.data import MultiDigit, TensorRows
from mtl_lightning.tasks import Regression
from mtl_lightning.types import MtlLightningWarning, TargetSpec

for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")
torch.set_num_threads(1)
plt.rcParams["figure.dpi"] = 72

# %% [markdown]
# ## 1. A run that is really bad
#
# Two digits in one picture, and their sum. The data come as data do: the sum is in hundredths, and where the labels of
# `right` were joined to the pictures, they slipped by one row. On top of that somebody has tried a rate for the head of
# `right`, and left it at 1.
#
# The command line has the callbacks that watch a run in every run. In Python they are named; here they look more often
# than by default, since a run of 240 updates is short.


# %%
class Digits(MultiDigit):
    """Two digits and their sum in hundredths; with `slipped`, each picture has the `right` of the one before it."""

    def __init__(self, slipped, tasks=None):
        super().__init__(sum=True, sizes=(2000, 500, 1000), batch_size=100, tasks=tasks)
        self.slipped = slipped

    def rows(self, split):
        inputs, targets = super().rows(split)[:].values()
        targets["sum"] = 100 * targets["sum"]
        if self.slipped:
            targets["right"] = targets["right"].roll(1)
        return TensorRows(inputs, targets)


DEFAULTS = {
    "architecture": partial(SharedBottom, encoder=partial(MLP, hidden=[64])),
    "heads": {"default": MLPHead},
}
recorded = {}


def fit(run, data, epochs=12, **arguments):
    """Train, print the warnings and the test metrics, and keep what was recorded."""
    seed_everything(0, verbose=False)
    module = MultiTaskModule(tasks=data.tasks, input_spec=data.input_spec, **{**DEFAULTS, **arguments})
    watching = [DeadUnits(25), UpdateRatio(), Conflict(50), LearningSpeed(20, after=100), Overfitting()]
    trainer = Trainer(
        max_epochs=epochs,
        logger=CSVLogger("lightning_logs"),
        log_every_n_steps=5,
        callbacks=[*watching, UnsettledSigma(10)],
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MtlLightningWarning)
        trainer.fit(module, data)
    (tested,) = trainer.test(module, data, verbose=False)
    said = [str(one.message) for one in caught if issubclass(one.category, MtlLightningWarning)]
    for text in said or ["no warning"]:
        print(textwrap.fill(text, 110, subsequent_indent="  "))
    found = {tag.removeprefix("test/"): value for tag, value in tested.items() if "accuracy" in tag or "rmse" in tag}
    print(f"{run}:", ", ".join(f"{name} {value:.2f}" for name, value in found.items()))
    with open(Path(trainer.logger.log_dir) / "metrics.csv") as file:
        recorded[run] = list(csv.DictReader(file))
    return module


def curve(run, tag):
    """Return the steps and the values of a tag of a run, to be plotted."""
    rows = [row for row in recorded[run] if row.get(tag)]
    return [int(row["step"]) for row in rows], [float(row[tag]) for row in rows]


def rates(default=3e-3, **groups):
    """Return Adam for each group."""
    return {name: partial(Adam, lr=rate) for name, rate in {"default": default, **groups}.items()}


raw = {"sum": Regression}  # in place of the standardised one that the data declares
_ = fit("three faults", Digits(slipped=True, tasks=raw), optimizers=rates(right=0.3))

# %% [markdown]
# A guess is right one time in ten, and who always predicts the mean of the sum is off by some 400. So all three tasks
# have learned nothing. Which of the faults is to blame for which task? Each warning names a symptom, what it means and
# the key to change. One fault has many symptoms, so that a task that one callback has warned of is left alone by the
# others: there may be more to hear once these are cured.
#
# ## 2. Cured
#
# Two warnings, two keys. A standardised `Regression` learns in standard deviations; its metrics stay in hundredths.

# %%
_ = fit("rate and scale", Digits(slipped=True), optimizers=rates())

# %% [markdown]
# Two of three learn. Of `right` one hears something new, now that nothing louder is said of it. Its loss neither jumps
# nor creeps, which leaves the last advice: look at its labels. Here they can be checked against each other.

# %%
_, targets = Digits(slipped=True).rows("train")[:].values()
for name, right in {"right": targets["right"], "right of the row after": targets["right"].roll(-1)}.items():
    agree = 100 * (targets["left"] + right) == targets["sum"]
    print(f"left + {name} is the sum in {agree.float().mean():.0%} of the rows")

# %% [markdown]
# Labels that must agree do not; those of the row after do. Joined anew:

# %%
_ = fit("and labels", Digits(slipped=False), optimizers=rates())
figure, axes = plt.subplots(1, 3, figsize=(13, 3.2), layout="constrained")
for axis, task in zip(axes, ("left", "right", "sum"), strict=True):
    for run in recorded:
        steps, losses = curve(run, f"train/loss/{task}")
        axis.plot(steps, losses, label=run)
    axis.set(title=f"train/loss/{task}", xlabel="update", yscale="log")
_ = axes[2].legend()

# %% [markdown]
# The curves alone tell little: in the bad run two of the three fall. The sum comes from far off to its mean, `right`
# from worse than a guess to a guess.
#
# ## 3. Weights that are not learned
#
# With uncertainty weighting each task's weight follows from its learned sigma. The sigmas are a group with a rate of
# their own, and to be careful with it is a mistake:

# %%
for run, rate in {"balancer at 1e-5": 1e-5, "balancer at 1e-2": 1e-2}.items():
    module = fit(run, Digits(slipped=False), balancer=UncertaintyWeighting, optimizers=rates(balancer=rate))
    print({task: round(sigma, 2) for task, sigma in module.sigmas().items()}, "\n")
figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True, layout="constrained")
for axis, run in zip(axes, ("balancer at 1e-5", "balancer at 1e-2"), strict=True):
    for task in module.tasks:
        axis.plot(*curve(run, f"watch/sigma_off/{task}"), label=task)
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set(title=f"watch/sigma_off, {run}", xlabel="update", yscale="log")
_ = axes[1].legend()

# %% [markdown]
# At 1e-5 sigma is still 1 at the end: a plain sum by another name. Two of its curves end near 1, where sigma belongs,
# because the losses came to it, not it to the losses. At 1e-2 all three follow.
#
# Does that make the tasks better? Not here: the losses of these three are of one scale, so that the plain sum had no
# fault to cure. A warning is about what the run does, not about what you gain.
#
# ## 4. A wrong sign
#
# Two readers note the sum of each picture, and since they mean the same, one output serves both. But the second notes
# what is missing to 18.


# %%
class Readers(MultiDigit):
    """Two notes of the sum; with `reversed_`, the second is 18 less it."""

    def __init__(self, reversed_):
        super().__init__(sizes=(2000, 500, 1000), batch_size=100)
        self.reversed = reversed_

    def declared_tasks(self):
        return dict.fromkeys(("first", "second"), (TargetSpec(), partial(Regression, standardize=True)))

    def rows(self, split):
        inputs, targets = super().rows(split)[:].values()
        first = (targets["left"] + targets["right"]).float()
        return TensorRows(inputs, {"first": first, "second": 18 - first if self.reversed else first})


class OneOutput(nn.Module):
    """A network whose one output is that of both tasks."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, pictures):
        output = self.layers(pictures)
        return {"first": output, "second": output}


for run, reversed_ in {"second reversed": True, "second turned round": False}.items():
    _ = fit(run, Readers(reversed_), epochs=8, architecture=OneOutput, heads=None, optimizers=rates())
figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
for run in ("second reversed", "second turned round"):
    axis.plot(*curve(run, "watch/cosine/first/second"), "o-", label=run)
axis.set(title="watch/cosine/first/second", xlabel="update", ylim=(-1.1, 1.1))
_ = axis.legend()

# %% [markdown]
# An error of 4 is that of the mean. Gradients that point against each other in every update are seldom a matter for a
# cleverer balancer: look at the data first.
#
# ## Where to look
#
# `docs/watching.md` has all warnings and what they mean, `docs/guides/tensorboard.md` which chart answers which
# question. Whether tasks that are all healthy should share a network is another question: that of notebook 06.
