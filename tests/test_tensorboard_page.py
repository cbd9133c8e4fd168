"""The real TensorBoard on two finished runs, in a real browser: the charts, figures and texts are on its pages."""

from __future__ import annotations

import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from mtl_lightning.callbacks import ConfusionMatrices, DensePanels, PredictedAgainstTrue
from mtl_lightning.core.update.record import PAGES
from tests.browser import PROGRAMS, Browser, program
from tests.callbacks.pixels import Pixels, dense_batch, dense_tasks
from tests.cli import CONFIGS, SMALL, run
from tests.helpers import fit, make_module

CHROMIUM = program()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason=f"no Chromium is installed (looked for {', '.join(PROGRAMS)}); on Debian: apt install chromium",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of the command line, and one with labels per pixel."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        options = ("--trainer.log_every_n_steps=1", "--test_after_fit=false")
        run(patch, "fit", "--config", str(CONFIGS / "multidigit.yaml"), *SMALL, *options)
    module = make_module(tasks=dense_tasks(), architecture=Pixels(), input_spec=None)
    logger = TensorBoardLogger(folder / "lightning_logs", name="dense")
    callbacks = [ConfusionMatrices(), PredictedAgainstTrue(), DensePanels()]
    fit(module, [dense_batch()], [dense_batch()], logger=logger, callbacks=callbacks)
    logger.finalize("success")
    return folder / "lightning_logs"


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    """Where TensorBoard serves them."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs), "--port", "0", "--host", "localhost"]
    server = subprocess.Popen([*command, "--load_fast=false"], stderr=subprocess.PIPE, bufsize=0)
    try:
        yield _address_of(server)
    finally:
        server.kill()
        server.wait()


def _address_of(server: subprocess.Popen[bytes], patience: float = 120.0) -> str:
    said, end = b"", time.monotonic() + patience
    assert server.stderr is not None
    while time.monotonic() < end:
        if select.select([server.stderr], [], [], 1.0)[0]:
            said += server.stderr.read(4096) or b""
            if found := re.search(rb"http://localhost:\d+", said):
                return found[0].decode()
        assert server.poll() is None, said.decode()
    raise TimeoutError(said.decode())


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(str(CHROMIUM), tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def in_order(text: str | list[str], words: list[str]) -> bool:
    """Whether lines of a text are in an order, each at its first place behind the one before."""
    lines = text.splitlines() if isinstance(text, str) else text
    for word in words:
        if word not in lines:
            return False
        lines = lines[lines.index(word) + 1 :]
    return True


def test_custom_scalars_have_a_chart_for_each_group_of_tags_and_losses_stand_first(
    browser: Browser, address: str
) -> None:
    tags = [
        f"{tag}/{task} (version_0)" for tag in ("train/loss", "val/loss", "train/sigma") for task in ("left", "right")
    ]
    tags += [f"train/lr/{group} (version_0)" for group in ("shared", "left", "right", "balancer")]
    titles = [title for charts in PAGES.values() for title in charts]
    found = browser.text(f"{address}/#custom_scalars", [*PAGES, *titles, *tags])
    assert in_order(found, [word for page, charts in PAGES.items() for word in (page, *charts)])


def test_on_the_page_of_all_scalars_losses_of_training_stand_first(browser: Browser, address: str) -> None:
    found = browser.text(f"{address}/#timeseries", ["train", "train/loss", "/left", "/right", "val"])
    assert in_order(found, ["epoch", "train", "val"])
    lines = found.splitlines()
    assert not {"hp", "best", "run"} & set(lines[: lines.index("train")])


def test_figures_of_validations_are_pictures(browser: Browser, address: str) -> None:
    tags = [f"val/confusion/{task}" for task in ("left", "right", "seg")]
    browser.text(
        f"{address}/#images", [*tags, "val/predicted/depth", *(f"val/panels/{t}" for t in ("seg", "depth", "normals"))]
    )


def test_precision_recall_curves_are_tensorboards_own(browser: Browser, address: str) -> None:
    browser.text(f"{address}/#pr_curves", ["val/pr_curve/left/0", "val/pr_curve/left/5", "version_0"])


def test_the_texts_are_readable_tables(browser: Browser, address: str) -> None:
    words = ["run/config", "run/tasks", "run/groups", "Estimates as features: left → right", "UncertaintyWeighting"]
    found = browser.text(f"{address}/#text", words)
    assert in_order(found, ["task", "kind", "left", "MulticlassClassification"])
    assert in_order(found, ["group", "parameters", "shared", "Adam", "0.001"])


def test_the_table_of_runs_shows_what_differs(browser: Browser, address: str) -> None:
    both = ["SharedBottom", "Pixels", "UncertaintyWeighting", "Balancer", "version_0/best", "dense/version_0/best"]
    found = browser.text(f"{address}/#hparams", both)
    shown = found[found.index("Trial ID") :].splitlines()
    assert in_order(shown, ["architecture", "balancer"])
    assert "val/loss_normalised" in found
