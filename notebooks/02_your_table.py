# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A table of your own
#
# Several things to predict from the rows of a table of flats: the price, how it is heated, its condition from poor to
# as new, how many people come to see it, whether it is sold within two months, and after how many days, of which we
# know for some only that they are not over. Inputs are of every kind: numbers, money, categories, an id of many levels,
# a list, a place of two numbers, a date, free text. Some labels are missing, some rows are more trustworthy than
# others, and the flats to predict come in another file, with a city that training never saw. No line of the model has
# a size in it, and all of it can be said in YAML instead, at the end. The whole notebook takes about a minute.

# %%
import csv
import logging
import warnings
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet as pq
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch.optim import Adam

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import SharedBottom, TabularEncoder
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.callbacks import PredictionWriter
from mtl_lightning.data import TableData, TableSplit, TargetColumn

for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")
warnings.showwarning = lambda message, *_, **__: print(message)  # without the line of code that gives it
torch.set_num_threads(1)
plt.rcParams["figure.dpi"] = 72

# %% [markdown]
# ## 1. The table
#
# Three CSV files in a folder. A field that is empty, or `?`, is missing. Two fifths of the prices are missing, as are a
# fifth of the other labels.

# %%
random = np.random.default_rng(0)
CITIES = {"Bonn": 3.2, "Jena": 2.4, "Ulm": 4.1, "Kiel": 2.9}  # thousands per square metre
EXTRAS = {"lift": 8, "balcony": 15, "cellar": 4, "garden": 25}  # thousands
LEVELS = ["poor", "fair", "good", "as new"]
SAID = {"dark": -1, "worn": -1, "quiet": 0, "central": 0, "bright": 1, "renovated": 1}
SKILL = np.random.default_rng(1).normal(0, 0.5, 300)  # of the agents


def flats(rows, cities=tuple(CITIES)):
    """Return a table of flats, column by column; all labels are there."""
    city, agent = random.choice(cities, rows), random.integers(0, len(SKILL), rows)
    area, built = random.normal(80, 25, rows).clip(20).round(1), random.integers(1900, 2024, rows)
    has, said = random.random((rows, len(EXTRAS))) < 0.3, random.choice([*SAID], (rows, 2))
    state = np.array([SAID[a] + SAID[b] for a, b in said]) + (built - 1962) / 40 + random.logistic(0, 0.5, rows)
    price = area * np.array([CITIES.get(name, 3.0) for name in city]) * (0.7 + (built - 1900) / 200)
    place = random.normal(0, 1, (rows, 2)).round(2)  # kilometres from the centre
    price = (price - 12 * np.hypot(*place.T) + has @ np.array([*EXTRAS.values()])) * random.lognormal(0, 0.1, rows)
    wanted = 0.6 * state - 0.4 * (price / area - 3.2) + SKILL[agent]
    days = (random.exponential(40 * np.exp(-wanted)) + 0.1).round(1)
    words = [f"{a} and {b} flat, {size:.0f} m2" for (a, b), size in zip(said, area, strict=True)]
    return {
        "area": area,
        "city": city,
        "built": built,
        "street": [f"street {i}" for i in random.integers(0, 400, rows)],
        "agent": 9_000_000 + 17 * agent,
        "extras": ["|".join(np.array([*EXTRAS])[row]) for row in has],
        "place": [f"{east} {north}" for east, north in place],
        "listed": np.datetime64("2023-01-01") + random.integers(0, 700, rows),
        "title": words,
        "source": random.choice(["agency", "owner"], rows),
        "price": [f"€{value * 1000:,.0f}" for value in price],
        "heating": np.array(["coal", "gas", "heat pump"])[
            np.digitize(built + random.normal(0, 12, rows), [1950, 1995])
        ],
        "condition": np.array(LEVELS)[np.digitize(state, [-1.5, 0, 1.5])],
        "viewings": random.poisson(np.exp(1.2 + 0.5 * wanted)),
        "sold": np.where(wanted + random.logistic(0, 0.5, rows) > 0, "yes", "no"),
        "days": days.clip(max=90),
        "gone": np.where(days < 90, "true", "false"),
    }


def write(path, table, hidden=()):
    """Write a table; of the columns in `hidden` leave out a share of the fields."""
    columns = {name: [str(value) for value in values] for name, values in table.items()}
    for name, (share, spelling) in dict(hidden).items():
        columns[name] = [spelling if random.random() < share else value for value in columns[name]]
    Path(path).parent.mkdir(exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])


gaps = {"price": (0.4, ""), "heating": (0.2, ""), "condition": (0.2, ""), "viewings": (0.2, ""), "built": (0.1, "?")}
for part in range(3):
    table = flats(2000)
    table["trust"] = np.where(table["source"] == "agency", 1.0, 0.5)
    write(f"flats/{part}.csv", table, gaps)
print(Path("flats/0.csv").read_text(encoding="utf-8")[:480])

# %% [markdown]
# ## 2. What is known of it
#
# The targets are named, with what cannot be seen from their values: that the levels of the condition have an order.
# Of the inputs five are declared: an id of many levels, a list, a place of two numbers, free text, and the year, which
# the network is given by its tenths, too; and that €231,860 is not 231.86. The rest is guessed from the training rows:
# kinds of columns, categories, means, classes, and the task that fits each target. `trust` becomes the weight of a
# row. No street is in two splits, so that the network cannot know a validation flat
# by its neighbours.

# %%
data = TableData(
    path="flats",
    targets={
        "price": TargetColumn(kind="number"),
        "heating": TargetColumn(),
        "condition": TargetColumn(order=LEVELS),
        "viewings": TargetColumn(kind="count"),
        "sold": TargetColumn(),
        "gone": TargetColumn(column="days", event="gone"),
    },
    hashed={"agent": 1000},
    lists={"extras": "|"},
    vectors={"place": " "},
    buckets={"built": 10},
    text=["title"],
    weights="trust",
    missing_values=["?"],
    thousands=",",
    split=TableSplit(fractions=(0.7, 0.15, 0.15), group="street"),
    batch_size=128,
)
for name, task in data.tasks.items():
    print(f"{name}: {type(task).__name__}, {task.spec.names or 'no names'}")
print("guessed:", data.schema["guessed"])
print("left out:", data.schema["ignored"])
batch = next(iter(data.train_dataloader()))
print("a batch:", {name: tuple(tensor.shape) for name, tensor in batch["inputs"].items()})
print("price:", batch["targets"]["price"][:6], "\nviewings: ", batch["targets"]["viewings"][:6])

# %% [markdown]
# A missing label is `nan` in a float target and `-100` in an integer one; the losses and metrics of that task leave it
# out.

# %%
train = data.rows("train")
labelled = {name: int(task.labelled(train.target(name)).sum()) for name, task in data.tasks.items()}
plt.figure(figsize=(6, 2))
plt.barh(list(labelled), list(labelled.values()))
plt.axvline(len(train), linestyle=":", color="gray")
plt.title("labels in training (dotted: rows)")
labelled

# %% [markdown]
# ## 3. Train
#
# One network for the six tasks; the learned weights take care that a squared error, cross-entropies and the likelihoods
# of counts and of times go together.

# %%
seed_everything(0)
module = MultiTaskModule(
    tasks=data.tasks,
    input_spec=data.input_spec,
    architecture=partial(SharedBottom, encoder=TabularEncoder),
    balancer=UncertaintyWeighting,
    optimizers={"default": partial(Adam, lr=3e-3), "balancer": partial(Adam, lr=1e-2)},
)
logger = CSVLogger("lightning_logs")
quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
trainer = Trainer(max_epochs=10, logger=logger, log_every_n_steps=10, **quiet)
trainer.fit(module, data)
(tested,) = trainer.test(module, data, verbose=False)
with open(Path(logger.log_dir) / "metrics.csv") as file:
    rows = [row for row in csv.DictReader(file) if row["val/loss/price"]]
for name in data.tasks:
    losses = np.array([float(row[f"val/loss/{name}"]) for row in rows])
    plt.plot(losses / losses[0], label=name)
plt.title("validation losses, to the first")
plt.xlabel("epoch")
plt.legend()
{name: round(value, 3) for name, value in tested.items() if name.count("/") == 2 and "loss" not in name}

# %% [markdown]
# The price is a regression of the standardised target, but its metrics are in the table's own unit. `kappa` of the
# condition says how well its levels are met beyond chance, `deviance` of the viewings how far counts are from the
# expected ones, `concordance` of the days for how many pairs of flats the order is right.

# %% [markdown]
# ## 4. Predict
#
# New flats: another file, other columns, no labels, a city that training did not have, which a warning says. The
# checkpoint holds what was fitted, so the old files are no longer needed, and nothing is fitted again.
# `PredictionWriter` writes a row for each row, in order.

# %%
new = flats(500, (*CITIES, "Rome"))
inputs = ("built", "city", "area", "source", "agent", "extras", "listed", "title", "place")
write("new/flats.csv", {name: new[name] for name in inputs}, {"built": (0.1, "?")})

checkpoint = trainer.checkpoint_callback.best_model_path
module = MultiTaskModule.load_from_checkpoint(checkpoint)
again = TableData.from_checkpoint(checkpoint, path="no/longer/there", predict="new/flats.csv")
writer = PredictionWriter("predictions.parquet")
Trainer(logger=False, callbacks=[writer], **quiet).predict(module, again, return_predictions=False)
predicted = pq.read_table("predictions.parquet")
known, price = new["city"] != "Rome", np.array([float(text[1:].replace(",", "")) for text in new["price"]])
figure, axis = plt.subplots(figsize=(4, 4))
for chosen, label in ((known, "cities of the training"), (~known, "Rome")):
    axis.scatter(price[chosen], predicted["price"].to_numpy()[chosen], s=6, label=label)
axis.set(title="prices of new flats", xlabel="true", ylabel="predicted")
axis.legend()
predicted.slice(0, 3).to_pydict()

# %% [markdown]
# ## 5. The same without Python
#
# ```yaml
# seed_everything: 0
# data:
#   class_path: TableData
#   init_args:
#     path: flats
#     targets:
#       price: {kind: number}
#       heating: {}
#       condition: {order: [poor, fair, good, as new]}
#       viewings: {kind: count}
#       sold: {}
#       gone: {column: days, event: gone}
#     hashed: {agent: 1000}
#     lists: {extras: "|"}
#     vectors: {place: " "}
#     buckets: {built: 10}
#     text: [title]
#     weights: trust
#     missing_values: ["?"]
#     thousands: ","
#     split: {fractions: [0.7, 0.15, 0.15], group: street}
#     batch_size: 128
# model:
#   architecture:
#     class_path: SharedBottom
#     init_args: {encoder: {class_path: TabularEncoder}}
#   balancer: {class_path: UncertaintyWeighting}
#   optimizers:
#     default: {class_path: Adam, init_args: {lr: 3.0e-3}}
#     balancer: {class_path: Adam, init_args: {lr: 1.0e-2}}
# trainer: {max_epochs: 10}
# ```
#
# `mtl-lightning fit --config flats.yaml`, then `mtl-lightning predict --config flats.yaml --ckpt_path ...
# --data.init_args.predict new/flats.csv`. A task of another kind, or with options, is a line of `tasks`, such as
# `tasks: {price: {class_path: Regression, init_args: {loss: huber, standardize: true}}}`.
