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
# # Your own encoder in every architecture
#
# An encoder maps inputs to features; an architecture says how tasks share it. Any `nn.Module` that returns one tensor
# is an encoder: it needs no base class, no sizes and no registration. This notebook trains one of ten lines with each
# kind of architecture, on two digits in one picture. It takes about a minute on one core.

# %%
import logging
import warnings
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import (
    AITM,
    CGC,
    MTAN,
    PLE,
    CrossStitch,
    DSelectK,
    LearningToBranch,
    MMoE,
    SharedBottom,
    SingleTaskNetworks,
)
from mtl_lightning.cli import main
from mtl_lightning.data import MultiDigit
from mtl_lightning.types import ConfigurationError

for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")
torch.set_num_threads(1)
plt.rcParams["figure.dpi"] = 72

data = MultiDigit(sizes=(3000, 500, 1000), batch_size=100)
data.input_spec


# %% [markdown]
# ## 1. Ten lines
#
# A plain module. It knows nothing of tasks, of this library, or of Lightning. The size of its features is found by one
# trial run on made rows of `data.input_spec`; an attribute `out_features` would save that.


# %%
class MyEncoder(nn.Module):
    """Two convolutions and a linear layer: pictures (B, 1, H, W) to features (B, 64)."""

    def __init__(self, channels=8):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.second = nn.Sequential(nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.last = nn.Sequential(nn.Flatten(), nn.LazyLinear(64), nn.ReLU())

    def forward(self, pictures):
        return self.last(self.second(self.first(pictures)))


def fit(architecture, epochs=4):
    """Train with one architecture; return the module and the mean test accuracy of both digits."""
    seed_everything(0, verbose=False)
    module = MultiTaskModule(
        tasks=data.tasks,
        input_spec=data.input_spec,
        architecture=architecture,
        optimizers={"default": partial(Adam, lr=3e-3)},
        schedulers={"default": partial(CosineAnnealingLR, T_max=epochs)},
    )
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", logger=False, limit_val_batches=0, **quiet)
    trainer.fit(module, data)
    (tested,) = trainer.test(module, data, verbose=False)
    return module, sum(tested[f"test/accuracy/{task}"] for task in data.tasks) / len(data.tasks)


# %% [markdown]
# ## 2. Architectures that share whole encoders
#
# These take the class as it stands. Where an architecture needs several encoders (one per task, or one per expert),
# it makes several, each with weights of its own. Arguments go into a `partial`: `partial(MyEncoder, channels=16)`. An
# instance, `MyEncoder()`, is taken too: it serves as the first encoder, and the others are copies of it that draw new
# weights.
#
# Everything is shared at one end and nothing at the other; in between, gates mix the features of several encoders, or
# tasks hand features on in a chain.

# %%
whole = {
    "SharedBottom": partial(SharedBottom, encoder=MyEncoder),
    "MMoE": partial(MMoE, encoder=MyEncoder, num_experts=3),
    "CGC": partial(CGC, encoder=MyEncoder),
    "DSelectK": partial(DSelectK, encoder=MyEncoder, num_experts=3),
    "AITM": partial(AITM, encoder=partial(MyEncoder, channels=8)),
    "SingleTaskNetworks": partial(SingleTaskNetworks, encoder=MyEncoder()),
}
results = {name: fit(architecture) for name, architecture in whole.items()}
for name, (_, accuracy) in results.items():
    print(f"{name:>18}  {accuracy:.3f}")


# %%
def draw(results, title):
    """Draw test accuracies, and how many parameters are shared and how many are one task's."""
    _, (left, right) = plt.subplots(1, 2, figsize=(12, 3), layout="constrained")
    names = list(results)
    left.barh(names, [accuracy for _, accuracy in results.values()])
    left.set(title=f"test accuracy, {title}", xlim=(0, 1))
    counts = [
        [sum(p.numel() for p in named.values()) for named in (module.roles.shared, *module.roles.tasks.values())]
        for module, _ in results.values()
    ]
    start = [0] * len(names)
    for part, label in enumerate(["shared", *(f"of {task}" for task in data.tasks)]):
        widths = [count[part] for count in counts]
        right.barh(names, widths, left=start, label=label)
        start = [a + b for a, b in zip(start, widths, strict=True)]
    right.set(title="parameters by role")
    right.legend()


draw(results, "whole encoders")

# %% [markdown]
# ## 3. Architectures that join the tasks between stages
#
# `CrossStitch`, `MTAN`, `LearningToBranch` and `PLE` work layer by layer, so they must know the layers. `MyEncoder`
# does not say which these are, and the error tells what is missing:

# %%
try:
    fit(partial(CrossStitch, encoder=MyEncoder))
except ConfigurationError as error:
    print(error)


# %% [markdown]
# All that it takes is to list them, in the order in which they run. The list is checked against `forward` on a trial
# run, so that nothing that happens outside a stage gets lost. (An `nn.Sequential` is its own list.)


# %%
class MyStages(MyEncoder):
    """The same encoder, with its stages listed."""

    def __init__(self, channels=8):
        super().__init__(channels)
        self.stages = [self.first, self.second, self.last]


staged = {
    "CrossStitch": partial(CrossStitch, encoder=MyStages),
    "MTAN": partial(MTAN, encoder=MyStages),
    "PLE": partial(PLE, encoder=MyStages),
    "LearningToBranch": partial(LearningToBranch, encoder=MyStages, warmup=30, period=30),
}
joined = {name: fit(architecture) for name, architecture in staged.items()}
for name, (_, accuracy) in joined.items():
    print(f"{name:>18}  {accuracy:.3f}")
print("the tree that LearningToBranch came to:", joined["LearningToBranch"][0].architecture.tree())
draw(joined, "joined stage by stage")

# %% [markdown]
# Four epochs on 3000 pictures are no contest: with one seed, differences of a few hundredths mean little. The point is
# that every line of these tables is the same encoder with one name changed.

# %% [markdown]
# ## 4. The same in YAML
#
# A class of yours is named by where Python finds it: here a file `my_encoder.py`, beside which the command is run.
# (`python -m mtl_lightning` looks in the folder that it is run in; for the script `mtl-lightning` put your folder on
# `PYTHONPATH`, or install your package.) Its arguments are checked like those of the library's own classes. `main` is
# what both of them run.

# %%
Path("my_encoder.py").write_text("""\
from torch import nn


class MyLayers(nn.Sequential):
    def __init__(self, channels: int = 8) -> None:
        super().__init__(
            nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Flatten(), nn.LazyLinear(64), nn.ReLU()),
        )
""")
Path("my_config.yaml").write_text("""\
seed_everything: 0
test_after_fit: true
data:
  class_path: MultiDigit
  init_args: {sizes: [3000, 500, 1000], batch_size: 100}
model:
  architecture:
    class_path: CrossStitch
    init_args:
      encoder: {class_path: my_encoder.MyLayers, init_args: {channels: 8}}
  optimizers:
    default: {class_path: Adam, init_args: {lr: 3.0e-3}}
  schedulers:
    default: {class_path: CosineAnnealingLR, init_args: {T_max: 4}}
trainer:
  max_epochs: 4
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
""")
main(["fit", "--config", "my_config.yaml", "--trainer.accelerator=cpu"])

# %% [markdown]
# ## 5. What the architecture made of it
#
# Two of the networks looked at from inside: what the gates of MMoE give each task, and how far CrossStitch has moved
# from where it began (0.9 of a task's own features, 0.1 of the other's).

# %%
mmoe, stitched = results["MMoE"][0].architecture, joined["CrossStitch"][0].architecture
pictures = next(iter(data.test_dataloader()))["inputs"]
with torch.no_grad():
    weights = torch.stack([gate(mmoe.gate_input(pictures)).mean(0) for gate in mmoe.gates.values()])
    matrices = [torch.stack(list(stitch.rows)) for stitch in stitched.stitches]
_, axes = plt.subplots(1, 1 + len(matrices), figsize=(11, 2.6), layout="constrained")
for axis, title, matrix in zip(
    axes,
    ["mean weight of MMoE's experts", "CrossStitch, first joint", "second joint"],
    [weights, *matrices],
    strict=True,
):
    axis.imshow(matrix, vmin=0, vmax=1)
    axis.set(title=title, yticks=range(2), yticklabels=list(data.tasks), xticks=range(matrix.shape[1]))
    for (row, column), value in [((r, c), float(matrix[r, c])) for r in range(2) for c in range(matrix.shape[1])]:
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.5 else "black")
