"""Whoever searches the built site for a question finds its answer at the place that the first hit leads to."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.programs import ROOT
from tests.site.site import built

pytestmark = pytest.mark.slow

SCREEN = 1400
"""Characters of text that a screen shows."""
ANSWERS = {
    "build a task in Python": "Regression(units=",
    "task in python": "MulticlassClassification(num_classes=3)",
    "probabilities for one row": 'Predictor.from_checkpoint("best.ckpt")',
    "predict one row": 'answer["sold"]["probabilities"]',
    "export": "mtl-lightning export --ckpt_path best.ckpt --out exported",
    "export to onnx": "mtl-lightning export --ckpt_path best.ckpt --out exported",
    "compare two methods": "mtl-lightning compare --config compare.yaml",
    "carry an id through": "ids: [id]",
    "pick a rate": "mtl-lightning lr-find --config my.yaml",
    "pick a learning rate": "mtl-lightning lr-find --config my.yaml",
    "use BERT": "AutoModel.from_pretrained(name)",
    "bert": "AutoModel.from_pretrained(name)",
    "what sigma means": "the standard deviation of what the inputs cannot explain",
    "sigma": "the standard deviation of what the inputs cannot explain",
    "why the total loss is negative": "has the term log(sigma)",
    "negative loss": "has the term log(sigma)",
    "missing labels": "A missing label counts for nothing",
    "what happens to missing labels": "A missing label counts for nothing",
    "resume after a kill": "--ckpt_path lightning_logs/version_0",
    "resume": "--ckpt_path lightning_logs/version_0",
    "run on 8 GPUs": "--nproc-per-node=8",
    "8 gpus": "--nproc-per-node=8",
    "my tasks differ in dataset size": "PerTaskData",
    "several datasets": "PerTaskData",
    "early stopping": "early_stopping: 5",
    "class imbalance": "pos_weight: balanced",
    "freeze": "backbone: {class_path: SGD, init_args: {lr: 0.0}}",
    "fine-tune": "load_from_checkpoint",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The hits of each question, and the text at the first, as the site's own ranking has them."""
    site = built(tmp_path_factory.mktemp("site"))
    command = [sys.executable, str(ROOT / "docs" / "_sphinx" / "search.py"), str(site), *ANSWERS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answers: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize("question", ANSWERS)
def test_the_first_hit_answers(question: str, found: dict[str, dict[str, Any]]) -> None:
    hits, text = found[question]["hits"], str(found[question]["text"])
    assert hits, "nothing is found"
    assert ANSWERS[question] in text[:SCREEN], (hits, text[:SCREEN])


def test_the_ranking_outside_of_a_browser_is_that_of_the_site() -> None:
    """The two lists of what the parts of the site count stand in two languages."""
    script = (ROOT / "docs" / "_static" / "scorer.js").read_text()
    tool = (ROOT / "docs" / "_sphinx" / "search.py").read_text()
    theirs = script.partition("folders: {")[2].partition("}")[0].replace(" ", "").split(",")
    ours = tool.partition("FOLDERS = {")[2].partition("}")[0].replace(" ", "").replace('"', "").split(",")
    assert theirs == ours
