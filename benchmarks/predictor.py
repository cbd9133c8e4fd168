"""Time a ``Predictor`` beside code by hand that encodes, runs and decodes the same network.

``python -m benchmarks.predictor [--rounds N]`` prints a table.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import torch

from benchmarks.command import Benchmark
from benchmarks.records import Goal, Table
from benchmarks.timing import TimedBatches, Times, interleave, one_thread, positive
from mtl_lightning import Network, Predictor
from mtl_lightning.architectures import SharedBottom, TabularEncoder
from mtl_lightning.data import TableColumns, TableFitter, TargetColumn
from mtl_lightning.tasks import BinaryClassification, MulticlassClassification, Regression
from mtl_lightning.types import TargetSpec, input_spec_from_dict

GOALS = {1: 1.5, 10_000: 1.1}
"""The largest ratio to the code by hand that is good enough, by rows of a call."""
STEPS = {1: 300, 10_000: 3}
_NUMBERS, _CATEGORIES, _TRAINED = 7, 7, 20_000

Row: TypeAlias = dict[str, Any]
Answer: TypeAlias = Mapping[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("--rounds", type=positive, default=15, help="blocks of every variant (15)")
    parser.add_argument("--rows", type=positive, default=[*GOALS], nargs="*", help="rows of a call (1 and 10,000)")


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Measure calls of each size."""
    yield report({rows: measure(rows, options.rounds) for rows in options.rows})


def report(times: Mapping[int, Times]) -> Table:
    """Return a row per size of a call, and the goals."""
    return Table(
        f"Calls, {len(next(iter(times.values())).ratios['dicts'])} rounds",
        {"rows": ",", "by hand, ms": ".3f", "`Predictor`, rows as dicts": ".3f", "rows as a table of Arrow": ".3f"},
        [[rows, 1e3 * median(one.floor), one.to_floor("dicts"), one.to_floor("Arrow")] for rows, one in times.items()],
        [
            Goal(f"{rows:,} rows as dicts, to the code by hand", times[rows].to_floor("dicts"), goal)
            for rows, goal in GOALS.items()
            if rows in times
        ],
    )


def measure(rows: int, rounds: int) -> Times:
    """Time calls with some rows."""
    network, schema, table = made()
    given = [table.slice(start, rows) for start in range(0, _TRAINED - rows + 1, max(rows, 50))][:100]
    dicts: list[list[Row]] = [part.to_pylist() for part in given]
    predictor = Predictor(network)
    hand = partial(by_hand, network, schema)
    same(predictor(dicts[0]).tasks, hand(dicts[0]))
    with one_thread():
        return interleave(
            partial(calls, hand, dicts),
            {"dicts": partial(calls, predictor, dicts), "Arrow": partial(calls, predictor, given)},
            range(len(given)),
            rounds=rounds,
            steps=STEPS.get(rows, max(1, 3_000 // rows)),
            warmup=2,
        )


def calls(predict: Callable[[Any], Any], given: Sequence[Any], block: TimedBatches) -> None:
    """Call a function with what a block says."""
    for place in block:
        predict(given[place])


# ------------------------------------------------------------------------------------------------------- what is called
def made() -> tuple[Network, dict[str, Any], Any]:
    """Make a network on a table, in whose every column a tenth of the cells is missing, its schema and the table."""
    random = np.random.default_rng(0)
    numbers = {f"n{place}": random.normal(place, 2, _TRAINED) for place in range(_NUMBERS)}
    categories = {f"c{place}": random.choice([f"v{n}" for n in range(20)], _TRAINED) for place in range(_CATEGORIES)}
    gaps = {name: random.random(_TRAINED) < 0.1 for name in (*numbers, *categories)}
    columns: dict[str, Any] = {
        name: pa.array(values, mask=gaps[name]) for name, values in {**numbers, **categories}.items()
    }
    columns["price"] = random.normal(100, 20, _TRAINED)
    columns["sold"] = random.choice(["no", "yes"], _TRAINED)
    columns["kind"] = random.choice(["flat", "house", "hut"], _TRAINED)
    targets = {"price": TargetColumn(), "sold": TargetColumn(), "kind": TargetColumn()}
    fitter = TableFitter(TableColumns(targets, numeric=[*numbers], categorical=[*categories]))
    fitter.update(pa.table(columns))
    schema = fitter.finish()
    torch.manual_seed(0)
    price = Regression(TargetSpec(), standardize=True)
    price.fit_target(torch.from_numpy(columns["price"]))
    tasks = {
        "price": price,
        "sold": BinaryClassification(TargetSpec(names=("no", "yes"))),
        "kind": MulticlassClassification(TargetSpec(classes=3, names=("flat", "house", "hut"))),
    }
    encoder = partial(TabularEncoder, hidden=[256, 128])
    network = Network(tasks, partial(SharedBottom, encoder=encoder), input_spec_from_dict(schema["input_spec"]))
    network.trained_on = schema
    return network.eval(), schema, pa.table({name: columns[name] for name in gaps})


def by_hand(network: Network, schema: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Answer]:
    """Predict rows as one writes it down for this one network: no checks, and nothing is said of the rows."""
    numeric, codes = _known(schema)
    means, stds, names = numeric
    numbers = np.array([[row[name] for name in names] for row in rows], dtype=np.float64)
    inputs = {
        "numeric": torch.from_numpy(((numbers - means) / stds).astype(np.float32)),
        "categorical": torch.tensor([[known.get(row[name], 0) for name, known in codes] for row in rows]),
    }
    with torch.inference_mode():
        outputs = network(inputs)
        task: Any = network.tasks["price"]
        price = (outputs["price"][:, 0].double() * task.target_std + task.target_mean).float().numpy()
        sold = outputs["sold"][:, 0].sigmoid().numpy()
        kind = outputs["kind"].softmax(-1).numpy()
    return {
        "price": {"value": price},
        "sold": {"probability": sold, "label": [("no", "yes")[yes] for yes in (sold > 0.5).tolist()]},
        "kind": {
            "probability": kind,
            "label": [("flat", "house", "hut")[place] for place in kind.argmax(1).tolist()],
        },
    }


_KNOWN: dict[int, Any] = {}


def _known(schema: Mapping[str, Any]) -> Any:
    """Return what is looked up, made once."""
    if id(schema) not in _KNOWN:
        known = schema["numeric"]
        means = np.array([one["mean"] for one in known.values()])
        stds = np.array([one["std"] for one in known.values()])
        codes = [
            (name, {value: place + 1 for place, value in enumerate(values)})
            for name, values in schema["categorical"].items()
        ]
        _KNOWN[id(schema)] = (means, stds, [*known]), codes
    return _KNOWN[id(schema)]


def same(found: Mapping[str, Answer], wanted: Mapping[str, Answer]) -> None:
    """Refuse to time what gives other answers."""
    for task, answer in wanted.items():
        for key, column in answer.items():
            ours = found[task][key]
            if key == "label":
                assert list(ours) == list(column), f"{task}: other labels"
            else:
                assert math.isclose(0, float(np.abs(ours - column).max()), abs_tol=1e-3), f"{task}.{key}"


BENCHMARK = Benchmark("predictor", __doc__, add_options, tables, quick=("--rounds=3",))
main = BENCHMARK.main

if __name__ == "__main__":
    main()
