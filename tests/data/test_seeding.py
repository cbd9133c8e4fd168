from __future__ import annotations

import random

import numpy as np
import torch

from mtl_lightning.data.seeding import generator_of, mixed_seed, random_state_of


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_seed_is_a_function_of_its_parts_in_their_order() -> None:
    assert mixed_seed(0, 1) == mixed_seed(0, 1)
    assert len({mixed_seed(a, b) for a in range(30) for b in range(30)}) == 900
    assert mixed_seed(1, "x") != mixed_seed("x", 1)
    assert all(0 <= mixed_seed(n) < 2**63 for n in range(200))


def test_a_seed_does_not_change_between_versions() -> None:
    # The digest is that of coreutils: printf '(0, 0)' | b2sum -l 64
    assert mixed_seed(0, 0) == int.from_bytes(bytes.fromhex("257993e97254ab8d"), "little") >> 1


def test_generators_of_close_parts_are_unrelated() -> None:
    first = torch.randn(2000, generator=generator_of(0, 0))
    second = torch.randn(2000, generator=generator_of(0, 1))
    assert abs(float((first * second).mean())) < 0.1


def test_the_random_states_are_set_and_put_back() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = [drawn(), drawn()]
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = drawn()
    with random_state_of(7):
        inside = drawn()
    after = drawn()
    with random_state_of(7):
        again = drawn()
    assert [before, after] == expected
    assert inside == again
    assert inside != before
