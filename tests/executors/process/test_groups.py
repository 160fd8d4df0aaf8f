"""Where control groups may be made, by what the kernel says of a process, and what is made of its refusals."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fusemld.executors.process import bounds, groups


class Host:
    """The files of a process and of a hierarchy of groups, as Linux lays them out."""

    def __init__(self, base: Path) -> None:
        self.proc = base / "proc"
        self.mount = base / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        self.mount.mkdir()

    def is_in(self, membership: str, mount: str, root: str = "/") -> None:
        (self.proc / "self" / "cgroup").write_text(f"5:cpu,cpuacct:/x\n{membership}\n")
        mounts = f"31 23 0:28 / /sys rw - sysfs sysfs rw\n39 31 0:36 {root} {self.mount} rw shared:9 - {mount}\n"
        (self.proc / "self" / "mountinfo").write_text(mounts)

    def group(self, path: str, controllers: str = "cpu pids") -> Path:
        folder = self.mount / path
        folder.mkdir(parents=True)
        (folder / "cgroup.controllers").write_text(f"{controllers}\n")
        return folder

    def found(self) -> tuple[str, str] | None:
        place = groups.find(proc=str(self.proc))
        return (place.base, place.home) if place else None


V2 = "cgroup2 cgroup2 rw,nsdelegate"
V1 = "cgroup cgroup rw,pids"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_with_version_2_steps_are_beside_the_daemons_own_group_of_a_delegated_unit(host: Host) -> None:
    unit = host.group("system.slice/fusemld.service")
    host.is_in("0::/system.slice/fusemld.service/daemon", V2)

    assert host.found() == (str(unit), str(unit / "daemon"))


def test_a_unit_that_is_not_divided_is_left_alone(host: Host) -> None:
    host.group("system.slice/fusemld.service")
    host.is_in("0::/system.slice/fusemld.service", V2)

    assert host.found() is None


def test_without_the_controller_there_is_nothing_to_hold_a_step(host: Host) -> None:
    host.group("system.slice/fusemld.service", controllers="cpu memory")
    host.is_in("0::/system.slice/fusemld.service/daemon", V2)

    assert host.found() is None


def test_with_version_1_steps_are_below_the_daemons_group_of_the_hierarchy_pids(host: Host) -> None:
    group = host.group("docker/abc")
    host.is_in("8:pids:/docker/abc\n0::/", V1)

    assert host.found() == (str(group), str(group))


def test_a_hierarchy_of_which_only_a_part_is_mounted_is_found_there(host: Host) -> None:
    host.is_in("8:pids:/docker/abc\n0::/", V1, root="/docker/abc")

    assert host.found() == (str(host.mount), str(host.mount))


def test_with_version_1_the_hierarchy_that_divides_the_processors_is_found_too(host: Host) -> None:
    host.group("docker/abc")
    host.is_in("8:pids:/docker/abc\n0::/", V1)
    mounts = host.proc / "self" / "mountinfo"
    other = f"40 31 0:37 / {host.proc} rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    mounts.write_text(mounts.read_text() + other)
    (host.proc / "x").mkdir()

    place = groups.find(proc=str(host.proc))

    assert place is not None
    assert place.shares is not None
    assert place.shares.base == place.shares.home == str(host.proc / "x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_group_that_belongs_to_somebody_else_is_of_no_use(host: Host) -> None:
    host.group("a").chmod(0o555)
    host.is_in("8:pids:/a\n0::/", V1)

    assert host.found() is None


def test_a_group_of_which_nobody_can_tell_who_is_in_it_counts_as_populated(host: Host) -> None:
    place = groups.Place(base=str(host.mount), home=str(host.mount))
    group = groups.Group(place, "g", 5)
    folder = host.group("g")
    (folder / "cgroup.procs").mkdir()

    unknown = (group.is_populated, group.kill())
    (folder / "cgroup.procs").rmdir()
    (folder / "cgroup.procs").write_text("")
    empty = (group.is_populated, group.kill())

    assert unknown == (True, True)
    assert empty == (False, False)


def test_a_group_of_which_nobody_can_tell_what_it_was_refused_is_not_taken_again_yet(
    host: Host,
) -> None:
    place = groups.Place(base=str(host.mount), home=str(host.mount))
    made = groups.Groups(place, "m")
    group = groups.Group(place, "g", 5)
    folder = host.group("g")
    (folder / "cgroup.procs").write_text("")
    (folder / "pids.events").mkdir()  # cannot be read

    too_early = made.give_back(group)
    (folder / "pids.events").rmdir()
    (folder / "pids.events").write_text("max 3\n")
    before = group.refusals
    given_back = made.give_back(group)
    (folder / "pids.events").write_text("max 4\n")

    assert (too_early, given_back) == (False, True)
    assert (before, group.refusals) == (3, 1)


class StuckGroups(groups.Groups):
    """A double: entering works, and leaving does not as long as `is_stuck`."""

    is_stuck = True

    def enter(self, limit: int) -> groups.Group:
        return groups.Group(self._place, "g", limit)

    def leave(self) -> None:
        if self.is_stuck:
            raise OSError(errno.EMFILE, "Too many open files")


def test_nothing_is_started_in_the_group_of_something_else(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    place = groups.Place(base=str(host.mount), home=str(host.mount))
    stuck = StuckGroups(place, "m")
    monkeypatch.setattr(bounds, "_open", lambda _marker: stuck)
    made = bounds.Bounds("m")

    with made.held(5) as bound:
        assert bound is not None
        assert bound.group is not None
    made.go_home()
    with pytest.raises(OSError, match="Too many open files"), made.held(0):
        pytest.fail("it would be started")
    stuck.is_stuck = False
    with made.held(0) as bound:
        assert bound is None
