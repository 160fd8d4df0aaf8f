"""Which files with long outputs may go: those of runs that are no more."""

from __future__ import annotations

from collections.abc import Collection

from fusemld.daemon.run_folders import RunFolders
from fusemld.daemon.supervisor import Supervisor
from fusemld.daemon.tally import Tally, tallied
from fusemld.model.progress import Progress
from fusemld.store.sqlite import Store


class RetainedOutputs:
    """In the folder of the store."""

    def __init__(self, store: Store, supervisor: Supervisor, progress: Progress) -> None:
        self._folders = RunFolders(store.outputs_folder, store, supervisor, progress)

    async def collect(self, going: Collection[str], *, dry_run: bool) -> Tally:
        """`going` are runs that count as gone."""
        with tallied("long outputs") as tally:
            if not dry_run:
                await self._folders.empty_trash()
            found = await self._folders.of_runs()
            known = await self._folders.ended([outputs.path.name for outputs in found])
            doomed = [outputs for outputs in found if outputs.path.name not in known or outputs.path.name in going]
            gone = set(doomed) if dry_run else await self._folders.discarded(tally, doomed)
            self._folders.count(tally, found, gone)
        return tally
