"""A wall clock that was set is noticed, by this daemon and by the next one."""

from __future__ import annotations

from fusemld.daemon.clock import WallClock

DAY_S = 86400.0


class Host:
    """Its clocks: one that people set, and one that only its boot sets."""

    def __init__(self) -> None:
        self.wall_s = 1_000_000.0
        self.up_s = 500.0
        self.boot = "b1"

    def clock(self, known: str | None = None) -> WallClock:
        return WallClock(self.boot, known, wall=lambda: self.wall_s, steady=lambda: self.up_s)

    def pass_time(self, seconds: float, *, slewed_s: float = 0.0) -> None:
        self.wall_s += seconds + slewed_s
        self.up_s += seconds


def test_time_that_passes_and_a_clock_that_is_slewed_are_no_news() -> None:
    host = Host()
    clock = host.clock()

    host.pass_time(3 * DAY_S, slewed_s=0.5)

    assert clock.read()[1] == 0.0
    assert clock() == host.wall_s


def test_a_clock_that_was_set_is_told_once_with_its_direction() -> None:
    host = Host()
    clock = host.clock()

    host.wall_s += DAY_S
    forwards = [clock.read()[1], clock.read()[1]]
    host.wall_s -= 2 * DAY_S

    assert forwards == [DAY_S, 0.0]
    assert clock.read()[1] == -2 * DAY_S


def test_the_next_daemon_notices_what_was_set_while_there_was_none() -> None:
    host = Host()
    known = host.clock().record().value
    host.pass_time(60.0)
    host.wall_s += DAY_S

    clock = host.clock(known)

    assert clock.read()[1] == DAY_S
    assert host.clock(clock.record().value).read()[1] == 0.0


def test_what_was_not_recorded_is_told_again() -> None:
    host = Host()
    clock = host.clock()
    known = clock.record().value
    host.wall_s += DAY_S

    clock.read()

    assert host.clock(known).read()[1] == DAY_S


def test_another_boot_has_nothing_to_compare_with() -> None:
    host = Host()
    known = host.clock().record().value
    host.boot, host.up_s = "b2", 10.0

    assert host.clock(known).read()[1] == 0.0
