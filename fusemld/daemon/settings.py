"""Settings: one TOML file, then `FUSEMLD_*` variables, then flags; typed, read once, printable.

A setting `group.name` is `name` in the TOML table `[group]` and the variable `FUSEMLD_GROUP_NAME`; lists in
variables are separated by commas, tables are JSON. Durations (`_s`) are seconds, at most ten years.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import msgspec

from fusemld.executors.kubernetes.settings import KubernetesSettings, Period
from fusemld.model import paths
from fusemld.model.errors import InvalidInputError
from fusemld.spec.durations import LONGEST_S

PREFIX = "FUSEMLD_"

FLAGS: Final[Mapping[str, str]] = {
    "folder": "--folder",
    "state": "--state",
    "socket": "--socket",
    "log.format": "--log-format",
}
"""Settings with a flag of their own; every other one is `--set NAME=VALUE`."""

_NO_SETTINGS: Final = re.compile(
    # the file itself; the faults and folders of tests; what a step, and a build of a plugin, is told
    r"CONFIG|FAULT|TEST_\w+|ATTEMPT|ENVIRONMENTS"
    # Kubernetes tells every pod where the services of its namespace are, also one that is called `fusemld`
    r"|(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""What else may begin with `PREFIX`."""

PASSED_ON = (
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE",
    "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT",
    "PIP_TRUSTED_HOST", "UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_NATIVE_TLS",
    "UV_SYSTEM_CERTS", "UV_OFFLINE", "UV_PYTHON_INSTALL_MIRROR", "UV_PYTHON_PREFERENCE",
)  # fmt: skip


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True):
    steps: int = 16
    """Attempts that may exist at the same time, over all runs; 0: without limit."""
    steps_per_workflow: int = 0
    """The same for the runs of one workflow; 0: only the limit above."""


class StepSettings(msgspec.Struct, frozen=True, kw_only=True):
    timeout_s: float = 24 * 3600.0
    """Deadline of an attempt whose step says nothing."""
    queue_timeout_s: float = 7 * 24 * 3600.0
    """How long a step may wait for a slot."""
    pin_timeout_s: float = 900.0
    """How long a run waits for its codesets."""
    grace_s: float = 10.0
    """Between SIGTERM and SIGKILL."""


class IntakeSettings(msgspec.Struct, frozen=True, kw_only=True):
    rescan_s: Period = 10.0
    """Between two looks at the whole watched folder."""


class CodesetSettings(msgspec.Struct, frozen=True, kw_only=True):
    roots: tuple[Path, ...] = ()
    """Folders below which `path` codesets may be, besides the watched folder."""
    poll_s: Period = 30.0
    """Between two looks at the codesets of assignments."""
    limit_bytes: int = 2 * 1024**3
    """Size of one codeset."""


class RetentionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What has ended is kept so long; 0 is without limit everywhere. What is in use is never touched: what that is
    says `fusemld.daemon.retention`."""

    every_s: float = 3600.0
    """Between two looks for what may go; 0: only on request (`fuseml gc`)."""
    runs_s: float = 90 * 24 * 3600.0
    """Ended runs, since their end."""
    runs_keep: int = 10_000
    """Succeeded runs beyond so many that ended last go earlier."""
    logs_s: float = 90 * 24 * 3600.0
    """Logs of ended runs, of builds and of services that are no more."""
    logs_bytes: int = 10 * 1024**3
    """All logs; the oldest of ended runs go first."""
    environments_s: float = 30 * 24 * 3600.0
    """Built environments, since somebody asked for them."""
    environments_bytes: int = 0
    """All built environments; those that nobody has asked for for longest go first."""
    downloads_bytes: int = 20 * 1024**3
    """What uv has downloaded below the state folder; when it is more, all of it goes (environments stay)."""
    codesets_s: float = 7 * 24 * 3600.0
    """Copies of codesets and mirrors of repositories, since somebody asked for them."""
    codesets_bytes: int = 0
    """All of these; those that nobody has asked for for longest go first."""


class WatchdogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """When something that looks wrong is told: in the journal, the health report and `fuseml why`."""

    look_s: Period = 10.0
    """Between two looks at all unfinished runs."""
    lasts_s: float = 30.0
    """How long an unfinished run may look wrong: it may be on its way to be put right."""
    lag_s: float = 5.0
    """How long the daemon may do nothing at all."""
    stops_s: float = 60.0
    """How long an attempt that was told to stop may take to end after its grace time (`steps.grace_s`)."""
    stands_s: float = 300.0
    """How long watching the folder, and letting go of what has ended, may stand still."""


class SecretSettings(msgspec.Struct, frozen=True, kw_only=True):
    env: tuple[str, ...] = ()
    """Variables of the daemon that `from_env` may name."""
    files: tuple[Path, ...] = ()
    """Folders below which `from_file` may read."""
    secrets: tuple[str, ...] = ()
    """Secrets of the configured cluster that `from_secret` may name: `NAMESPACE/NAME`, with `*` in either part."""


class ProcessSettings(msgspec.Struct, frozen=True, kw_only=True):
    zone: str = "local"
    """The zone of local processes and embedded services."""
    sandbox: Literal["auto", "bwrap", "off"] = "auto"
    """`auto`: bubblewrap where it is installed; `bwrap`: refuse to run without; `off`: never."""
    default_command: tuple[str, ...] = ()
    """Command of images that come from `images` and of steps that say nothing."""
    images: dict[str, tuple[str, ...]] = {}
    """Image name (any tag where none is given) to the command that stands for its entrypoint."""
    pass_env: tuple[str, ...] = PASSED_ON
    """Variables of the daemon that steps and services get too."""
    step_processes: int = 2048
    """Processes and threads that a step may have at the same time; 0: no limit. A control group holds it where the
    daemon may make some, else the user's limit, which means nothing to root: `fusemld check` says what does."""


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    format: Literal["auto", "json", "console"] = "auto"
    """`auto`: console in a terminal, else JSON."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    step_limit_bytes: int = 64 * 1024**2
    """Of a step's log; what comes later is cut, with a note."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    folder: Path
    """The watched folder."""
    state: Path
    """Database, logs, pinned codesets, environments, service data."""
    cache: Path
    """What uv has downloaded; on the file system of `state`, so that environments can link to it."""
    socket: Path
    """The admin API."""
    group: str = ""
    """Members of this group operate; empty: only the daemon's user and root."""
    executor: Literal["process", "kubernetes"] = "process"
    limits: LimitSettings = LimitSettings()
    steps: StepSettings = StepSettings()
    intake: IntakeSettings = IntakeSettings()
    codesets: CodesetSettings = CodesetSettings()
    retention: RetentionSettings = RetentionSettings()
    watchdog: WatchdogSettings = WatchdogSettings()
    secrets: SecretSettings = SecretSettings()
    process: ProcessSettings = ProcessSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    log: LogSettings = LogSettings()


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """`origins` maps every setting's dotted name to (value as text, where it came from)."""

    settings: Settings
    origins: dict[str, tuple[str, str]]


def load_settings(
    config: Path | None = None,
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """Read every source. Raises `InvalidInputError` that names the source and, for a typing error, the nearest
    valid name; a variable with the prefix that no setting has is such an error too, unless `secrets.env` or
    `process.pass_env` name it. Without `config` the file is `$FUSEMLD_CONFIG`, else `/etc/fusemld/config.toml` if
    it exists."""
    environ = os.environ if environ is None else environ
    known = dict(_leaves(Settings))
    values: dict[str, tuple[Any, str]] = dict(_from_file(_config_file(config, environ), known))
    variables = {_variable(name): name for name in known}
    values |= {name: (environ[each], each) for each, name in variables.items() if environ.get(each)}
    for name, text in (flags or {}).items():
        if name not in known:
            raise InvalidInputError(f"cannot read settings: there is no setting {name!r}{_closest(name, known)}")
        values[name] = (text, f"flag {FLAGS.get(name, f'--set {name}=')}")
    state = Path(values["state"][0]) if "state" in values else paths.state_folder(environ, os.geteuid())
    values.setdefault("state", (str(state), "default"))
    values.setdefault("cache", (str(state / "python" / "cache"), "default"))
    values.setdefault("folder", (str(state / "inbox"), "default"))
    values.setdefault("socket", (str(paths.socket_path(environ, os.geteuid(), state=state)), "default"))
    built = {name: _converted(name, *values[name], known[name]) for name in known if name in values}
    settings = _assembled(built)
    named = (*settings.secrets.env, *settings.process.pass_env)
    _refuse_unknown((each for each in environ if environ[each] and each not in named), variables)
    return Loaded(settings=settings, origins=dict(_origins(settings, values)))


def _variable(name: str) -> str:
    return PREFIX + name.replace(".", "_").upper()


def _refuse_unknown(given: Iterable[str], variables: Mapping[str, str]) -> None:
    for variable in given:
        rest = variable.removeprefix(PREFIX)
        if rest != variable and variable not in variables and not _NO_SETTINGS.fullmatch(rest):
            near = _closest(variable, variables)
            raise InvalidInputError(f"cannot read settings: no setting has the variable {variable!r}{near}")


def _config_file(config: Path | None, environ: Mapping[str, str]) -> Path | None:
    if config is None and environ.get(PREFIX + "CONFIG"):
        config = Path(environ[PREFIX + "CONFIG"])
    if config is None:
        usual = Path("/etc/fusemld/config.toml")
        return usual if usual.exists() else None
    return config


def _from_file(file: Path | None, known: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, str]]]:
    if file is None:
        return
    try:
        content = tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInputError(f"cannot read settings from {file}: {error}") from error
    for name, value in _flattened(content, known):
        if name not in known:
            raise InvalidInputError(
                f"cannot read settings from {file}: there is no setting {name!r}{_closest(name, known)}"
            )
        yield name, (value, str(file))


def _flattened(table: Mapping[str, Any], known: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = above + key
        if isinstance(value, dict) and name not in known:
            yield from _flattened(value, known, f"{name}.")
        else:
            yield name, value


def _leaves(group: type[msgspec.Struct], above: str = "") -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(group):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from _leaves(field.type, f"{above}{field.name}.")
        else:
            yield above + field.name, field.type


def _converted(name: str, value: Any, origin: str, wanted: Any) -> Any:
    if get_origin(wanted) is Literal and value not in (choices := get_args(wanted)):
        allowed = f"{value!r} is not one of {', '.join(map(repr, choices))}{_closest(str(value), choices)}"
        raise InvalidInputError(f"cannot read setting {name} from {origin}: {allowed}")
    try:
        if isinstance(value, str) and _is_json(value, wanted):
            value = msgspec.json.decode(value.encode())
        elif isinstance(value, str) and getattr(wanted, "__origin__", None) is tuple:
            value = [part.strip() for part in value.split(",") if part.strip()]
        converted = msgspec.convert(value, wanted, strict=False, dec_hook=_path)
    except msgspec.MsgspecError as error:
        raise InvalidInputError(f"cannot read setting {name} from {origin}: {error}") from error
    if isinstance(converted, int | float) and (complaint := _complaint(name, converted)):
        raise InvalidInputError(f"cannot read setting {name} from {origin}: {converted} {complaint}")
    return converted


def _complaint(name: str, number: float) -> str:
    if not math.isfinite(number):
        return "is not a finite number"
    if number < 0:
        return "is below 0"
    if name.endswith("_s") and number > LONGEST_S:
        return f"is above {LONGEST_S:.0f} (ten years)"
    return ""


def _is_json(text: str, wanted: Any) -> bool:
    """Tables, and lists of tables."""
    return getattr(wanted, "__origin__", None) is dict or (
        getattr(wanted, "__origin__", None) is tuple and text.lstrip().startswith("[")
    )


def _path(wanted: type[Any], value: Any) -> Any:
    if wanted is Path and isinstance(value, str):
        return Path(value).expanduser().absolute()
    raise msgspec.ValidationError(f"Expected a {wanted.__name__}")


def _assembled(built: Mapping[str, Any]) -> Settings:
    top: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for name, value in built.items():
        group, dot, field = name.partition(".")
        if dot:
            groups.setdefault(group, {})[field] = value
        else:
            top[name] = value
    for field_info in msgspec.structs.fields(Settings):
        if field_info.name in groups:
            top[field_info.name] = field_info.type(**groups[field_info.name])
    return Settings(**top)


def _origins(settings: Settings, values: Mapping[str, tuple[Any, str]]) -> Iterator[tuple[str, tuple[str, str]]]:
    for name, _ in _leaves(Settings):
        value: Any = settings
        for part in name.split("."):
            value = getattr(value, part)
        text = "" if value is None else msgspec.json.encode(value, enc_hook=str).decode()
        yield name, (text.strip('"'), values[name][1] if name in values else "default")


def _closest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
