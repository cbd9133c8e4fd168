"""Ludwig on Census-Income: a file of features as a dict, its own encoding, combiner, trainer and predictions."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

from census import BATCH, CATEGORICAL, EMBEDDING, EPOCHS, NUMERIC, RATE, TOWER, TRUNK, auc, read
from ludwig.api import LudwigModel
from ludwig.callbacks import Callback
from record import TASKS, TEST, TRAINING, run

CONFIG: dict[str, Any] = {
    "input_features": [
        *(
            {"name": name, "type": "category", "encoder": {"type": "dense", "embedding_size": EMBEDDING}}
            for name in CATEGORICAL
        ),
        *({"name": name, "type": "number", "preprocessing": {"normalization": "zscore"}} for name in NUMERIC),
    ],
    "combiner": {"type": "concat", "fc_layers": [{"output_size": width} for width in TRUNK]},
    "output_features": [
        {"name": task, "type": "binary", "decoder": {"fc_layers": [{"output_size": TOWER}]}} for task in TASKS
    ],
    "trainer": {
        "epochs": EPOCHS, "batch_size": BATCH, "eval_batch_size": BATCH, "early_stop": -1,
        "optimizer": {"type": "adam"}, "learning_rate": RATE,
    },
}  # fmt: skip


def job(options: Namespace, phase: Callable[[str], None]) -> dict[str, float]:
    """Load, train and test."""

    class Begins(Callback):
        def on_trainer_train_setup(self, *_: Any) -> None:
            phase(TRAINING)

    frames = read(options.root)
    model = LudwigModel(CONFIG, backend="local", callbacks=[Begins()])
    with TemporaryDirectory() as folder:
        model.train(
            training_set=frames["train"], validation_set=frames["val"], output_directory=folder,
            random_seed=options.seed, skip_save_training_description=True, skip_save_training_statistics=True,
            skip_save_model=True, skip_save_progress=True, skip_save_log=True, skip_save_processed_input=True,
        )  # fmt: skip
        phase(TEST)
        made, _ = model.predict(frames["test"], skip_save_predictions=True, output_directory=folder)
    return {task: auc(frames["test"][task].to_numpy(), made[f"{task}_probabilities_True"].to_numpy()) for task in TASKS}


if __name__ == "__main__":
    run(job, "Ludwig", ["ludwig", "pandas"])
