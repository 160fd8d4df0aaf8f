"""Control groups: what a step starts stays in its own, may be only so many processes, and can be ended for good.

A group is to be had below a place that this process may write. With control groups of version 2 that is the group
above its own one, where its own one is called `daemon` (systemd: `Delegate=yes`, `DelegateSubgroup=daemon`;
processes and groups do not mix there); with version 1 its own one in the hierarchy `pids`. All of it is files of
the kernel: https://docs.kernel.org/admin-guide/cgroup-v2.html
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal

import msgspec

from fusemld.executors.process.spawning import kill

OWN_GROUP = "daemon"
KEPT = 64
"""Empty groups that wait for another step."""
_TREE = "cgroup.subtree_control"
_PIECE_BYTES = 65536
_SHARE_LOOKS = 10


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """`base` is where groups can be made, `home` where the process itself is (folders); `door` is the file of a
    group by which a process enters. `shares` is the same in the hierarchy that divides the processors, where that
    is one of its own (version 1)."""

    base: str
    home: str
    door: str = "cgroup.procs"
    shares: Place | None = None


def find(pid: int | None = None, proc: str = "/proc") -> Place | None:
    """Where this process, or another, may have groups that bound processes; None: nowhere."""
    process = f"{proc}/{pid or 'self'}"
    try:
        memberships = _text(f"{process}/cgroup")
        mounts = _text(f"{process}/mountinfo")
    except OSError:
        return None
    home = _home(memberships, mounts, "pids")
    if home is not None and _may_write(process, home):
        shares = _home(memberships, mounts, "cpu")
        is_usable = shares is not None and _may_write(process, shares)
        beside = Place(base=shares, home=shares) if shares and is_usable else None
        # A thread that moves itself does not wait for all forks under way, as a whole process does. The keeper has
        # only one.
        return Place(base=home, home=home, door="tasks", shares=beside)
    home = _home(memberships, mounts, "")
    if home is not None:
        place = Place(base=os.path.dirname(home), home=home)  # noqa: PTH120 - spares the keeper pathlib, as below
        if _is_delegated(place) and _may_write(process, place.base):
            return place
    return None


def _may_write(process: str, folder: str) -> bool:
    """Of another user's process only what its user owns is known to be writable for it."""
    user = os.stat(process).st_uid  # noqa: PTH116
    try:
        return os.access(folder, os.W_OK) and user in (0, os.geteuid(), os.stat(folder).st_uid)  # noqa: PTH116
    except OSError:
        return False


def _home(memberships: str, mounts: str, controller: str) -> str | None:
    """The folder of the process's group in the hierarchy of the controller, with none in that of version 2."""
    path = None
    for line in memberships.splitlines():
        _number, controllers, group = line.split(":", 2)
        if controller in controllers.split(","):
            path = group
    if path is None or path.startswith("/.."):
        return None
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        root, mounted_at = fields.split()[3:5]
        filesystem, _source, options = rest.split(" ", 2)
        if filesystem == ("cgroup" if controller else "cgroup2") and (
            not controller or controller in options.split(",")
        ):
            below = path if root == "/" else path.removeprefix(root)
            return mounted_at + below.rstrip("/")
    return None


def _is_delegated(place: Place) -> bool:
    if not place.home.endswith(f"/{OWN_GROUP}"):
        return False
    try:
        return "pids" in _text(f"{place.base}/cgroup.controllers").split()
    except OSError:
        return False


class Group:
    """The group of one step. Its folders are there until `remove` says so."""

    def __init__(self, place: Place, name: str, limit: int) -> None:
        self._path = f"{place.base}/{name}"
        self._share_path = f"{place.shares.base}/{name}" if place.shares is not None else None
        self._has_share = False
        self._door = place.door
        self._limit = limit
        self._bound_to = -1
        self._refused_before = 0
        self._is_surely_empty = False
        """Nothing but this object lets anything in."""

    def open(self) -> None:
        """Raises OSError."""
        os.mkdir(self._path)  # noqa: PTH102
        self._bound()

    def empty(self) -> bool:
        """Make it ready for another step. False: something in it has not ended yet, or that cannot be done now."""
        if self.is_populated or not self._end_share():
            return False
        try:
            self._refused_before = self._refused()
        except FileNotFoundError:
            self._refused_before = 0
        except OSError:
            return False
        return True

    def renew(self, limit: int) -> None:
        """Let an empty group be that of another step. Raises OSError."""
        self._limit = limit
        self._bound()

    def _bound(self) -> None:
        # The keeper itself is in it while it starts the first process.
        self._allow(max(2, self._limit))

    def _allow(self, processes: int) -> None:
        if processes != self._bound_to:
            _write(f"{self._path}/pids.max", str(processes))
            self._bound_to = processes

    @property
    def refusals(self) -> int:
        """How often a process of the step could not be started because of the limit."""
        try:
            return self._refused() - self._refused_before
        except OSError:
            return 0

    def _refused(self) -> int:
        words = _text(f"{self._path}/pids.events").split()
        return int(words[words.index("max") + 1]) if "max" in words else 0

    def enter(self) -> None:
        """Whatever this process starts from now on is in the group. Raises OSError."""
        self._is_surely_empty = False
        _write(f"{self._path}/{self._door}", "0")

    def share(self) -> None:
        """Let all that is in it have one share of the processors, and whatever it starts. Raises OSError.

        To be asked for now and then: what starts a process meanwhile may get away from this look, not from all.
        Only what runs for a while is worth it: a group of its own among those that share the processors costs a
        short step more than everything else about groups.
        """
        if self._share_path is None:
            return
        if not self._has_share:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._share_path)  # noqa: PTH102
            self._has_share = True
        for _ in range(_SHARE_LOOKS):
            has_it = {int(line) for line in _text(f"{self._share_path}/cgroup.procs").split()}
            if not (new := (self._pids() or set()) - has_it - {os.getpid()}):
                return
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    _write(f"{self._share_path}/cgroup.procs", str(pid))

    def _end_share(self) -> bool:
        """False: something in it has not ended yet."""
        if self._has_share and self._share_path is not None:
            try:
                os.rmdir(self._share_path)  # noqa: PTH106
            except OSError:
                return False
            self._has_share = False
        return True

    def kill(self) -> bool:
        """Kill what is in it, once; nothing can be started there any more. False: nothing was left."""
        if (pids := self._pids()) == set():
            return False
        self.seal()
        for pid in ((pids or set()) | (self._pids() or set())) - {os.getpid()}:
            kill(pid, signal.SIGKILL)
        return True

    @property
    def is_populated(self) -> bool:
        """True also where that cannot be found out now."""
        return self._pids() != set()

    def seal(self) -> None:
        with contextlib.suppress(OSError):
            self._allow(0)

    def remove(self) -> bool:
        """False: something in it has not ended yet."""
        # The first is how the next keeper finds it, so that one goes last.
        for path in (self._share_path, self._path):
            try:
                if path is not None:
                    os.rmdir(path)  # noqa: PTH106
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return True

    def _pids(self) -> set[int] | None:
        """None: nobody can tell now, for want of descriptors perhaps."""
        if self._is_surely_empty:
            return set()
        try:
            pids = {int(line) for line in _text(f"{self._path}/cgroup.procs").split()}
        except FileNotFoundError:
            pids = set()
        except OSError:
            return None
        self._is_surely_empty = not pids
        return pids


class Groups:
    """Those of one keeper, told from others' by its state folder's marker."""

    def __init__(self, place: Place, marker: str) -> None:
        self._place = place
        self._prefix = f"fusemld-{marker}-"
        self._numbers = itertools.count(1)
        self._free: list[Group] = []

    def open(self) -> None:
        """What an earlier keeper left can start nothing more. Raises OSError where none can be had after all."""
        tree = f"{self._place.base}/{_TREE}"
        if os.path.exists(tree):  # noqa: PTH110
            _write(tree, "+pids")
            # Steps share the processors by step, however many processes each has (here from their beginning).
            with contextlib.suppress(OSError):
                _write(tree, "+cpu")
        for group in self._left():
            group.seal()
        probe = Group(self._place, f"{self._prefix}probe-{os.getpid()}", 1)
        try:
            probe.open()
        finally:
            probe.remove()

    def enter(self, limit: int) -> Group:
        """An empty group with this process in it until `leave`. Raises OSError: then it may be anywhere."""
        is_used = bool(self._free)
        group = self._free.pop() if is_used else self._new(limit)
        try:
            if is_used:
                group.renew(limit)
            else:
                group.open()
            group.enter()
        except OSError:
            with contextlib.suppress(OSError):
                self.leave()
            group.remove()
            raise
        return group

    def _new(self, limit: int) -> Group:
        return Group(self._place, f"{self._prefix}{os.getpid()}-{next(self._numbers)}", limit)

    def give_back(self, group: Group) -> bool:
        """Keep it for another step, or remove it: making and removing groups costs the kernel more than entering
        them. False: something in it has not ended yet."""
        if len(self._free) >= KEPT:
            return group.remove()
        if not group.empty():
            return False
        self._free.append(group)
        return True

    def leave(self) -> None:
        """Back to where this process belongs. Raises OSError."""
        try:
            _write(f"{self._place.home}/{self._place.door}", "0")
        except FileNotFoundError:
            # Nobody was in it for a moment, and somebody tidied up.
            os.mkdir(self._place.home)  # noqa: PTH102
            _write(f"{self._place.home}/{self._place.door}", "0")

    def clean(self) -> None:
        """End and remove all that is left."""
        self._free.clear()
        for group in self._left():
            group.kill()
            group.remove()

    def _left(self) -> list[Group]:
        names = [name for name in os.listdir(self._place.base) if name.startswith(self._prefix)]  # noqa: PTH208
        return [Group(self._place, name, 0) for name in names]


def _text(path: str) -> str:
    """Without what `open` costs: several of them are read for each step."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(descriptor, _PIECE_BYTES):
            pieces.append(piece)
        return os.fsdecode(b"".join(pieces))
    finally:
        os.close(descriptor)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
