"""An update of a service that is under way, remembered on the daemon's disk until it has succeeded or is
undone."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fusemld.hooks.clusters import Json
from fusemld.model.application import Application
from fusemld.model.errors import StartError
from fusemld_kserve.manifests import RUN, Place, annotation, applicable


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """`previous` is the service as it was, to be applied again if the update fails; None: there was none.
    `leftovers` are the objects that are needed no more once it has succeeded. `failed` are runs before this one
    whose update neither succeeded nor was undone. Holds no secrets."""

    run: str
    server: str
    service: str
    previous: Json | None = None
    leftovers: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


class UpdateFile:
    """The update of one application. `folder` is the plugin's own."""

    def __init__(self, folder: Path, application: str) -> None:
        self._path = folder / "kserve" / f"{application}.json"

    def read(self) -> Update | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Update)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise StartError(f"cannot read {self._path}: {error}") from error

    def write(self, update: Update) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_bytes(msgspec.json.encode(update))
        partial.replace(self._path)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def begin(
    known: Update | None,
    *,
    run: str,
    server: str,
    place: Place,
    service: Json | None,
    recorded: Application | None,
) -> Update | None:
    """What to remember before `run` changes anything, given what is remembered already, the service as it is
    and the application as it is recorded. None: the run has made its update, there is nothing to go back to."""
    if known is not None and (known.server, known.service) != (server, place.reference):
        known = None
    if known is not None and known.run == run:
        return known
    recorded_run = "" if recorded is None else recorded.run
    if known is None and recorded_run == run and service is not None and annotation(service, RUN) == run:
        return None
    leftovers = set(recorded.objects) if recorded is not None and recorded_run != run else set()
    previous = None if service is None else applicable(service)
    failed: tuple[str, ...] = ()
    if known is not None:
        leftovers.update(known.leftovers)
        if known.run != recorded_run:
            previous = None if service is None else known.previous
            failed = (*known.failed, known.run)
    return Update(
        run=run,
        server=server,
        service=place.reference,
        previous=previous,
        leftovers=tuple(sorted(leftovers - {place.reference})),
        failed=failed,
    )
