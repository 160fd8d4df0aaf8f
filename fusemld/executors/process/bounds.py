"""How the keeper holds what it starts to a number of processes: by control groups, or by the user's limit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from fusemld.executors.process import groups, user_limit
from fusemld.executors.process.loop import log


class Bound(msgspec.Struct, kw_only=True):
    """What holds one step to its `limit`: its `group` or, where there is none, that its user may have no more
    processes when `on_host` of them are on this host."""

    limit: int
    group: groups.Group | None = None
    on_host: int = 0
    reached: str = ""
    """The name of the limit, once it was found to be reached."""

    def is_reached_now(self) -> bool:
        """Whether that is found out only now. (Only version 2 of control groups would report it.)"""
        if self.reached:
            return False
        is_so = self.group.refusals > 0 if self.group is not None else user_limit.on_host() >= self.on_host
        if is_so:
            what = f"{self.limit} processes and threads at the same time"
            self.reached = f"the limit of {what} (setting process.step_processes)"
        return is_so


class Bounds:
    """One for a keeper's life. Whatever goes wrong with a group is logged: the step then runs without."""

    def __init__(self, marker: str) -> None:
        self._groups = _open(marker)
        self._is_away = False
        self._share_problem = ""

    @contextlib.contextmanager
    def held(self, limit: int) -> Iterator[Bound | None]:
        """What is started meanwhile is held to the limit, as well as this host and its user allow. Raises OSError
        where it would be in the group of something else.

        The keeper stays in the group until `go_home`, or until it starts something else: to leave it, it would
        have to wait until what it has started has got going, and it has something to tell first.
        """
        group = self._enter(limit) if limit else None
        if group is not None:
            try:
                yield Bound(limit=limit, group=group)
            except Exception:
                self.go_home()
                group.remove()
                raise
            return
        self._leave()
        if limit and user_limit.holds():
            with user_limit.bounded(limit) as on_host:
                yield Bound(limit=limit, on_host=on_host)
        else:
            yield None

    def share(self, bound: Bound) -> None:
        """What has run for a while has one share of the processors, however many processes it has."""
        if bound.group is None:
            return
        try:
            bound.group.share()
        except OSError as error:
            if self._share_problem != str(error.strerror):
                self._share_problem = str(error.strerror)
                log(f"steps do not share the processors by step now: {error}")

    def release(self, group: groups.Group) -> bool:
        """The step has ended. False: something of it has not."""
        return self._groups is None or self._groups.give_back(group)

    def go_home(self) -> None:
        """Leave the group of what was started last; where that cannot be done now, with the next call."""
        try:
            self._leave()
        except OSError as error:
            log(f"cannot return to my control group: {error}")

    def _leave(self) -> None:
        if self._is_away and self._groups is not None:
            self._groups.leave()
            self._is_away = False

    def clean(self) -> None:
        """End and remove what is in any group of this state folder."""
        self.go_home()
        if self._groups is not None:
            self._groups.clean()

    def _enter(self, limit: int) -> groups.Group | None:
        if self._groups is None:
            return None
        self._is_away = True
        try:
            return self._groups.enter(limit)
        except OSError as error:
            log(f"cannot make a control group: {error}")
            return None


def _open(marker: str) -> groups.Groups | None:
    place = groups.find()
    if place is None:
        return None
    found = groups.Groups(place, marker)
    try:
        found.open()
    except OSError as error:
        log(f"no control groups are to be had in {place.base}: {error}")
        return None
    return found
