"""What a user declares of columns that are neither plain numbers nor plain categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtl_lightning.ranges import Ranged
from mtl_lightning.types import ConfigurationError

_MOST = 10_000  # codes of a row


@dataclass(frozen=True)
class ListColumn(Ranged):
    """How a column of lists of categories is read.

    Args:
        separator: what stands between the elements of a text, such as ``"|"``; without it texts are JSON.
        length: how many elements of a list are kept at most, the first; fewer where no training row has as many.
        buckets: hash the elements into so many, for those of many levels; by default they are a vocabulary.

    Raises:
        ConfigurationError: for an empty separator, and more than 10,000 elements.
    """

    separator: str | None = None
    length: int = 100
    buckets: int | None = None

    def __post_init__(self) -> None:
        if self.separator == "":
            raise ConfigurationError("`lists`: expected a separator such as '|', found ''. Leave it out for JSON.")
        _check_length("lists", self.length)


@dataclass(frozen=True)
class TextColumn(Ranged):
    """How a column of free text becomes codes.

    Args:
        buckets: how many its words and groups of letters are hashed into.
        length: how many of them are kept of a text at most, words first; fewer where no training row has as many.
        ngrams: the least and the greatest number of letters of a group; null for words alone.

    Raises:
        ConfigurationError: for groups of letters that cannot be, and more than 10,000 codes.
    """

    buckets: int = 20_000
    length: int = 100
    ngrams: tuple[int, int] | None = (3, 5)

    def __post_init__(self) -> None:
        _check_length("text", self.length)
        if self.ngrams is not None and (len(self.ngrams) != 2 or not 1 <= self.ngrams[0] <= self.ngrams[1] <= 10):
            raise ConfigurationError(
                f"`text`: expected as `ngrams` two numbers of letters from 1 to 10, such as [3, 5], or null, found "
                f"{[*self.ngrams]}."
            )


def _check_length(what: str, length: int) -> None:
    if not 1 <= length <= _MOST:
        raise ConfigurationError(f"`{what}`: expected a length from 1 to {_MOST}, found {length}.")


def declared_lists(given: Sequence[str] | Mapping[str, str | ListColumn | Mapping[str, Any] | None]) -> dict[str, Any]:
    """Return columns of lists, named or with a separator or more, as :class:`ListColumn` by name."""
    found = given if isinstance(given, Mapping) else dict.fromkeys(given)
    return {name: ListColumn(how) if isinstance(how, str) else _made(ListColumn, how) for name, how in found.items()}


def declared_text(given: Sequence[str] | Mapping[str, TextColumn | Mapping[str, Any] | None]) -> dict[str, Any]:
    """Return columns of text, named or with more, as :class:`TextColumn` by name."""
    found = given if isinstance(given, Mapping) else dict.fromkeys(given)
    return {name: _made(TextColumn, how) for name, how in found.items()}


def declared_vectors(given: Sequence[str] | Mapping[str, str | None]) -> dict[str, str | None]:
    """Return columns of vectors, named or with a separator, with their separators by name."""
    return dict(given) if isinstance(given, Mapping) else dict.fromkeys(given)


def _made(kind: type[Any], how: Any) -> Any:
    return how if isinstance(how, kind) else kind(**(how or {}))
