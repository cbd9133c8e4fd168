"""The page of pretrained encoders with the real transformers, which the default tests stand in for.

Needs `pip install transformers`, which no extra brings; nothing is downloaded: a tiny BERT with random weights is in a
folder of the name that the page loads.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from tests.test_docs import DOCS
from tests.test_docs_snippets import CODE, shortened

pytestmark = pytest.mark.slow

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "one"]
PAGE = DOCS / "howto" / "pretrained.md"


@pytest.fixture
def bert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library, in a folder where `bert-base-uncased` is a tiny BERT."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=16, **sizes)
    transformers.BertModel(config).save_pretrained("bert-base-uncased")
    Path("vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer("vocab.txt").save_pretrained("bert-base-uncased")
    return transformers


def test_the_page_trains_a_real_bert(bert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "__init__", shortened(Trainer.__init__))
    page = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)
    page.__dict__.update(texts=["good", "bad one"] * 8, stars=[4, 0] * 8, spam=[0.0, 1.0] * 8)
    for block in CODE.finditer(PAGE.read_text()):
        if block["shown"]:
            exec(compile(block["shown"], str(PAGE), "exec"), page.__dict__)

    module: Any = page.__dict__["module"]
    (encoder,) = [part for part in module.modules() if isinstance(part, bert.BertModel)]
    assert encoder.config.hidden_size == 16
    before = bert.AutoModel.from_pretrained("bert-base-uncased").state_dict()
    moved = [name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])]
    assert "embeddings.word_embeddings.weight" in moved
    far = max(float((value - before[name]).abs().max()) for name, value in encoder.state_dict().items())
    assert 0 < far < 2.5 * 2e-5  # two updates of the small rate, and a decay
    tokens = page.__dict__["tokens"]
    assert tokens["input_ids"][:2].tolist() == [[2, 5, 3, 0], [2, 6, 7, 3]]
    answers = module.predict({**tokens})
    assert answers["stars"].shape == (16, 5)
    assert answers["spam"].shape[0] == 16
