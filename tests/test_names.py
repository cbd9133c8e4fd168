from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from mtl_lightning.architectures import MLP
from mtl_lightning.names import did_you_mean, known_arguments, known_name, nearest
from mtl_lightning.types import ConfigurationError


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("hiden", ["hidden", "hide_all", "depth"], "hidden"),
        ("Adma", torch.optim.__all__, "Adam"),  # difflib alone says Adamax
        ("rl", ["lr", "relu"], "lr"),  # too short for difflib
        ("knid", ["kin", "kind", "kinds"], "kind"),
        ("listen", ["silent", "tinsel", "lisetn"], "lisetn"),  # of several with the same letters the most alike
        ("elephant", ["lr", "momentum"], None),
        ("lr", [], None),
    ],
)
def test_the_nearest_name(name: str, known: list[str], found: str | None) -> None:
    assert nearest(name, known) == found
    assert did_you_mean(name, iter(known)) == (f" Did you mean {found!r}?" if found else "")


def test_the_cutoff_says_how_like_a_name_must_be() -> None:
    assert nearest("decode", ["encoder"]) == "encoder"
    assert nearest("decode", ["encoder"], cutoff=0.9) is None


def test_a_known_name_passes_and_an_unknown_one_is_told_its_place_and_the_nearest() -> None:
    known_name("left", iter(["left", "right"]), "heads")
    with pytest.raises(ConfigurationError, match=r"^`heads`: expected one of \['left', 'right'\], found 'rigth'. Did"):
        known_name("rigth", iter(["left", "right"]), "heads")
    with pytest.raises(ConfigurationError, match=r"found 'x'\.$"):
        known_name("x", ["left"], "heads")


class Named(MLP):
    def __init__(self, spec: Any, hidden: list[int] | None = None) -> None:
        super().__init__(spec, hidden=hidden or [4])


class Whatever(Named):
    """A class of a user's, which may do with its arguments as it likes."""

    def __init__(self, spec: Any, **options: Any) -> None:
        super().__init__(spec)
        self.options = options


def test_arguments_that_a_class_has_not_are_told_where_that_is_known() -> None:
    part: Any = partial
    for made in (part(MLP, hiden=[4]), part(Named, hiden=[4])):
        with pytest.raises(ConfigurationError, match=r"found 'hiden'\. Did you mean 'hidden'\?"):
            known_arguments(made)
    known_arguments(part(Whatever, width=3))
