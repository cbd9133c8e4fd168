"""The built site: all that is public is in it, and a search finds the answers. ``.ci/run`` builds it and runs these."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.site.site import built, described, public

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("site"))


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    known = described(site)
    missing = [name for name, names in public() if not names & known]
    assert not missing, "an `automodule` in docs/reference/ brings them"
