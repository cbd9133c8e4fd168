"""What the sweeps found: as a table, as YAML, as curves in a file, and as a picture."""

from __future__ import annotations

import csv
import inspect
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml  # type: ignore[import-untyped]  # it ships no types

from mtl_lightning.core.network.graph import BALANCER, DEFAULT
from mtl_lightning.lr_find.judge import OBJECTIVE
from mtl_lightning.lr_find.sweep import Sweep
from mtl_lightning.text_table import tables
from mtl_lightning.types import ConfigurationError

_BY_DEFAULT = {DEFAULT: 1e-3, BALANCER: 1e-2}  # rates of Adam, where no optimizers are configured
_COLUMNS = ("group", "rate", "loss", "reference", "gain")


class FoundRates:
    """The sweeps of all groups.

    Args:
        sweeps: one per group.
        optimizers: the module's, as plain data: ``{group: {class_path, init_args}}``; None for those by default.
    """

    def __init__(self, sweeps: Sequence[Sweep], optimizers: Mapping[str, Any] | None) -> None:
        self.sweeps = {sweep.group: sweep for sweep in sweeps}
        self._optimizers = optimizers

    @property
    def suggested(self) -> dict[str, float]:
        """The rate of each group that one is suggested for."""
        rates = {name: sweep.suggestion.rate for name, sweep in self.sweeps.items()}
        return {name: rate for name, rate in rates.items() if rate is not None}

    def table(self) -> str:
        """Return a line per group: what judged it, its rate, the suggested one, or why there is none."""
        rows = {}
        for name, sweep in self.sweeps.items():
            found = sweep.suggestion
            told = f"none: {found.why}" if found.rate is None else f"{found.rate:.2g}"
            rows[name] = {"judged by": sweep.judged_by, "rate": f"{sweep.configured:g}", "suggested": told}
        return tables(rows, "group")

    def fragment(self) -> str:
        """Return the optimizers as YAML to stand under ``model:``, each with its class and other arguments as before.

        Groups without a suggestion keep their rates. One that code has made, so that its class cannot be told, is a
        comment.
        """
        given = self._optimizers
        given = given if given is not None else {name: _adam(rate) for name, rate in _BY_DEFAULT.items()}
        made: dict[str, Any] = {name: _whole(entry) for name, entry in given.items() if _is_part(entry)}
        told = []
        for name, rate in self.suggested.items():
            entry = given.get(name, given.get(DEFAULT))
            if _is_part(entry):
                whole = _whole(entry)
                made[name] = {**whole, "init_args": {**whole["init_args"], "lr": _short(rate)}}
            else:
                told.append(f"# {name}: its optimizer is made by code: set lr to {rate:.2g} there\n")
        return "".join(told) + str(yaml.dump({"optimizers": made}, Dumper=_Plain, sort_keys=False))

    def write(self, folder: str | Path) -> Path:
        """Write ``rates.yaml``, ``curves.csv`` and ``rates.png`` into a new folder; return it.

        If there is a folder of that name already, ``-v1`` and so on is added to it: nothing is replaced.
        """
        made = _new(Path(folder))
        (made / "rates.yaml").write_text(
            f"# Found by mtl-lightning lr-find; stands under `model:`.\n{self.fragment()}", encoding="utf-8"
        )
        with (made / "curves.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(_COLUMNS)
            for name, sweep in self.sweeps.items():
                points = zip(sweep.rates, sweep.values, sweep.gains, strict=False)
                writer.writerows([name, rate, value, sweep.reference, gain] for rate, value, gain in points)
        self.plot().savefig(made / "rates.png", dpi=120)
        return made

    def plot(self) -> Any:
        """Return a matplotlib figure, with a panel per group: its curve, its own rate and the suggested one.

        Raises:
            ConfigurationError: without matplotlib.
        """
        check_plots()
        from matplotlib.figure import Figure

        columns = min(3, len(self.sweeps))
        rows = -(-len(self.sweeps) // columns)
        figure = Figure(figsize=(4.6 * columns, 3.2 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for panel in panels[len(self.sweeps) :]:
            panel.set_axis_off()
        for panel, (name, sweep) in zip(panels, self.sweeps.items(), strict=False):
            _draw(panel, name, sweep)
        return figure


class _Plain(yaml.SafeDumper):  # type: ignore[misc]  # it ships no types
    """Writes a value that is there twice twice, without an anchor."""

    def ignore_aliases(self, data: Any) -> bool:
        """Whatever it is."""
        return True


def check_plots() -> None:
    """Refuse to begin what would end without matplotlib."""
    try:
        import matplotlib  # noqa: F401  # looked for
    except ImportError as error:
        raise ConfigurationError(
            'lr-find draws its curves: expected matplotlib, found none. pip install "mtl-lightning[tune]"'
        ) from error


def _draw(panel: Any, name: str, sweep: Sweep) -> None:
    rates = sweep.rates[: len(sweep.gains)]
    floor = min([-0.05, *(gain for gain in sweep.gains if gain == gain)])
    panel.plot(rates, [min(gain, -floor) for gain in sweep.gains], marker=".")
    panel.axhline(0, color="grey", linewidth=0.8)
    panel.axvline(sweep.configured, color="grey", linestyle=":", label=f"now {sweep.configured:.2g}")
    rate = sweep.suggestion.rate
    if rate is not None:
        panel.axvline(rate, color="tab:red", label=f"suggested {rate:.2g}")
    panel.set(xscale="log", xlabel="learning rate", ylabel=f"{sweep.judged_by}:\nlog ratio to the group at rest")
    if sweep.judged_by == OBJECTIVE:
        panel.set_ylabel(f"{sweep.judged_by}:\ndifference from the group at rest")
    panel.set_title(name if rate is not None else f"{name}: no suggestion", fontsize=10)
    panel.legend(fontsize=8)


def _adam(rate: float) -> dict[str, Any]:
    return {"class_path": "torch.optim.Adam", "init_args": {"lr": rate}}


def _is_part(entry: Any) -> bool:
    return isinstance(entry, str) or (isinstance(entry, Mapping) and "class_path" in entry)


def _whole(entry: Any) -> dict[str, Any]:
    """Return a part with the arguments that are not its class's defaults."""
    whole: dict[str, Any] = {"class_path": entry} if isinstance(entry, str) else dict(entry)
    arguments, defaults = dict(whole.get("init_args") or {}), _defaults(str(whole["class_path"]))
    whole["init_args"] = {n: v for n, v in arguments.items() if n == "lr" or n not in defaults or defaults[n] != v}
    return whole


def _defaults(class_path: str) -> dict[str, Any]:
    """Return the defaults of a class's arguments, tuples as YAML has them; none of a class that is not found."""
    try:
        known = inspect.signature(resolve_name(class_path)).parameters.values()
    except (ImportError, AttributeError, ValueError, TypeError):
        return {}
    defaults = {parameter.name: parameter.default for parameter in known}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}


def _short(rate: float) -> float:
    """Return a rate with two digits: more would be noise."""
    return float(f"{rate:.2g}")


def _new(folder: Path) -> Path:
    """Make a folder that there was not, of that name or the next free one."""
    for number in count():
        made = folder.with_name(f"{folder.name}-v{number}") if number else folder
        try:
            made.mkdir(parents=True)
        except FileExistsError:
            continue
        return made
    raise AssertionError  # `count` has no end
