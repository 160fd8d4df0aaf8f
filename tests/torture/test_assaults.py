"""What a campaign does is complete, and its seed repeats it."""

from __future__ import annotations

import random
from collections import Counter

from tests.torture.assaults import POINTS, Fault, Kill, Mishap, Victim, What, plan


def test_a_seed_repeats_its_assaults() -> None:
    assert list(plan(100, random.Random(1))) == list(plan(100, random.Random(1)))
    assert list(plan(100, random.Random(1))) != list(plan(100, random.Random(2)))


def test_a_campaign_kills_as_often_as_asked_for() -> None:
    kills = [assault for assault in plan(75, random.Random(1)) if isinstance(assault, Kill | Fault)]

    assert len(kills) == 75


def test_every_fault_point_comes_in_turn_and_so_does_every_victim() -> None:
    assaults = list(plan(2 * len(POINTS), random.Random(1)))

    assert Counter(one.point for one in assaults if isinstance(one, Fault)) == Counter(POINTS)
    assert {one.victim for one in assaults if isinstance(one, Kill)} == set(Victim)


def test_every_mishap_comes_in_turn() -> None:
    mishaps = [one.what for one in plan(8 * len(What), random.Random(1)) if isinstance(one, Mishap)]

    assert Counter(mishaps) == dict.fromkeys(What, 2)
