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
# # Which tasks should share?
#
# Tasks in one network may help each other, or be in each other's way. There are cheap signs of either in a single run,
# and there is a judge: the same tasks trained apart. This notebook asks the signs first, on six tasks of which we know
# who belongs together, and then the judge; last come two digits and their sum, of which we do not know. The whole
# notebook takes about half a minute on one core.

# %%
import csv
import logging
import warnings
from functools import partial
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.optim import Adam

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, GroupedNetworks, LearningToBranch, SharedBottom, SingleTaskNetworks
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.callbacks import Conflict, TaskAffinity
from mtl_lightning.data import MultiDigit, MultiTaskDataModule, TensorRows
from mtl_lightning.metrics import relative_differences
from mtl_lightning.tasks import Regression
from mtl_lightning.types import TargetSpec, TensorSpec, input_spec_to_dict

for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")
torch.set_num_threads(1)
plt.rcParams["figure.dpi"] = 72

# %% [markdown]
# ## 1. Six tasks, two of a kind
#
# Three tasks are one hidden quantity of twelve inputs, noisy and in another scale each; three are another. They come in
# no order. 300 rows for training, and a layer of nine units, which is narrow for two quantities.


# %%
class Six(MultiTaskDataModule):
    """Tasks a0, a1, a2 of one quantity and b0, b1, b2 of another; the seed draws the problem and the rows."""

    def __init__(self, seed):
        super().__init__(batch_size=64, seed=seed)

    def read_schema(self):
        return {"input_spec": input_spec_to_dict(TensorSpec((12,)))}

    def declared_tasks(self):
        return dict.fromkeys(
            ("b1", "a0", "a2", "b0", "a1", "b2"), (TargetSpec(), partial(Regression, standardize=True))
        )

    def rows(self, split):
        random = torch.Generator().manual_seed(self.seed)
        directions, _ = torch.linalg.qr(torch.randn(12, 4, generator=random))
        random.manual_seed(1000 + 10 * self.seed + ("train", "val", "test").index(split))
        inputs = torch.randn({"train": 300, "val": 100, "test": 2000}[split], 12, generator=random)
        waves = (inputs @ directions).sin()
        hidden = {"a": waves[:, :2].sum(1), "b": waves[:, 2:].sum(1)}
        noise = {name: 0.3 * torch.randn(len(inputs), generator=random) for name in sorted(self.declared_tasks())}
        return TensorRows(inputs, {name: (1 + int(name[1])) * (hidden[name[0]] + noise[name]) for name in noise})


def fit(data, epochs=20, rate=1e-2, callbacks=(), **arguments):
    """Train; return the module, the test metrics, and the rows that were recorded."""
    seed_everything(data.seed, verbose=False)
    optimizers = {"default": partial(Adam, lr=rate)}
    module = MultiTaskModule(tasks=data.tasks, input_spec=data.input_spec, optimizers=optimizers, **arguments)
    logger = CSVLogger("lightning_logs") if callbacks else False
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        max_epochs=epochs, callbacks=[*callbacks], logger=logger, limit_val_batches=0, accelerator="cpu", **quiet
    )
    trainer.fit(module, data)
    (tested,) = trainer.test(module, data, verbose=False)
    rows = []
    if logger:
        with open(Path(logger.log_dir) / "metrics.csv") as file:
            rows = list(csv.DictReader(file))
    return module, tested, rows


narrow = partial(MLP, hidden=[9], activation=nn.Tanh)
NAMES = [*Six(0).tasks]

# %% [markdown]
# ## 2. Signs from one run
#
# Two callbacks look on while one network learns all six. `TaskAffinity` tries a step for each task alone, and notes by
# how much it lowers each other's loss; `Conflict` compares the directions of their gradients in the shared layer.
# Neither changes anything of the run.

# %%
affinity = TaskAffinity(every_n_steps=5, max_networks=2)
together = partial(SharedBottom, encoder=narrow)
_, _, rows = fit(Six(0), architecture=together, callbacks=[affinity, Conflict(every_n_steps=5)])


def mean(tag):
    """Return the mean of what was recorded under a tag; nan where nothing was."""
    values = torch.tensor([float(row[tag]) for row in rows if row.get(tag)])
    return float(values.mean())


def cosine(one, other):
    """Return the mean cosine of two tasks' gradients, which is recorded once for both."""
    found = (mean(f"watch/cosine/{a}/{b}") for a, b in ((one, other), (other, one)))
    return 1.0 if one == other else next(value for value in found if value == value)


def draw(axis, values, title, largest):
    """Draw a matrix of tasks by tasks, in the order of their names, blue above 0 and red below."""
    axis.imshow(values, cmap="RdBu", vmin=-largest, vmax=largest)
    axis.set(title=title, xticks=range(6), xticklabels=sorted(NAMES), yticks=range(6), yticklabels=sorted(NAMES))


def by_name(value):
    """Return a matrix of what a function gives for each two tasks."""
    return [[value(one, other) for other in sorted(NAMES)] for one in sorted(NAMES)]


figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
draw(axes[0], by_name(lambda one, other: affinity.matrix[one][other]), "affinity, of a row onto a column", 0.003)
draw(axes[1], by_name(cosine), "cosines of gradients", 1)
for kind in ("a", "b"):
    own = [cosine(kind + x, kind + y) for x, y in ("01", "02", "12")]
    print(f"mean cosine within {kind}: {sum(own) / 3:.2f}")
across = [cosine(f"a{x}", f"b{y}") for x in range(3) for y in range(3)]
print(f"mean cosine between a and b: {sum(across) / 9:.2f}")
print("proposed networks:", [sorted(tasks) for tasks in affinity.split.values()])

# %% [markdown]
# Both show the two blocks, and the proposal is right. (The run's folder has it as `split.yaml` too, a config for `fit`
# and `compare`.) Between the groups the cosines are near 0: no conflict, nothing that a warning would tell. The tasks
# do not fight; if they are in each other's way, it is for room.
#
# An architecture that learns where to branch comes to a tree. Learned noise levels are a sign of something else:

# %%
deep = partial(MLP, hidden=[9, 9, 9], activation=nn.Tanh)
branching = partial(LearningToBranch, encoder=deep, warmup=40, period=40)
pairs = []
for seed in range(3):
    module, _, _ = fit(Six(seed), epochs=40, architecture=branching)
    second = module.architecture.tree()[1]
    pairs += [one[0] == other[0] for tasks in second for one, other in combinations(tasks, 2)]
print(f"pairs that share a second layer, of three seeds: {sum(pairs)} of one kind, {len(pairs) - sum(pairs)} of both")
learning = partial(UncertaintyWeighting, init="first_batch")
module, _, _ = fit(Six(0), architecture=together, balancer=learning)
print("sigma:", {name: round(module.sigmas()[name], 2) for name in sorted(NAMES)})

# %% [markdown]
# The branches keep the kinds apart as well, though they join few: of one kind there are 18 pairs in all. Sigma says how
# noisy a task is, for this network. All six are alike in that, so that nobody can see two groups in it: it weighs
# tasks, and does not match them.
#
# ## 3. The judge: alone, together, split
#
# Each way with three seeds, each of which draws another problem. Delta-m is by how many per cent the test errors are
# worse than those of a network for each task, in the mean of the tasks: below 0 is better than alone. To be fair, a
# shared network of twice the width is tried as well, since two networks have twice the units; and a wrong split.


# %%
def compare(make, ways, metrics, **options):
    """Return by how many per cent each metric is worse than the first way's: (seeds, tasks) of each way."""
    names, found = [f"test/{metric}/{task}" for task, metric in metrics.items()], {}
    for way, arguments in ways.items():
        tested = [fit(make(seed), **arguments, **options)[1] for seed in range(3)]
        found[way] = torch.tensor([[metrics_[name] for name in names] for metrics_ in tested])
    alone, better = next(iter(found.values())), [metric == "accuracy" for metric in metrics.values()]
    return {
        way: torch.stack([relative_differences(*rows, better) for rows in zip(values, alone, strict=True)])
        for way, values in found.items()
    }


wide = partial(MLP, hidden=[18], activation=nn.Tanh)
wrong = {"one": ["a0", "a1", "b2"], "two": ["b0", "b1", "a2"]}
ways = {
    "alone": {"architecture": partial(SingleTaskNetworks, encoder=narrow)},
    "together": {"architecture": together},
    "together, twice as wide": {"architecture": partial(SharedBottom, encoder=wide)},
    "split as proposed": {"architecture": partial(GroupedNetworks, encoder=narrow, groups=affinity.split)},
    "split wrongly": {"architecture": partial(GroupedNetworks, encoder=narrow, groups=wrong)},
}
worse = compare(Six, ways, dict.fromkeys(NAMES, "rmse"))
figure, axis = plt.subplots(figsize=(7, 2.4), layout="constrained")
print(f"{'Delta-m':>24}   each seed")
for height, (way, values) in enumerate(worse.items()):
    seeds = values.mean(1)
    print(f"{way:>24} {seeds.mean():6.1f} %", *(f"{value:6.1f}" for value in seeds))
    axis.plot(seeds, [height] * len(seeds), "o")
axis.axvline(0, color="black", linewidth=0.8)
axis.set(yticks=range(len(ways)), yticklabels=ways, xlabel="Delta-m in %: right is worse than alone")
axis.invert_yaxis()

# %% [markdown]
# - **All together costs**: 3 to 8 %, in every seed. Twice the width takes much of it back in two of three.
# - **Split as proposed is the best**, and better than all together in every seed. Better than alone? In two seeds of
#   three, which is no proof.
# - **The wrong split is as bad as all together.** So it is not the second network that helps, but who is in it.
#
# `mtl-lightning compare` makes such a table with intervals, says which differences it can tell, and trains the networks
# for each task by itself. An entry of it is `split: lightning_logs/version_0/split.yaml`.
#
# ## 4. Two digits and their sum
#
# Now tasks of which nobody knows. They seem made for each other: who knows both digits knows the sum. The digits'
# accuracy and the error of the sum, in per cent worse than alone:


# %%
def digits(seed):
    """Return pictures of two digits, with a third task, their sum."""
    return MultiDigit(sum=True, sizes=(2000, 200, 2000), batch_size=100, seed=seed)


def network(architecture, width=64):
    """Return the argument for an architecture around a layer of some width."""
    return {"architecture": partial(architecture, encoder=partial(MLP, hidden=[width]))}


ways = {
    "alone": network(SingleTaskNetworks),
    "together": network(SharedBottom),
    "three times as wide": network(SharedBottom, width=192),
    "apart, sum reads digits": {**network(SingleTaskNetworks), "reads": {"sum": ["left", "right"]}},
}
metrics = {"left": "accuracy", "right": "accuracy", "sum": "rmse"}
worse = compare(digits, ways, metrics, epochs=10, rate=3e-3)
figure, axes = plt.subplots(1, 3, figsize=(11, 2.2), sharey=True, layout="constrained")
print(f"{'mean of three seeds':>24}", *(f"{task:>7}" for task in metrics))
for height, (way, values) in enumerate(worse.items()):
    print(f"{way:>24}", *(f"{value:5.1f} %" for value in values.mean(0)))
    for axis, column in zip(axes, values.T, strict=True):
        axis.plot(column, [height] * len(column), "o")
for axis, task in zip(axes, metrics, strict=True):
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(title=task, yticks=range(len(ways)), yticklabels=ways, xlabel="% worse than alone")
axes[0].invert_yaxis()

# %% [markdown]
# Together they are worse than alone, all three of them. Made as wide as three networks, the shared layer does the
# digits hardly any harm, but the sum still loses. What it needs of the digits is not their layer, but their estimates:
# with `reads` it is better than alone, and the digits are what they were, since no gradient passes.
#
# So relatedness that one can name is no reason to share a layer, and a conflict that one can measure is not the only
# reason not to. What to take from this:
#
# 1. Train each task alone, first of all, with several seeds: no sign from within one run tells what sharing costs.
# 2. If sharing costs, try a wider network before a cleverer one.
# 3. With many tasks let `TaskAffinity` propose who goes together, and judge the proposal like any other.
# 4. Where a task needs another's answer, let it read that.
#
# And if one network is to be served in place of three, "no worse than alone" is all that sharing has to be. The guide
# `docs/guides/sharing_hurts.md` has the causes and remedies in a table.
