"""Going back to a copy of the database while no daemon runs."""

from __future__ import annotations

import time
from pathlib import Path

from anyio.to_thread import run_sync

from fusemld.daemon.locking import state_lock
from fusemld.daemon.ownership import as_owner
from fusemld.daemon.settings import Settings
from fusemld.executors.process.client import Keeper
from fusemld.store.restoring import Restored, check
from fusemld.store.restoring import restore as restore_database

DATABASE = "fusemld.db"


async def restore(settings: Settings, source: Path) -> Restored:
    """See that there is a whole copy before anything is touched, end whatever an earlier daemon has left running
    here, which the copy cannot know, then put the copy in the database's place. Raises `StartError` where a daemon
    is running, and as `fusemld.store.restoring.restore`: then the database is as it was."""
    await run_sync(check, source)
    with state_lock(settings.state):
        with as_owner(settings.state):
            await Keeper(settings.state).shutdown(settings.steps.grace_s)
        return await run_sync(restore_database, source, settings.state / DATABASE, time.time())
