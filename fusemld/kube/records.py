"""The credentials for an API server that a record of the Extension Registry carries."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import msgspec

from fusemld.kube import kubeconfig
from fusemld.kube.config import Given
from fusemld.kube.kubeconfig import Cluster, Selected, User
from fusemld.model.errors import StartError


def given(url: str, configuration: Mapping[str, str], where: str) -> Given:
    """Access to `url` with the credentials that a record's configuration carries.

    Either `kubeconfig`, a whole kubeconfig as text, of which everything but the server is used; or any of `token`,
    `certificate-authority-data`, `client-certificate-data`, `client-key-data` (base64, as in a kubeconfig), `ca`
    (the same authority as PEM text), `insecure-skip-tls-verify`. `namespace` goes with both.

    Raises `StartError`, as loading does, where they are wrong in form. What would read files of this host or run
    programs on it is refused: a record may come from anybody who may drop a file.
    """
    if text := configuration.get("kubeconfig"):
        place = f"of the record {where}"
        selected = kubeconfig.select(kubeconfig.parse(text, place), "", place)
        _refuse_what_reaches_this_host(selected, place)
        user, cluster, namespace = selected.user, selected.cluster, selected.namespace
    else:
        user = User(
            token=configuration.get("token", ""),
            client_certificate_data=configuration.get("client-certificate-data", ""),
            client_key_data=configuration.get("client-key-data", ""),
        )
        authority = configuration.get("certificate-authority-data", "")
        if ca := configuration.get("ca"):
            authority = base64.b64encode(ca.encode()).decode()
        cluster = Cluster(
            certificate_authority_data=authority,
            insecure_skip_tls_verify=configuration.get("insecure-skip-tls-verify", "").lower() == "true",
        )
        namespace = ""
    return Given(
        Selected(
            cluster=msgspec.structs.replace(cluster, server=url),
            user=user,
            namespace=configuration.get("namespace") or namespace,
        ),
        f"the record {where}",
    )


def _refuse_what_reaches_this_host(selected: Selected, where: str) -> None:
    user, cluster = selected.user, selected.cluster
    refused = {
        "exec": user.exec,
        "auth-provider": user.auth_provider,
        "tokenFile": user.token_file,
        "client-certificate": user.client_certificate,
        "client-key": user.client_key,
        "certificate-authority": cluster.certificate_authority,
    }
    if present := [name for name, value in refused.items() if value]:
        raise StartError(
            f"cannot use the kubeconfig {where}: {', '.join(present)} would reach into the daemon's host; "
            "use `token`, or fields that end in `-data`"
        )
