"""A release says one number everywhere, and the workflow, the forms and the constraints fit the project."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # it ships no types
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mtl_lightning import __version__
from tests.programs import ROOT
from tests.test_dependencies import project

SECTIONS = re.compile(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", flags=re.MULTILINE)
PARTS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
STEP = re.compile(r"bash \.ci/step ([\w-]+)")


def loaded(path: Any) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def test_the_changelog_starts_with_what_is_unreleased_and_lists_each_kind_of_change_once() -> None:
    first, *pieces = re.split(r"^(?=## )", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert first.startswith("# Changelog")
    headings = [SECTIONS.match(piece.partition("\n")[0]) for piece in pieces]
    assert all(headings), pieces
    assert next(heading[1] for heading in headings if heading) == "Unreleased"
    for piece in pieces:
        kinds = re.findall(r"^### (.+)$", piece, flags=re.MULTILINE)
        assert sorted(kinds, key=PARTS.index) == kinds, "in the order of Keep a Changelog"
        assert len({*kinds}) == len(kinds), "each once"


def test_the_version_is_that_of_the_newest_section_and_of_the_citation() -> None:
    _, newest, *_ = SECTIONS.findall((ROOT / "CHANGELOG.md").read_text())
    citation = loaded(ROOT / "CITATION.cff")
    assert newest == (__version__, citation["date-released"])
    assert citation["version"] == __version__
    assert citation["license"] == project()["license"]


def test_the_workflow_is_made_of_the_steps_that_there_are() -> None:
    script = (ROOT / ".ci" / "step").read_text()
    there = {name for case in re.findall(r"^([\w| -]+)\)", script, flags=re.MULTILINE) for name in case.split(" | ")}
    run = {*STEP.findall((ROOT / ".ci" / "run").read_text())}
    jobs = loaded(WORKFLOW)["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    called = {name for command in commands for name in STEP.findall(command)} | {
        *jobs["checks"]["strategy"]["matrix"]["step"]
    }
    assert called == there
    assert run == there - {"build", "wheel", "lowest"}
    assert "NEVER RUN ON GITHUB" in WORKFLOW.read_text()


def test_the_constraints_pin_one_fitting_version_of_all_that_is_declared_on_every_python() -> None:
    table = project()
    declared = [
        *table["dependencies"],
        *(
            name
            for extra in ("dev", "docs", "test", "examples", "tune", "images", "export", "serve")
            for name in table["optional-dependencies"][extra]
        ),
    ]
    pins = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    pythons = loaded(WORKFLOW)["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert len(pythons) >= 3
    assert table["requires-python"] == f">={pythons[0]}"
    for python in pythons:
        found: dict[str, list[str]] = {}
        for pin in pins:
            if pin.marker is None or pin.marker.evaluate({"python_version": python}):
                found.setdefault(canonicalize_name(pin.name), []).append(next(iter(pin.specifier)).version)
        assert {name: versions for name, versions in found.items() if len(versions) > 1} == {}
        for requirement in map(Requirement, declared):
            name = canonicalize_name(requirement.name)
            if name != "mtl-lightning":
                assert requirement.specifier.contains(found[name][0]), (python, str(requirement), found[name])


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_the_forms_are_those_of_github(form: Any) -> None:
    """The rules of GitHub's syntax for issue forms, as far as a form of ours meets them."""
    found = loaded(form)
    if form.stem == "config":
        assert found == {"blank_issues_enabled": True}
        return
    assert {*found} == {"name", "description", "labels", "body"}
    assert len(found["description"]) <= 200
    asked = [part for part in found["body"] if part["type"] != "markdown"]
    assert asked
    for part in found["body"]:
        assert {*part} <= {"type", "id", "attributes", "validations"}
        assert part["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
        if part["type"] in ("dropdown", "checkboxes"):
            options = [
                option if part["type"] == "dropdown" else option["label"] for option in part["attributes"]["options"]
            ]
            assert all(isinstance(option, str) for option in options)
            assert len({*options}) == len(options)
    labels = [part["attributes"]["label"] for part in asked]
    assert len({*labels}) == len({part["id"] for part in asked}) == len(asked)
