"""mtl_lightning on Census-Income: ``configs/census_income.yaml`` as it is shipped, without logs and checkpoints."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch.callbacks import LambdaCallback
from record import TASKS, TEST, TRAINING, run

from mtl_lightning.cli import MultiTaskCLI

CONFIG = Path(__file__).parents[2] / "configs" / "census_income.yaml"


def job(options: Namespace, phase: Callable[[str], None]) -> dict[str, float]:
    """Load, train and test."""
    made = MultiTaskCLI(
        args=[
            "fit", f"--config={CONFIG}", f"--seed_everything={options.seed}", f"--data.init_args.root={options.root}",
            "--data.init_args.download=false", f"--data.init_args.seed={options.seed}", "--test_after_fit=false",
            "--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_checkpointing=false",
            "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
        ],
        save_config_callback=None,
        trainer_defaults={"callbacks": [LambdaCallback(on_train_start=lambda *_: phase(TRAINING))]},
    )  # fmt: skip
    phase(TEST)
    (metrics,) = made.trainer.test(made.model, datamodule=made.datamodule, verbose=False)
    return {task: metrics[f"test/auroc/{task}"] for task in TASKS}


if __name__ == "__main__":
    run(job, "mtl_lightning", ["lightning"], lines_of=str(CONFIG))
