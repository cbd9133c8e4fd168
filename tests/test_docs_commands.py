"""Options of the commands on the pages are options of the program."""

from __future__ import annotations

import re

import pytest

from tests.cli import run
from tests.programs import ROOT
from tests.test_docs import PAGES

COMMAND = re.compile(r"^(?:mtl-lightning|torchrun .*-m mtl_lightning) ([\w-]+)( .*)?$", flags=re.MULTILINE)
BLOCK = re.compile(r"^```bash\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def options() -> dict[str, set[str]]:
    """The options that pages give to each command, without those of classes that a config chooses."""
    found: dict[str, set[str]] = {}
    for page in [ROOT / "README.md", *PAGES]:
        for block in BLOCK.findall(page.read_text()):
            for command, rest in COMMAND.findall(block.replace("\\\n", " ")):
                given = re.findall(r"(?<=\s)--([\w.]+)", rest.partition(" # ")[0])
                found.setdefault(command, set()).update(name for name in given if ".init_args." not in name)
    return found


GIVEN = options()


@pytest.mark.parametrize("command", sorted(GIVEN))
def test_the_program_has_them(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, command, "--help")
    assert end.value.code == 0
    known = {*re.findall(r"--([\w.]+)", capsys.readouterr().out)}
    assert GIVEN[command] - known == set()
