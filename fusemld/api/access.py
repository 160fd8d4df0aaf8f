"""Who may do what: decided by the credentials that the kernel gives for the other end of a Unix socket."""

from __future__ import annotations

import enum
import functools
import grp
import os
import pwd
import socket
import struct

import msgspec

from fusemld.model.errors import ForbiddenError, StartError

_UCRED = struct.Struct("3i")


class Access(enum.IntEnum):
    """Each level includes those below it."""

    NONE = 0
    OPERATE = 1
    ADMINISTER = 2


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    uid: int
    groups: frozenset[int] = frozenset()


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """`uid` is the daemon's own, `group` the id of the group whose members operate."""

    uid: int
    group: int | None = None


def access_of(peer: Peer, rules: Rules) -> Access:
    """The daemon's own user and root administer, members of the group operate, others may nothing."""
    if peer.uid in (0, rules.uid):
        return Access.ADMINISTER
    if rules.group is not None and rules.group in peer.groups:
        return Access.OPERATE
    return Access.NONE


def require(peer: Peer, rules: Rules, needed: Access) -> None:
    """Raises `ForbiddenError` that says what would be needed."""
    granted = access_of(peer, rules)
    if granted >= needed:
        return
    if granted is Access.NONE:
        raise ForbiddenError(f"cannot answer {user_name(peer.uid)}: neither the daemon's user nor in its group")
    raise ForbiddenError(f"cannot do this for {user_name(peer.uid)}: only the daemon's own user and root may")


def peer_of(connection: socket.socket, rules: Rules) -> Peer:
    """The user at the other end when it connected. Its groups (those that the user database gives it) are looked
    up only where they count."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, gid = _UCRED.unpack(raw)
    if rules.group is None or uid in (0, rules.uid):
        return Peer(uid=uid)
    try:
        groups = os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        groups = [gid]
    return Peer(uid=uid, groups=frozenset(groups))


@functools.lru_cache(maxsize=64)
def user_name(uid: int) -> str:
    """The name of the user, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_id(name: str) -> int | None:
    """None for an empty name; `StartError` for an unknown one."""
    if not name:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise StartError(f"cannot open the API to the group {name!r}: there is no such group") from None
