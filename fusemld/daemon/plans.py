"""One plan per workflow content, shared by all its runs."""

from __future__ import annotations

import collections
import weakref

import msgspec

from fusemld.engine.plan import Defaults, Plan, make_plan
from fusemld.model.errors import NotFoundError, StartError
from fusemld.spec.canonical import workflow_from_canonical
from fusemld.store.sqlite import Store

RECENT = 16
"""Plans that are kept although nobody holds them: lists of runs ask for the same few over and over."""


class Plans:
    """Plans are kept as long as somebody holds them, the latest a little longer."""

    def __init__(self, store: Store, defaults: Defaults) -> None:
        self._store = store
        self._defaults = defaults
        self._kept: weakref.WeakValueDictionary[str, Plan] = weakref.WeakValueDictionary()
        self._recent: collections.deque[Plan] = collections.deque(maxlen=RECENT)

    async def plan(self, workflow_digest: str) -> Plan:
        """The plan of a stored workflow. Raises `NotFoundError` where it is not stored, `StartError` where this
        fusemld does not understand it."""
        kept = self._kept.get(workflow_digest)
        if kept is not None:
            return kept
        canonical = await self._store.workflow(workflow_digest)
        if canonical is None:
            raise NotFoundError(f"cannot load the workflow {workflow_digest[:12]}: it is not in the database")
        try:
            return self.add(workflow_digest, canonical)
        except msgspec.MsgspecError as error:
            raise StartError(f"cannot load the workflow {workflow_digest[:12]}: {error}") from error

    def add(self, workflow_digest: str, canonical: str) -> Plan:
        """The plan of a workflow in its normal form."""
        plan = self._kept.get(workflow_digest)
        if plan is None:
            plan = make_plan(workflow_from_canonical(canonical), workflow_digest, self._defaults)
            self._kept[workflow_digest] = plan
            self._recent.append(plan)
        return plan
