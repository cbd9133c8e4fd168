"""The benchmark of the diagnosing callbacks runs, with all of them."""

from __future__ import annotations

import inspect
import re
from functools import partial

import pytest

from benchmarks import watching
from benchmarks.workloads import WORKLOADS, Workload
from mtl_lightning import callbacks
from mtl_lightning.architectures import MLP, MLPHead
from mtl_lightning.callbacks.diagnosis import Diagnosis

TABLE = Workload((3,), 4, 2, partial(MLP, hidden=[5]), partial(MLPHead, hidden=[2]))


def test_it_times_every_diagnosis() -> None:
    exported = [getattr(callbacks, name) for name in callbacks.__all__]
    diagnoses = {cls for cls in exported if inspect.isclass(cls) and issubclass(cls, Diagnosis)}
    assert {*watching.WATCHING} == diagnoses - {callbacks.TaskAffinity}  # which is not on unless it is asked for


@pytest.mark.slow
def test_the_command_prints_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(WORKLOADS, "tiny", TABLE)
    watching.main(["tiny", "--rounds", "1", "--steps", "2", "--each"])
    printed = capsys.readouterr().out
    names = re.findall(r"^\| (\w[\w ]*) \| \d+\.\d{3} \(\d+\.\d{3} to \d+\.\d{3}\) \|$", printed, re.MULTILINE)
    assert names == ["all of them", *(make.__name__ for make in watching.WATCHING if inspect.isclass(make))]
    assert re.search(r"^- all of them: .* goal <= 1.03: (met|missed)$", printed, re.MULTILINE)


def test_an_unknown_workload_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        watching.main(["W9"])
    assert "found W9" in capsys.readouterr().err
