"""How the texts of a column spell numbers: plainly, with thousands set apart, a decimal comma, as money or dates."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

from mtl_lightning.errors import ConfigurationError

ISO = "iso"
_CODES = "USD|EUR|GBP|CHF|JPY|CNY|INR|KRW|SEK|NOK|DKK|PLN|CZK|HUF|AUD|CAD|NZD|BRL|ZAR|kr|zł"
_UNIT = rf"[$€£¥₹₩₽]|{_CODES}|%"
_SIGN = "[-+\u2212]?"
_AFFIXED = re.compile(rf"(\()?({_SIGN})\s*({_UNIT})?\s*({_SIGN})\s*(\d.*?|[.,]\d.*?)\s*({_UNIT})?(\))?")
_BLANKS = " \u00a0\u202f\u2009'\u2019"
_TRUTH = {"true": 1.0, "false": 0.0}
_ISO = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.]\d{1,6})?)?(?:Z|[+-]\d\d:?\d\d)?)?")


@dataclass(frozen=True)
class Notation:
    """How the cells of one column spell numbers.

    A plain number is what ``float`` reads. Beyond it, a cell may have a sign, or brackets in place of a minus, and one
    unit before or after the number: a currency or ``%``. The unit is left out: ``12 %`` is 12, ``$5`` is 5.

    Args:
        thousands: the characters, any of which sets groups of three digits apart; none for a plain number.
        decimal: what stands before the fraction.
        dates: ``"iso"`` for dates and times of ISO 8601, or a format of ``datetime.strptime``; they become seconds
            since 1970, in UTC unless they say otherwise.
        zone: the time zone of dates that name none, in place of UTC. Of an hour that its clocks pass twice the first is
            meant; one that they skip is the hour after.
        bools: true and false, in letters of any case, become 1 and 0.
    """

    thousands: str = ""
    decimal: str = "."
    dates: str = ""
    bools: bool = False
    zone: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether Arrow reads such numbers by itself."""
        return self == PLAIN

    def parse(self, text: str) -> tuple[float, str]:
        """Return the number that a text spells, infinity where it spells none; and its unit."""
        if self.bools:
            return _TRUTH.get(text.lower(), math.inf), ""
        if self.dates:
            return _seconds(text, self.dates, self.zone), ""
        if self.decimal == ".":
            number = plain(text)
            if math.isfinite(number) or self.is_plain:
                return number, ""
        found = _AFFIXED.fullmatch(text)
        if found is None or (found[1] is None) != (found[7] is None) or (found[3] and found[6]):
            return math.inf, ""
        opened, outer, before, inner, digits, after, _ = found.groups()
        if not self._digits.fullmatch(digits) or bool(opened) + bool(outer) + bool(inner) > 1:
            return math.inf, ""
        for mark in self.thousands:
            digits = digits.replace(mark, "")
        number = float(digits.replace(self.decimal, "."))
        return (-number if opened or (outer or inner) in ("-", "\u2212") else number), before or after or ""

    @cached_property
    def _digits(self) -> re.Pattern[str]:
        mark, point = f"[{re.escape(self.thousands)}]", re.escape(self.decimal)
        grouped = rf"[1-9]\d{{0,2}}({mark})\d{{3}}(?:\1\d{{3}})*|" if self.thousands else ""
        return re.compile(rf"(?:{grouped}\d+)(?:{point}\d*)?|{point}\d+")

    def to_dict(self) -> dict[str, Any]:
        """Return what differs from a plain number, as plain data."""
        return {name: value for name, value in asdict(self).items() if value != getattr(PLAIN, name)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Notation:
        """Read back what :meth:`to_dict` gave."""
        return cls(**data)


PLAIN = Notation()
BOOLS = Notation(bools=True)
ISO_DATES = Notation(dates=ISO)
COMMAS = Notation(thousands=",")
POINTS = Notation(thousands=".", decimal=",")
USUAL = (
    PLAIN, BOOLS, COMMAS, POINTS, Notation(thousands=_BLANKS), Notation(thousands=_BLANKS, decimal=","), ISO_DATES,
)  # fmt: skip
"""What is tried on a column of which nothing is declared; the first that reads the most cells is taken."""


def declared(thousands: str | None, decimal: str | None) -> Notation | None:
    """Return the notation that a user declares, None for none.

    Raises:
        ConfigurationError: for marks that cannot be told from digits or from each other.
    """
    if thousands is None and decimal is None:
        return None
    point = decimal or ("," if thousands == "." else ".")
    mark = {" ": _BLANKS, None: ""}.get(thousands, thousands or "")
    for name, value in {"thousands": thousands, "decimal": decimal}.items():
        if value is not None and (len(value) != 1 or value.isalnum() or value in "+-"):
            raise ConfigurationError(f"Expected as `{name}` one character such as ',' or '.', found {value!r}.")
    if mark == point:
        raise ConfigurationError(f"Expected `thousands` and `decimal` that differ, found {point!r} for both.")
    return Notation(thousands=mark, decimal=point)


def plain(text: str) -> float:
    """Return the number that a text spells plainly: nan for ``nan``, infinity for what is no finite number."""
    try:
        return float(text) if "_" not in text and not text.startswith("+") and text.isascii() else math.inf
    except ValueError:
        return math.inf


def _seconds(text: str, dates: str, zone: str) -> float:
    """Return a time as seconds since 1970, infinity where it is none."""
    try:
        if dates == ISO:
            if not _ISO.fullmatch(text):
                return math.inf
            parsed = datetime.fromisoformat(text.replace("Z", "+00:00"))
        else:
            parsed = datetime.strptime(text, dates)
    except ValueError:
        return math.inf
    return in_zone(parsed, zone)


def in_zone(time: datetime, zone: str) -> float:
    """Return a time as seconds since 1970; one that names no zone is in this one, or in UTC."""
    if time.tzinfo is None:
        time = time.replace(tzinfo=ZoneInfo(zone) if zone else timezone.utc)
    return (time - _EPOCH).total_seconds()


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
