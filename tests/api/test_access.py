from __future__ import annotations

import os
import socket

import pytest

from fusemld.api.access import Access, Peer, Rules, access_of, group_id, peer_of, require, user_name
from fusemld.model.errors import ForbiddenError, StartError

DAEMON = 990
GROUP = 44


@pytest.mark.parametrize(
    ("uid", "groups", "group", "expected"),
    [
        (0, (), None, Access.ADMINISTER),
        (DAEMON, (), None, Access.ADMINISTER),
        (DAEMON, (GROUP,), GROUP, Access.ADMINISTER),
        (1000, (GROUP,), GROUP, Access.OPERATE),
        (1000, (GROUP,), None, Access.NONE),
        (1000, (45,), GROUP, Access.NONE),
        (1000, (), GROUP, Access.NONE),
        (1000, (0,), None, Access.NONE),
    ],
)
def test_credentials_decide_who_may_do_what(
    uid: int, groups: tuple[int, ...], group: int | None, expected: Access
) -> None:
    assert access_of(Peer(uid=uid, groups=frozenset(groups)), Rules(uid=DAEMON, group=group)) is expected


def test_an_operator_is_told_what_only_administrators_may() -> None:
    rules = Rules(uid=DAEMON, group=GROUP)

    with pytest.raises(ForbiddenError, match="only the daemon's own user and root may"):
        require(Peer(uid=987654, groups=frozenset({GROUP})), rules, Access.ADMINISTER)


def test_a_stranger_is_told_whom_the_daemon_answers() -> None:
    with pytest.raises(ForbiddenError, match="cannot answer 987654: neither"):
        require(Peer(uid=987654), Rules(uid=DAEMON), Access.OPERATE)


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    here, there = socket.socketpair(socket.AF_UNIX)
    with here, there:
        peer = peer_of(here, Rules(uid=os.getuid() + 1, group=os.getgid()))

    assert peer.uid == os.getuid()


def test_a_user_without_a_name_is_a_number() -> None:
    assert user_name(987654) == "987654"


def test_an_unknown_group_is_an_error_at_the_start() -> None:
    with pytest.raises(StartError, match="there is no such group"):
        group_id("no-such-group-here")


def test_no_group_is_no_group() -> None:
    assert group_id("") is None
