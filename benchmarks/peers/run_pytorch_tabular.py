"""pytorch_tabular on Census-Income: embeddings, a perceptron, and one head for both targets."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

from census import BATCH, CATEGORICAL, EMBEDDING, EPOCHS, NUMERIC, RATE, TOWER, TRUNK, auc, read
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_tabular import TabularModel
from pytorch_tabular.config import DataConfig, OptimizerConfig, TrainerConfig
from pytorch_tabular.models import CategoryEmbeddingModelConfig
from record import TASKS, TEST, TRAINING, run


def job(options: Namespace, phase: Callable[[str], None]) -> dict[str, float]:
    """Load, train and test."""
    frames = read(options.root)
    model = TabularModel(
        data_config=DataConfig(target=TASKS, continuous_cols=NUMERIC, categorical_cols=CATEGORICAL),
        model_config=CategoryEmbeddingModelConfig(
            task="classification",
            layers="-".join(str(width) for width in TRUNK),
            head_config={"layers": str(TOWER)},
            embedding_dims=[(frames["train"][name].nunique() + 1, EMBEDDING) for name in CATEGORICAL],
            learning_rate=RATE,
            seed=options.seed,
        ),
        optimizer_config=OptimizerConfig(),
        trainer_config=TrainerConfig(
            batch_size=BATCH, max_epochs=EPOCHS, accelerator="cpu", checkpoints=None, load_best=False,
            early_stopping=None, progress_bar="none", seed=options.seed,
        ),
        verbose=False,
    )  # fmt: skip
    begins = LambdaCallback(on_train_start=lambda *_: phase(TRAINING))
    model.fit(train=frames["train"], validation=frames["val"], seed=options.seed, callbacks=[begins])
    phase(TEST)
    made = model.predict(frames["test"])
    return {task: auc(frames["test"][task].to_numpy(), made[f"{task}_1_probability"].to_numpy()) for task in TASKS}


if __name__ == "__main__":
    run(job, "pytorch_tabular", ["pytorch_tabular", "pandas", "pytorch-lightning"])
