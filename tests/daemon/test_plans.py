from __future__ import annotations

import gc
from pathlib import Path

import pytest

from fusemld.daemon.plans import RECENT, Plans
from fusemld.engine.plan import Defaults
from fusemld.model.document import Document
from fusemld.model.errors import NotFoundError, StartError
from fusemld.store.changes import PutWorkflow
from fusemld.store.sqlite import Store
from tests.daemon.running import CHAIN, document_of


async def test_runs_of_one_content_share_one_plan(tmp_path: Path, chain: Document) -> None:
    async with Store.open(tmp_path / "db") as store:
        await store.write(PutWorkflow(chain.digest, chain.name, chain.canonical))
        plans = Plans(store, Defaults(timeout_s=7.0))

        plan = await plans.plan(chain.digest)

        assert plan is plans.add(chain.digest, chain.canonical)
        assert plan is await plans.plan(chain.digest)
        assert plan.workflow == chain.declared
        assert plan.timeout_s("one") == 7.0


async def test_plans_that_nobody_holds_do_not_gather(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "db") as store:
        plans = Plans(store, Defaults())

        for number in range(3 * RECENT):
            document = document_of(CHAIN.replace("chain", f"chain{number}"))
            plans.add(document.digest, document.canonical)
        gc.collect()

        assert len(plans._kept) == RECENT


async def test_a_workflow_that_is_not_stored_or_not_understood_is_said_so(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "db") as store:
        await store.write(PutWorkflow("strange", "w", '{"steps": 7}'))
        plans = Plans(store, Defaults())

        with pytest.raises(NotFoundError, match="cannot load the workflow missing: it is not in the database"):
            await plans.plan("missing")
        with pytest.raises(StartError, match="cannot load the workflow strange"):
            await plans.plan("strange")
