"""The benchmark of equal heads computes both ways and shows what the rule says; how fast either is, it says."""

from __future__ import annotations

import re

import pytest

from benchmarks import equal_heads


def test_both_ways_are_timed_by_sizes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(equal_heads, "SIZES", [(2, 6, 3, 2), (3, 6, 3, 2)])
    monkeypatch.setattr(equal_heads, "_SECONDS", 1e-9)
    monkeypatch.setattr(equal_heads, "keep_freed_memory", lambda: None)
    equal_heads.main(["--rounds", "1"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if re.match(r"\| \d", line)]
    assert [row[:4] + row[-1:] for row in rows] == [
        ["2", "6", "3", "2", "one after the other"],
        ["3", "6", "3", "2", "as one"],
    ]
    assert all(float(row[6]) > 0 for row in rows)
