"""Where credentials for an API server come from: kubeconfigs and service accounts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import anyio
import msgspec

from fusemld.kube import exec_plugin, kubeconfig, library, proxies, tls
from fusemld.kube.access import Access
from fusemld.kube.kubeconfig import Cluster, Selected, User
from fusemld.kube.tls import TlsMaterial
from fusemld.model.errors import StartError, UnavailableError

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_REREAD_S: Final = 60.0
"""Tokens in files are replaced by others; client-go looks at them every minute, too."""
_BEFORE_EXPIRY_S: Final = 10.0


class KubeconfigFiles:
    """One context of one kubeconfig file, or of several merged."""

    def __init__(self, paths: Sequence[Path], context: str) -> None:
        self._paths = tuple(paths)
        self._context = context
        self.where = ":".join(map(str, paths))
        self._authenticator = _Authenticator(f"the kubeconfig {self.where}")

    async def load(self) -> Access:
        return await self._authenticator.access(self._selected())

    async def place(self) -> Access:
        return self._authenticator.place(self._selected())

    def _selected(self) -> Selected:
        present = [path for path in self._paths if len(self._paths) == 1 or path.exists()]
        if not present:
            raise StartError(f"cannot read the kubeconfig {self.where}: No such file or directory")
        merged = kubeconfig.merge([kubeconfig.read(path) for path in present])
        return kubeconfig.select(merged, self._context, self.where)


class Given:
    """Credentials in memory, which are used as they are."""

    def __init__(self, selected: Selected, where: str) -> None:
        self._selected = selected
        self._authenticator = _Authenticator(where)

    async def load(self) -> Access:
        return await self._authenticator.access(self._selected)

    async def place(self) -> Access:
        return self._authenticator.place(self._selected)


class ServiceAccountFolder:
    """What Kubernetes mounts into a pod."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = environ
        self._tls = tls.TlsCache()

    def is_there(self) -> bool:
        return bool(self._environ.get("KUBERNETES_SERVICE_HOST")) and (self._folder / "token").is_file()

    async def load(self) -> Access:
        config = library.load()
        found = config.incluster_config.Configuration()
        try:
            config.incluster_config.InClusterConfigLoader(
                token_filename=str(self._folder / "token"),
                cert_filename=str(self._folder / "ca.crt"),
                environ=dict(self._environ),
            ).load_and_set(found)
            authority = Path(found.ssl_ca_cert).read_bytes()
            namespace = (self._folder / "namespace").read_text().strip()
        except (config.ConfigException, OSError, UnicodeDecodeError) as error:
            raise StartError(f"cannot use the service account in {self._folder}: {error}") from None
        return Access(
            server=found.host,
            namespace=namespace,
            authorization=_header(found.api_key["BearerToken"], str(self._folder / "token")),
            tls=self._tls.context(TlsMaterial(authority=authority)),
            renew_at=time.time() + _REREAD_S,
        )

    async def place(self) -> Access:
        return await self.load()


class _Authenticator:
    """Turns what a context names into access; the TLS context stays the same while its material does, and with it
    the connections that are open."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._tls = tls.TlsCache()

    def place(self, selected: Selected) -> Access:
        return Access(server=self._server(selected.cluster), namespace=selected.namespace, renew_at=0.0)

    async def access(self, selected: Selected) -> Access:
        user, cluster = selected.user, selected.cluster
        authority = kubeconfig.content(
            cluster.certificate_authority_data, cluster.certificate_authority, "certificate-authority"
        )
        certificate = kubeconfig.content(
            user.client_certificate_data, user.client_certificate, "client-certificate"
        )
        key = kubeconfig.content(user.client_key_data, user.client_key, "client-key")
        renew_at = time.time() + _REREAD_S if user.token_file or user.auth_provider else None
        if user.exec is not None:
            status = await exec_plugin.run(user.exec, cluster)
            user = msgspec.structs.replace(user, token=status.token or user.token)
            if status.client_certificate_data:
                certificate = status.client_certificate_data.encode()
                key = status.client_key_data.encode()
            if status.expiration_timestamp is not None:
                renew_at = status.expiration_timestamp.timestamp() - _BEFORE_EXPIRY_S
        material = TlsMaterial(
            authority=authority,
            certificate=certificate,
            key=key,
            is_verified=not cluster.insecure_skip_tls_verify,
        )
        server = self._server(cluster)
        return Access(
            server=server,
            namespace=selected.namespace,
            authorization=_header(await self._authorization(user), self._where),
            impersonation=tuple((name, _header(value, self._where)) for name, value in _impersonation(user)),
            tls=self._tls.context(material) if server.startswith("https:") else None,
            server_name=cluster.tls_server_name or None,
            proxy=self._proxy(cluster),
            renew_at=renew_at,
        )

    async def _authorization(self, user: User) -> str:
        """By kubernetes-asyncio: tokens, token files, passwords and the older providers (`oidc`, `gcp`)."""
        config = library.load()
        told: dict[str, Any] = {
            "token": user.token,
            "tokenFile": user.token_file,
            "username": user.username,
            "password": user.password,
            "auth-provider": user.auth_provider,
        }
        found = config.kube_config.Configuration()
        try:
            loader = config.kube_config.KubeConfigLoader(
                {
                    "current-context": "it",
                    "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
                    "clusters": [{"name": "it", "cluster": {"server": "http://unused"}}],
                    "users": [{"name": "it", "user": {name: value for name, value in told.items() if value}}],
                }
            )
            with anyio.fail_after(exec_plugin.TIMEOUT_S):
                await loader.load_and_set(found)
        except TimeoutError:
            raise UnavailableError(f"cannot get the credentials in {self._where}: no answer in time") from None
        except Exception as error:  # noqa: BLE001 - it raises anything, with anything from the file in its text
            raise StartError(f"cannot use the credentials in {self._where}: {type(error).__name__}") from None
        return str(found.api_key.get("BearerToken", ""))

    def _server(self, cluster: Cluster) -> str:
        try:
            parts = urlsplit(cluster.server)
            is_fine = parts.scheme in {"http", "https"} and parts.hostname and parts.username is None
        except ValueError:
            is_fine = False
        if not is_fine:
            raise StartError(f"cannot use the server in {self._where}: it is no URL of an API server")
        return cluster.server.rstrip("/")

    def _proxy(self, cluster: Cluster) -> str | None:
        proxy = cluster.proxy_url or proxies.proxy_of_the_host(cluster.server)
        if proxy and not proxy.startswith(("http://", "https://")):
            raise StartError(f"cannot use the proxy for {self._where}: only HTTP proxies are supported")
        return proxy or None


def _impersonation(user: User) -> Iterator[tuple[str, str]]:
    """https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation"""
    if user.as_:
        yield "Impersonate-User", user.as_
    if user.as_uid:
        yield "Impersonate-Uid", user.as_uid
    for group in user.as_groups or ():
        yield "Impersonate-Group", group
    for name, values in (user.as_user_extra or {}).items():
        for value in values:
            yield f"Impersonate-Extra-{quote(name.lower(), safe='')}", value


def _header(authorization: str, where: str) -> str:
    header = authorization.strip()
    if not header.isprintable():
        raise StartError(f"cannot use the credentials in {where}: a header cannot have these characters")
    return header
