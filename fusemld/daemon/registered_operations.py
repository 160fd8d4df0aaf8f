"""What the API asks about the watched folder and what it declares: see `fusemld.api.operations.Operations`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from fusemld.api import present, registry_views, views
from fusemld.daemon.folder import Folder
from fusemld.daemon.settings import Settings
from fusemld.hooks.executors import Executor
from fusemld.model.codeset import DEFAULT_PROJECT, Codeset, nearest_key
from fusemld.model.document import Document, DocumentRecord, DocumentState, Kind
from fusemld.model.errors import InvalidInputError, NotFoundError
from fusemld.model.extension import Extension
from fusemld.model.workflow import Workflow
from fusemld.registry.explain import Explanation
from fusemld.registry.registry import Registry
from fusemld.store.reads import RunQuery
from fusemld.store.sqlite import Store

STATES = {DocumentState.ACCEPTED: "registered"}
"""How the states of documents are called for people, where it differs."""


class RegisteredOperations:
    """What is in force by the catalog, and what the registry makes of it."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        folder: Folder,
        registry: Registry,
        executors: Mapping[str, Executor],
    ) -> None:
        self._settings = settings
        self._store = store
        self._folder = folder
        self._registry = registry
        self._executors = executors

    async def files(self) -> Sequence[views.FileView]:
        found = [_file_view(row) for row in self._folder.catalog.records if _is_shown(row)]
        return sorted(found, key=lambda view: (view.path, view.line))

    async def workflows(self) -> Sequence[views.WorkflowView]:
        found = self._folder.registered(Kind.WORKFLOW)
        return [self._workflow_view(found[name]) for name in sorted(found)]

    async def workflow(self, name: str) -> views.WorkflowView:
        return self._workflow_view(self._registered(Kind.WORKFLOW, name))

    async def codesets(self) -> Sequence[views.CodesetView]:
        found = self._folder.registered(Kind.CODESET)
        return [await self._codeset_view(found[key]) for key in sorted(found)]

    async def codeset(self, project: str, name: str) -> views.CodesetView:
        return await self._codeset_view(self._registered(Kind.CODESET, f"{project}/{name}"))

    async def extensions(self) -> Sequence[registry_views.ExtensionView]:
        found = self._folder.registered(Kind.EXTENSION)
        return [self._extension_view(found[name]) for name in sorted(found)]

    async def extension(self, id: str) -> registry_views.ExtensionView:  # noqa: A002 the interface's name
        return self._extension_view(self._registered(Kind.EXTENSION, id))

    async def explain(self, workflow: str, project: str | None, user: str) -> registry_views.ExplanationView:
        declared = self._registered(Kind.WORKFLOW, workflow).declared
        assert isinstance(declared, Workflow)
        executor = self._executor(declared.executor or self._settings.executor)
        project = project or DEFAULT_PROJECT
        found = self._registry.explain(
            declared, executor=executor.name, zone=executor.zone, project=project, user=user
        )
        return registry_views.ExplanationView(
            workflow=workflow,
            project=project,
            user=user,
            zone=executor.zone,
            requirements=tuple(_explained(entry) for entry in found),
        )

    async def check_extension(
        self,
        id: str,  # noqa: A002 the interface's name
        project: str | None,
        user: str,
    ) -> Sequence[registry_views.CheckView]:
        self._registered(Kind.EXTENSION, id)
        zone = self._executor(self._settings.executor).zone
        return [
            registry_views.CheckView(
                extension_id=check.extension_id,
                service_id=check.service_id,
                url=check.service.url if check.service else "",
                ok=check.result.ok,
                message=check.result.message,
            )
            for check in await self._registry.check(id, zone=zone, project=project or DEFAULT_PROJECT, user=user)
        ]

    def _executor(self, name: str) -> Executor:
        if name not in self._executors:
            known = ", ".join(sorted(self._executors))
            raise InvalidInputError(f"cannot use the executor {name!r}: this daemon has: {known}")
        return self._executors[name]

    def _registered(self, kind: Kind, name: str) -> Document:
        found = self._folder.registered(kind)
        if name not in found:
            raise NotFoundError(f"cannot show {kind} {name!r}: {self._undeclared(name, found)}")
        return found[name]

    def _undeclared(self, name: str, declared: Collection[str]) -> str:
        """Why there is no such thing, and what there is."""
        known = sorted(declared)
        near = nearest_key(name, known)
        hint = f"did you mean {near!r}?" if near else f"declared are: {', '.join(known[:10]) or 'none'}"
        return f"no file of {self._settings.folder} declares it ({hint})"

    def _file_of(self, document: Document) -> str:
        row = self._folder.catalog.record(f"{document.kind}/{document.name}")
        return row.file if row is not None else ""

    def _workflow_view(self, document: Document) -> views.WorkflowView:
        assert isinstance(document.declared, Workflow)
        return present.workflow_view(document.declared, self._file_of(document))

    async def _codeset_view(self, document: Document) -> views.CodesetView:
        assert isinstance(document.declared, Codeset)
        version = await self._version_of_latest_run(document.declared.key)
        return present.codeset_view(document.declared, version, self._file_of(document))

    async def _version_of_latest_run(self, codeset: str) -> str | None:
        for run in await self._store.runs(RunQuery(codeset=codeset, limit=1)):
            for pinned in (run.codesets or {}).values():
                if f"{pinned.project}/{pinned.name}" == codeset:
                    return pinned.version
        return None

    def _extension_view(self, document: Document) -> registry_views.ExtensionView:
        assert isinstance(document.declared, Extension)
        return present.extension_view(document.declared, self._file_of(document))


def _is_shown(row: DocumentRecord) -> bool:
    return row.present or row.state is DocumentState.REJECTED


def _file_view(row: DocumentRecord) -> views.FileView:
    return views.FileView(
        path=row.file,
        line=row.line,
        kind=row.kind or "",
        name=row.name,
        state=STATES.get(row.state, row.state.value),
        detail=row.detail,
        generation=row.generation,
        run=row.run or None,
        problems=row.problems,
    )


def _explained(entry: Explanation) -> registry_views.ExplainedRequirement:
    return registry_views.ExplainedRequirement(
        step=entry.step,
        requirement=entry.requirement,
        wanted=entry.selectors,
        unknown=entry.unknown,
        picked=entry.service,
        origin=entry.source,
        reason=entry.message,
        near_misses=tuple(
            registry_views.NearMissView(
                extension_id=miss.extension_id,
                service_id=miss.service_id or "",
                selector=miss.selector,
                reason=miss.reason,
            )
            for miss in entry.near_misses
        ),
    )
