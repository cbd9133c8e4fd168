"""The model card: what an exported network does, what it was trained on, how good it is, and what is not known."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mtl_lightning.core.network.network import Network
from mtl_lightning.exported.folder import SCHEMA, YOURS
from mtl_lightning.tasks.base import Task
from mtl_lightning.text_table import by_task

if TYPE_CHECKING:
    from mtl_lightning.export.comparison import Difference

_UNKNOWN = "Not known where this was exported."


@dataclass(frozen=True)
class Facts:
    """What a card tells beside the network itself; all of it may be missing.

    Attributes:
        rows: the number of rows by split.
        labels: by split and task, the number of labelled elements, and that of each class where there are some:
            ``{"train": {"sold": {"labelled": 90, "yes": 30, "no": 60}}}``.
        metrics: by tag, ``{"test/accuracy/sold": 0.9}``.
        baseline: the same of the best constant.
        stage: the first part of the tags of ``metrics`` that are shown.
        config: what made the module and its data, plain.
        intended_use: for what, and for what not.
        notes: what else is to be said, such as why something is missing.
    """

    rows: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    baseline: Mapping[str, float] = field(default_factory=dict)
    stage: str = "test"
    config: Mapping[str, Any] = field(default_factory=dict)
    intended_use: str = ""
    notes: Sequence[str] = ()


def card(
    network: Network,
    known: Mapping[str, Any],
    declared: Mapping[str, Any],
    facts: Facts,
    differences: Mapping[str, Difference],
    compared: str,
) -> str:
    """Return the card in Markdown.

    Args:
        network: the network.
        known: what ``schema.json`` says of it.
        declared: what it says of the file.
        facts: what is known beside.
        differences: of each output, from the network's.
        compared: on what.
    """
    use = facts.intended_use or "*What the answers are for, who relies on them, and what they must not be used for.*"
    sections = {
        "Intended use": f"{YOURS[0]}\n\n{use}\n\n{YOURS[1]}",
        "Tasks": _tasks(network),
        "Data": _data(known, facts),
        "Metrics": _metrics(network, facts),
        "Calibration": _calibration(network),
        "The network": _network(network, declared, differences, compared),
        "Versions": _table(
            ("package", "version"), ((name, one) for name, one in known["versions"].items() if name != "format")
        ),
        "Configuration": _config(facts),
    }
    notes = "".join(f"\n- {note}" for note in facts.notes)
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    names = ", ".join(network.tasks)
    return f"# Model card: {names}\n\n{body}\n" + (f"\n## Notes\n{notes}\n" if notes else "")


def _tasks(network: Network) -> str:
    rows = []
    for name, task in network.tasks.items():
        reads = ", ".join(network.graph.edges[name]) or "-"
        rows.append((name, type(task).__name__, _answers(task), task.spec.units or "-", reads))
    return _table(("task", "kind", "answers", "units", "reads"), rows)


def _answers(task: Task) -> str:
    if task.spec.names:
        return _short(task.spec.names)
    return f"{task.spec.classes} classes" if task.spec.classes else "x".join(map(str, task.spec.shape)) or "one"


def _data(known: Mapping[str, Any], facts: Facts) -> str:
    parts = []
    schema = known["schema"] or {}
    if facts.rows:
        tasks = list(dict.fromkeys(task for split in facts.labels.values() for task in split))
        head = ("split", "rows", *(f"labels of {task}" for task in tasks))
        lines = []
        for split, number in facts.rows.items():
            found = facts.labels.get(split, {})
            lines.append((split, f"{number:,}", *(_labels(found.get(task, {})) for task in tasks)))
        parts.append(_table(head, lines))
    elif isinstance(schema.get("rows"), int):
        parts.append(f"{schema['rows']:,} training rows; the numbers of labels are not known where this was exported.")
    else:
        parts.append(_UNKNOWN)
    if "numeric" in schema and "categorical" in schema:
        numbers = ", ".join(schema["numeric"]) or "none"
        categories = ", ".join(f"{name} ({len(values)} values)" for name, values in schema["categorical"].items())
        others = ", ".join(
            f"{name} ({one['kind']} of {one['column']})" for name, one in schema.get("kinds", {}).items()
        )
        more = f" Of other kinds: {others}." if others else ""
        parts.append(
            f"Numeric columns: {numbers}. Categorical ones: {categories or 'none'}.{more} All of them: `{SCHEMA}`."
        )
    return "\n\n".join(parts)


def _labels(counts: Mapping[str, int]) -> str:
    if not counts:
        return "-"
    classes = [f"{name}: {number:,}" for name, number in counts.items() if name != "labelled"]
    return f"{counts['labelled']:,}" + (f" ({_short(classes)})" if classes else "")


def _metrics(network: Network, facts: Facts) -> str:
    found, compared = (by_task(some, facts.stage, network.tasks) for some in (facts.metrics, facts.baseline))
    lines = [
        (name, metric, f"{value:.4g}", f"{compared[name][metric]:.4g}" if metric in compared.get(name, {}) else "-")
        for name, values in found.items()
        for metric, value in values.items()
        if metric != "labels"
    ]
    if not lines:
        return _UNKNOWN
    said = "The baseline is the best constant for the training labels, on the same rows."
    return f"Of the {facts.stage} split. {said}\n\n" + _table(("task", "metric", "value", "baseline"), lines)


def _calibration(network: Network) -> str:
    known = network.calibration or {}
    if not known:
        return "None: probabilities and values are the network's own."
    lines = []
    for name, entry in known.items():
        rest = {key: value for key, value in entry.items() if key not in ("method", "x", "y", "groups")}
        lines.append((name, entry.get("method", "-"), _short(f"{key} {value}" for key, value in rest.items())))
    return _table(("task", "method", "fitted"), lines)


def _network(
    network: Network, declared: Mapping[str, Any], differences: Mapping[str, Difference], compared: str
) -> str:
    number = sum(parameter.numel() for parameter in network.parameters())
    sides = [
        (side[:-1], name, known["dtype"], " x ".join("any" if n is None else str(n) for n in known["shape"]))
        for side in ("inputs", "outputs")
        for name, known in declared[side].items()
    ]
    apart = "".join(f"\n- `{name}`: {one}" for name, one in differences.items())
    return (
        f"`{declared['file']}`: {type(network.architecture).__name__}, {number:,} parameters.\n\n"
        f"{_table(('side', 'name', 'dtype', 'shape'), sides)}\n\n"
        f"Largest differences from the network it was made of, {compared}:\n{apart}"
    )


def _config(facts: Facts) -> str:
    if not facts.config:
        return _UNKNOWN
    return f"```json\n{json.dumps(facts.config, indent=2, ensure_ascii=False, default=str)}\n```"


def _table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    cells = [[_cell(text) for text in line] for line in (head, *lines)]
    first, *rest = (f"| {' | '.join(line)} |" for line in cells)
    return "\n".join([first, f"|{' --- |' * len(head)}", *rest])


def _cell(text: Any) -> str:
    return " ".join(str(text).replace("|", "\\|").replace("<", "&lt;").split())


def _short(texts: Iterable[Any], most: int = 12) -> str:
    listed = [str(text) for text in texts]
    more = f", ... ({len(listed)} in all)" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
