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
# # Three lessons of multi-task learning
#
# Engineers who train one network for several tasks meet three problems. Each section shows one of them, and the line
# that solves it. The whole notebook takes about a minute on one core.

# %%
import csv
import logging
import warnings
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch.optim import Adam

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, LeNet, MLPHead, SharedBottom
from mtl_lightning.balancing import Balancer, UncertaintyWeighting
from mtl_lightning.callbacks import DeadUnits
from mtl_lightning.data import MultiDigit, SyntheticRegression
from mtl_lightning.tasks import Regression

for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")
torch.set_num_threads(1)


def fit(data, epochs, callbacks=(), **arguments):
    """Train a module on `data`; return it, the recorded rows, and its test metrics."""
    seed_everything(0)
    module = MultiTaskModule(tasks=data.tasks, input_spec=data.input_spec, **arguments)
    logger = CSVLogger("lightning_logs")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        max_epochs=epochs, logger=logger, callbacks=list(callbacks), log_every_n_steps=10, accelerator="cpu", **quiet
    )
    trainer.fit(module, data)
    (tested,) = trainer.test(module, data, verbose=False)
    with open(Path(logger.log_dir) / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    return module, rows, tested


def curve(rows, tag):
    """Return the steps and the values of a tag, to be plotted."""
    return [int(row["step"]) for row in rows], [float(row[tag]) for row in rows]


# %% [markdown]
# ## 1. Losses on different scales: learn each task's weight
#
# Two digits in one picture, and as a third task their sum, a regression in plain digits: its squared error starts near
# 100, the cross-entropies of the digits at 2.3. In a plain sum of losses the shared layers serve the sum alone.
# Uncertainty weighting learns a sigma for each task and weighs its loss by it (`1 / (2 sigma^2)` for a squared error,
# `1 / sigma^2` for a cross-entropy). Here sigma starts at what the first batch shows. The log-variances are a group of
# their own, with a larger learning rate.

# %%
with_sum = MultiDigit(sum=True, tasks={"sum": Regression})  # in place of the standardised one that the data declares
network = partial(SharedBottom, encoder=partial(LeNet, channels=(16, 32), width=256))
balancers = {"plain sum": Balancer, "uncertainty weighting": partial(UncertaintyWeighting, init="first_batch")}
rates = {"default": partial(Adam, lr=1e-3), "balancer": partial(Adam, lr=1e-2)}

results = {
    name: fit(with_sum, 10, architecture=network, heads={"default": MLPHead}, balancer=balancer, optimizers=rates)
    for name, balancer in balancers.items()
}
figure, axes = plt.subplots(1, 3, figsize=(14, 3.5))
for axis, tag in zip(axes, ("train/loss/left", "train/loss/sum"), strict=False):
    for name, (_, rows, _) in results.items():
        axis.plot(*curve(rows, tag), label=name)
    axis.set(title=tag, xlabel="update", yscale="log")
    axis.legend()
module, rows, _ = results["uncertainty weighting"]
for task in module.tasks:
    axes[2].plot(*curve(rows, f"train/sigma/{task}"), label=task)
axes[2].set(title="train/sigma", xlabel="update", yscale="log")
axes[2].legend()
for name, (_, _, tested) in results.items():
    accuracy = {task: round(tested[f"test/accuracy/{task}"], 3) for task in ("left", "right")}
    print(f"{name}: test accuracy {accuracy}, RMSE of the sum {tested['test/rmse/sum']:.2f}")

# %% [markdown]
# Sigma means something: on `y1 = 2x + 8` with noise of standard deviation 10 and `y2 = 3x + 3` with noise of 1, it
# becomes the noise.

# %%
module, rows, _ = fit(
    SyntheticRegression(n=1000, batch_size=20),
    40,
    architecture=SharedBottom,
    balancer=UncertaintyWeighting,
    optimizers={"default": partial(Adam, lr=1e-3), "balancer": partial(Adam, lr=2e-2)},
)
for task, truth in {"y1": 10, "y2": 1}.items():
    (line,) = plt.plot(*curve(rows, f"train/sigma/{task}"), label=task)
    plt.axhline(truth, color=line.get_color(), linestyle=":")
plt.title("learned sigma (dotted: the noise in the data)")
plt.xlabel("update")
plt.yscale("log")
plt.legend()
module.sigmas()

# %% [markdown]
# ## 2. Learning rates: one optimizer per task group
#
# Each head is a group with an optimizer of its own. Here the head of `right` is trained at three rates, while
# everything else keeps `1e-3`. A rate that is too small never learns; one that is too large kills the head's ReLU
# units, and the `DeadUnits` callback says so. With one rate for all, `left` would have to live with it.

# %%
digits = MultiDigit()
encoder = partial(SharedBottom, encoder=partial(MLP, hidden=[128]))
accuracies, dead = {}, {}
for rate in (1e-6, 1e-3, 1.0):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, rows, tested = fit(
            digits,
            5,
            callbacks=[DeadUnits()],
            architecture=encoder,
            heads={"default": MLPHead},
            optimizers={"default": partial(Adam, lr=1e-3), "right": partial(Adam, lr=rate)},
        )
    accuracies[rate] = [tested["test/accuracy/left"], tested["test/accuracy/right"]]
    for warning in caught:
        if "ReLU" in str(warning.message):
            print(f"rate {rate}: {warning.message}")

figure, axis = plt.subplots(figsize=(6, 3.5))
for shift, task in ((-0.2, 0), (0.2, 1)):
    heights = [both[task] for both in accuracies.values()]
    axis.bar([i + shift for i in range(3)], heights, width=0.4, label=["left (1e-3)", "right"][task])
axis.set_xticks(range(3), [f"right at {rate:g}" for rate in accuracies])
axis.set(title="test accuracy", ylim=(0, 1))
_ = axis.legend()

# %% [markdown]
# ## 3. Estimates as features: a task reads another's estimate
#
# The third task is the sum of the two digits again, standardised. It is easy for a network that knows both digits, and
# hard from pixels. With `reads` its head sees the estimates of `left` and `right` beside the shared features. The
# gradient stops in between, so that the sum cannot bend the digits' heads to its own use.

# %%
three = MultiDigit(sum=True)
errors = {}
for name, reads in {"pixels only": None, "reads left and right": {"sum": ["left", "right"]}}.items():
    _, rows, tested = fit(three, 10, architecture=network, reads=reads, heads={"default": MLPHead})
    errors[name] = tested["test/rmse/sum"]
    plt.plot(*curve(rows, "train/loss/sum"), label=name)
plt.title("loss of the sum")
plt.xlabel("update")
plt.yscale("log")
plt.legend()
print({name: round(error, 2) for name, error in errors.items()}, "test RMSE of the sum, in digits")

# %% [markdown]
# The same three lessons in YAML are in `configs/multidigit.yaml`; run it with
# `mtl-lightning fit --config configs/multidigit.yaml`.
