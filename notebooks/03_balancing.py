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
# # Balancing methods, seen from above
#
# A balancer decides how the losses of several tasks become one update. Here eight of them descend a landscape of two
# parameters, where one can watch what they do; then the same eight train a network, with one line changed each. The
# whole notebook takes two to three minutes on one core.

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
from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.balancing import FAMO, IMTLG, MGDA, Balancer, CAGrad, NashMTL, PCGrad, UncertaintyWeighting
from mtl_lightning.data import SyntheticRegression, TwoTaskLandscape

for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")
torch.set_num_threads(1)
plt.rcParams["figure.dpi"] = 72

# %% [markdown]
# ## 1. Two losses of two parameters
#
# The problem is that of [CAGrad](https://arxiv.org/abs/2110.14048), with the first loss scaled by 0.1, as in
# [Nash-MTL](https://arxiv.org/abs/2202.01017): the tasks disagree on where to go, and one of them is ten times as loud.
# The upper half is a plateau with one narrow valley per task. The lower half has a bowl for each task, at
# $x_1 = 7$ and $x_1 = -7$. Between the bowls, near $x_2 = -8.4$, lies the Pareto set (black): from there, no step makes
# one task better and the other no worse. Every point of it is a fair end; which one is a matter of taste. Dots are the
# five starts of the literature.

# %%
landscape = TwoTaskLandscape(scale=0.1)
lowest = torch.tensor(landscape.bounds)  # what the losses, which are negative at the bottom, never go below
axis = torch.linspace(-11, 11, 300)
grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
heights = landscape.losses(grid)
front = torch.stack([torch.linspace(-7, 7, 50), -8.35 - 0.08 * torch.linspace(-1, 1, 50) ** 2], 1)


def draw(axis_, values, title):
    """Draw the contours of a loss, the Pareto set and the starts."""
    axis_.contour(grid[..., 0], grid[..., 1], values, levels=25, cmap="viridis", alpha=0.5, linewidths=0.8)
    axis_.plot(*front.T, color="black", linewidth=3, zorder=3)
    axis_.plot(*landscape.starts().T, "o", color="black", markersize=4, zorder=4)
    axis_.set(title=title, xlim=(-11, 11), ylim=(-11, 11))


figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
draw(axes[0], heights[..., 0], "first loss (scaled by 0.1)")
draw(axes[1], heights[..., 1], "second loss")
draw(axes[2], heights.sum(-1), "their sum: mostly the second loss")

# %% [markdown]
# ### A balancer without a Trainer
#
# A balancer works in any loop. Its `objective`, which is what calling it returns, weighs the losses; its `gradient`
# makes one gradient of the tasks' weighted ones, for most methods by adding them. `after_update` is for methods that
# look back at what the step did. One loop serves them all.
#
# The published runs take 35,000 steps of Adam at a rate of 0.001. Here time runs five times as fast: the rate and what
# Adam's averages forget per step are five times as large, and the ends are nearly the same. Methods that read the
# losses' values get them above `lowest`, since these methods assume that losses are not negative.

# %%
methods = {
    "sum": Balancer,
    "UncertaintyWeighting": UncertaintyWeighting,
    "FAMO": partial(FAMO, lr=5 * 0.025),
    "PCGrad": PCGrad,
    "CAGrad": partial(CAGrad, c=0.4),
    "MGDA": MGDA,
    "IMTLG": IMTLG,
    "NashMTL": NashMTL,
}


def descend(methods, steps=7000, rate=5e-3):
    """Return each method's trajectories (steps / 10, 5, 2) from the five starts."""
    points = landscape.starts().repeat(len(methods), 1).requires_grad_()
    balancers = [make(2) for make in methods.values() for _ in landscape.starts()]
    learned = [parameter for balancer in balancers for parameter in balancer.parameters()]
    optimizer = Adam([points, *learned], lr=rate, betas=(0.5, 0.995))
    present = torch.ones(2, dtype=torch.bool)
    paths = []
    for step in range(steps):
        if step % 10 == 0:
            paths.append(points.detach().clone())
        losses, gradients = landscape.differentiate(points)
        losses = (losses - lowest).requires_grad_()
        optimizer.zero_grad()
        sum(balancer(loss) for balancer, loss in zip(balancers, losses, strict=True)).backward()
        rows = losses.grad.unsqueeze(-1) * gradients
        points.grad = torch.stack(
            [
                b.gradient(row, loss, present) if b.rows else row.sum(0)
                for b, row, loss in zip(balancers, rows, losses, strict=True)
            ]
        )
        optimizer.step()
        after = landscape.losses(points.detach()) - lowest
        for balancer, loss in zip(balancers, after, strict=True):
            balancer.after_update(lambda loss=loss: loss)
    return dict(zip(methods, torch.stack([*paths, points.detach()]).split(5, dim=1), strict=True))


paths = descend(methods)

# %%
figure, axes = plt.subplots(2, 4, figsize=(14, 7.2), sharex=True, sharey=True, layout="constrained")
for axis_, (name, path) in zip(axes.flat, paths.items(), strict=True):
    draw(axis_, heights[..., 0] / landscape.scale + heights[..., 1], name)
    for start in range(5):
        axis_.plot(*path[:, start].T, linewidth=1.5, zorder=5)
        axis_.plot(*path[-1, start], "*", color="red", markersize=11, zorder=6)
figure.suptitle("stars: ends after 7,000 steps (contours: both losses at equal scale)")

print("end points (x1, x2) from each start")
for name, path in paths.items():
    print(f"{name:>21}", "  ".join(f"({x1:6.2f},{x2:6.2f})" for x1, x2 in path[-1].tolist()))

# %% [markdown]
# The same ends as losses. The line is the Pareto set: nothing lies below and left of it, and ends that are far above
# it are stuck.

# %%
figure, axis_ = plt.subplots(figsize=(8, 5), layout="constrained")
axis_.plot(*landscape.losses(front).T, color="black", linewidth=1, label="Pareto set")
for (name, path), marker in zip(paths.items(), "oXPsDv^*", strict=True):
    axis_.plot(*landscape.losses(path[-1]).T, marker, label=name, markersize=8, alpha=0.7)
axis_.set(xlabel="first loss (scaled by 0.1)", ylabel="second loss", title="losses at the ends")
_ = axis_.legend()

# %% [markdown]
# What one sees, in one run each, with one optimizer and one rate:
#
# - **The sum and CAGrad serve the loud loss.** Four starts end at $x_1 = -5.73$, the minimum of the sum, which is
#   close to the optimum of the second task. Nothing went wrong there: it is what was asked for. Two fixed weights, 10
#   and 1, would ask for the middle.
# - **From the third start (top right) five methods are still on the plateau**, on the floor of a valley or at the end
#   of one: sum, uncertainty weighting, FAMO, PCGrad and CAGrad. Uncertainty weighting and FAMO are still there from the
#   first start (top left), too. With more steps they may come down; within these they do not.
# - **MGDA, IMTL-G and Nash-MTL reach the Pareto set from everywhere.** MGDA stops wherever it meets the set, for two
#   starts at the optimum of one task. IMTL-G and Nash-MTL do not depend on the losses' scales and end closer to the
#   middle, but they, too, end at different points for different starts. None of these ends is better than another
#   unless somebody says what each task is worth.
# - **Uncertainty weighting and FAMO read the losses' values**, and so depend on `lowest`. Both weigh a loss by about
#   one over its height above it, which favours the task that is ahead: where they come down, they end near one task's
#   optimum. Nor are these losses squared errors: sigma means nothing here.
#
# Adam divides by the gradient's size. So only directions count on this page, not how long a method's updates are.

# %% [markdown]
# ## 2. The same methods in a network
#
# One line changes: `balancer`. The data are two straight lines of one input, $y_1 = 2x + 8$ with noise of standard
# deviation 10 and $y_2 = 3x + 3$ with noise of 1: in the sum of squared errors, the first task is a hundred times as
# loud, and most of that is noise. No model can have a test error (RMSE) below 10 and 1.

# %%
data = SyntheticRegression(n=500, n_test=5000, batch_size=50)


def fit(balancer, seed=0):
    """Train with a balancer; return the epochs' validation errors of both tasks, and the test errors."""
    seed_everything(seed)
    module = MultiTaskModule(
        tasks=data.tasks,
        input_spec=data.input_spec,
        architecture=partial(SharedBottom, encoder=partial(MLP, hidden=[64, 64])),
        balancer=balancer,
        optimizers={"default": partial(Adam, lr=3e-3), "balancer": partial(Adam, lr=2e-2)},
    )
    logger = CSVLogger("lightning_logs")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(max_epochs=20, logger=logger, log_every_n_steps=10, accelerator="cpu", **quiet)
    trainer.fit(module, data)
    (tested,) = trainer.test(module, data, verbose=False)
    with open(Path(logger.log_dir) / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["val/rmse/y1"]]
    curves = {task: [float(row[f"val/rmse/{task}"]) for row in rows] for task in data.tasks}
    return curves, {task: tested[f"test/rmse/{task}"] for task in data.tasks}


results = {name: fit(balancer) for name, balancer in {**methods, "FAMO": FAMO}.items()}

figure, axes = plt.subplots(1, 2, figsize=(13, 4), layout="constrained")
for axis_, task in zip(axes, data.tasks, strict=True):
    for name, (curves, _) in results.items():
        axis_.plot(curves[task], label=name)
    axis_.set(title=f"validation RMSE of {task}", xlabel="epoch")
axes[1].legend()
print("RMSE of y1 and y2: validation after 3 epochs, test after 20")
for name, (curves, tested) in results.items():
    early = "  ".join(f"{curve[2]:5.2f}" for curve in curves.values())
    print(f"{name:>21}  {early}  |", "  ".join(f"{error:5.2f}" for error in tested.values()))

# %% [markdown]
# In the end it hardly matters: all test errors are within 0.04 of the noise, and with one seed such differences mean
# nothing. A network with room for both tasks has no conflict to resolve. What differs is the beginning. After three
# epochs the sum, uncertainty weighting (whose sigmas start at 1 and have yet to be learned) and PCGrad are late on the
# quiet task; MGDA and, less so, FAMO are late on the loud one; CAGrad, IMTL-G and Nash-MTL are late on neither.
#
# None of this is a ranking. Methods that combine gradients cost one backward pass per task. Where somebody tuned the
# weights of a plain sum as carefully as everything else, it did as well as they did
# ([Kurin et al., 2022](https://arxiv.org/abs/2201.04122), [Xin et al., 2022](https://arxiv.org/abs/2209.11379)). So
# start there, or with uncertainty weighting; try the others when one task is starved, and look at `val/loss/<task>` of
# every task to see whether they help.
