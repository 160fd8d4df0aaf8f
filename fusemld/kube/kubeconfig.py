"""kubeconfig files: read, merged, one context selected.

https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/ and the type `Config` of
k8s.io/client-go/tools/clientcmd/api/v1. Problems are told without any value of the file: it may be a secret.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import yaml

from fusemld.model.errors import StartError


class Cluster(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""

    def __repr__(self) -> str:
        return f"Cluster(server={self.server!r})"


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    value: str = ""


class ExecPlugin(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A program that prints an `ExecCredential`."""

    api_version: str
    command: str
    args: tuple[str, ...] | None = None
    env: tuple[Variable, ...] | None = None
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = ""

    def __repr__(self) -> str:
        return f"ExecPlugin(command={self.command!r})"


class User(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = msgspec.field(name="tokenFile", default="")
    username: str = ""
    password: str = ""
    exec: ExecPlugin | None = None
    auth_provider: dict[str, Any] | None = None
    as_: str = msgspec.field(name="as", default="")
    as_uid: str = ""
    as_groups: tuple[str, ...] | None = None
    as_user_extra: dict[str, tuple[str, ...]] | None = None

    def __repr__(self) -> str:
        return "User(<hidden>)"


class Context(msgspec.Struct, frozen=True, kw_only=True):
    cluster: str
    user: str = ""
    namespace: str = ""


class _NamedCluster(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    cluster: Cluster


class _NamedUser(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    user: User | None = None


class _NamedContext(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    context: Context


class Kubeconfig(msgspec.Struct, frozen=True, kw_only=True):
    clusters: tuple[_NamedCluster, ...] | None = None
    users: tuple[_NamedUser, ...] | None = None
    contexts: tuple[_NamedContext, ...] | None = None
    current_context: str | None = msgspec.field(name="current-context", default=None)

    def __repr__(self) -> str:
        return "Kubeconfig(<hidden>)"


class Selected(msgspec.Struct, frozen=True, kw_only=True):
    """What one context names. Relative paths have become absolute."""

    cluster: Cluster
    user: User
    namespace: str

    def __repr__(self) -> str:
        return f"Selected(server={self.cluster.server!r})"


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_NamedT = TypeVar("_NamedT", bound=_Named)


def parse(text: str | bytes, where: str) -> Kubeconfig:
    """Raises `StartError` that names `where` and the place in it."""
    try:
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark is not None else where
        raise StartError(f"cannot read the kubeconfig {place}: it is no YAML from here on") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError):
        raise StartError(f"cannot read the kubeconfig {where}: it is no YAML") from None
    if content is None:
        raise StartError(f"cannot read the kubeconfig {where}: it is empty")
    try:
        return msgspec.convert(content, Kubeconfig)
    except msgspec.ValidationError as error:
        raise StartError(f"cannot read the kubeconfig {where}: {error}") from None


def read(path: Path) -> Kubeconfig:
    try:
        return absolute(parse(path.read_bytes(), str(path)), path.absolute().parent)
    except OSError as error:
        raise StartError(f"cannot read the kubeconfig {path}: {error.strerror or error}") from error


def merge(configs: Sequence[Kubeconfig]) -> Kubeconfig:
    """The first one that gives a name, or the current context, wins."""
    return Kubeconfig(
        clusters=_first_of_each(entry for config in configs for entry in config.clusters or ()),
        users=_first_of_each(entry for config in configs for entry in config.users or ()),
        contexts=_first_of_each(entry for config in configs for entry in config.contexts or ()),
        current_context=next((config.current_context for config in configs if config.current_context), None),
    )


def select(config: Kubeconfig, context: str, where: str) -> Selected:
    """What the context (empty: the current one) names. Raises `StartError`."""
    name = context or config.current_context or ""
    doing = f"cannot use the kubeconfig {where}"
    if not name:
        raise StartError(f"{doing}: it has no current context, and the settings name none")
    chosen = _find(config.contexts, name)
    if chosen is None:
        known = ", ".join(entry.name for entry in config.contexts or ()) or "none"
        raise StartError(f"{doing}: it has no context {name!r} (it has: {known})")
    cluster = _find(config.clusters, chosen.context.cluster)
    if cluster is None:
        raise StartError(
            f"{doing}: context {name!r} names the cluster {chosen.context.cluster!r}, which is not there"
        )
    if not cluster.cluster.server:
        raise StartError(f"{doing}: the cluster {cluster.name!r} has no server")
    user = _find(config.users, chosen.context.user)
    if user is None and chosen.context.user:
        raise StartError(f"{doing}: context {name!r} names the user {chosen.context.user!r}, who is not there")
    return Selected(
        cluster=cluster.cluster,
        user=user.user if user is not None and user.user is not None else User(),
        namespace=chosen.context.namespace,
    )


def absolute(config: Kubeconfig, folder: Path) -> Kubeconfig:
    """The same with paths that do not depend on where the file lies."""

    def at(path: str) -> str:
        return str(folder / path) if path else ""

    def located(user: User) -> User:
        plugin = user.exec
        if plugin is not None and "/" in plugin.command:  # a bare name is looked for on PATH
            plugin = msgspec.structs.replace(plugin, command=at(plugin.command))
        return msgspec.structs.replace(
            user,
            client_certificate=at(user.client_certificate),
            client_key=at(user.client_key),
            token_file=at(user.token_file),
            exec=plugin,
        )

    replace = msgspec.structs.replace
    return replace(
        config,
        clusters=tuple(
            replace(
                entry,
                cluster=replace(entry.cluster, certificate_authority=at(entry.cluster.certificate_authority)),
            )
            for entry in config.clusters or ()
        ),
        users=tuple(
            replace(entry, user=None if entry.user is None else located(entry.user))
            for entry in config.users or ()
        ),
    )


def content(data: str, path: str, what: str) -> bytes | None:
    """Of a pair like `client-key-data` and `client-key` the data, else the file's content; None without either."""
    if data:
        try:
            return base64.b64decode(data, validate=False)
        except (binascii.Error, ValueError):
            raise StartError(f"cannot read {what}-data: it is not base64") from None
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise StartError(f"cannot read {what} {path}: {error.strerror or error}") from error


def _first_of_each(entries: Iterable[_NamedT]) -> tuple[_NamedT, ...]:
    found: dict[str, _NamedT] = {}
    for entry in entries:
        found.setdefault(entry.name, entry)
    return tuple(found.values())


def _find(entries: Sequence[_NamedT] | None, name: str) -> _NamedT | None:
    return next((entry for entry in entries or () if entry.name == name), None)
