"""One plan per workflow content, shared by all its runs."""

from __future__ import annotations

import weakref

from fusemld.engine.plan import Defaults, Plan, make_plan
from fusemld.model.errors import NotFoundError
from fusemld.spec.canonical import workflow_from_canonical
from fusemld.store.sqlite import Store


class Plans:
    """Plans are kept as long as somebody holds them."""

    def __init__(self, store: Store, defaults: Defaults) -> None:
        self._store = store
        self._defaults = defaults
        self._kept: weakref.WeakValueDictionary[str, Plan] = weakref.WeakValueDictionary()

    async def plan(self, workflow_digest: str) -> Plan:
        """The plan of a stored workflow."""
        kept = self._kept.get(workflow_digest)
        if kept is not None:
            return kept
        canonical = await self._store.workflow(workflow_digest)
        if canonical is None:
            raise NotFoundError(f"cannot load the workflow {workflow_digest[:12]}: it is not in the database")
        return self.add(workflow_digest, canonical)

    def add(self, workflow_digest: str, canonical: str) -> Plan:
        plan = self._kept.get(workflow_digest)
        if plan is None:
            plan = make_plan(workflow_from_canonical(canonical), workflow_digest, self._defaults)
            self._kept[workflow_digest] = plan
        return plan
