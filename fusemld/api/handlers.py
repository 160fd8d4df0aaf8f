"""One function per operation of the API: from a call to what is answered."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fusemld.api import reference, registry_views, views
from fusemld.api.calls import Call
from fusemld.api.logs import read_logs
from fusemld.model.errors import InvalidInputError
from fusemld.spec.jsonschema import json_schema

RUNS_LIMIT = 10_000


async def version(call: Call) -> views.VersionView:
    return await call.operations.version()


async def health(call: Call) -> views.HealthView:
    return await call.operations.health()


async def stop(call: Call) -> None:
    await call.operations.stop(call.decoded(views.StopDaemon).everything)


async def collect_garbage(call: Call) -> views.UpkeepView:
    return await call.operations.collect_garbage(call.decoded(views.CollectGarbage).dry_run)


async def backup(call: Call) -> AsyncGenerator[bytes]:
    return await call.operations.backup()


# Runs


async def list_runs(call: Call) -> Sequence[views.RunSummary]:
    state = call.optional("state")
    wanted = views.RunFilter(
        workflow=call.optional("workflow"),
        project=call.optional("project"),
        codeset=call.optional("codeset"),
        state=reference.run_state(state) if state else None,
        limit=call.number("limit", 100, RUNS_LIMIT),
    )
    return await call.operations.runs(wanted)


async def get_run(call: Call) -> views.RunView:
    return await call.operations.run(call.path["run"])


async def start_run(call: Call) -> views.RunView:
    wanted = call.decoded(views.StartRun)
    return await call.operations.start_run(wanted.workflow, wanted.inputs, wanted.executor, call.user)


async def cancel_run(call: Call) -> views.RunView:
    return await call.operations.cancel(call.path["run"], call.user)


async def retry_run(call: Call) -> views.RunView:
    return await call.operations.retry(call.path["run"], call.user)


async def why_run(call: Call) -> views.WhyView:
    return await call.operations.why(call.path["run"])


async def run_logs(call: Call) -> AsyncGenerator[bytes]:
    return await _logs(call, as_data=False)


async def run_log_lines(call: Call) -> AsyncGenerator[bytes]:
    return await _logs(call, as_data=True)


async def _logs(call: Call, *, as_data: bool) -> AsyncGenerator[bytes]:
    step = call.optional("step")
    attempt = call.number("attempt", 0, 1_000_000) or None
    if attempt and not step:
        raise InvalidInputError("cannot show an attempt's log: the parameter step is missing")
    # Asked once before the answer begins, so that an unknown run is an error and not a broken stream.
    await call.operations.log_files(call.path["run"], step, attempt)
    return read_logs(call.operations, call.path["run"], step, attempt, call.flag("follow"), as_data=as_data)


async def run_changes(call: Call) -> AsyncGenerator[views.RunView]:
    found = await call.operations.run(call.path["run"])
    return call.operations.changes(found.id)


async def all_changes(call: Call) -> AsyncGenerator[views.RunView]:
    return call.operations.changes(None)


async def reference_runs(call: Call) -> Sequence[reference.WorkflowRun]:
    project, name = call.optional("codesetProject"), call.optional("codesetName")
    status = call.optional("status")
    wanted = views.RunFilter(
        workflow=call.optional("name"),
        codeset=f"{project or 'default'}/{name}" if name else None,
        project=project if not name else None,
        state=reference.run_state(status) if status else None,
        limit=RUNS_LIMIT,
    )
    workflows = {workflow.name: workflow for workflow in await call.operations.workflows()}
    runs = await call.operations.runs(wanted)
    return [reference.workflow_run(run, workflows.get(run.workflow)) for run in runs]


# What is registered


async def files(call: Call) -> Sequence[views.FileView]:
    return await call.operations.files()


async def list_workflows(call: Call) -> Sequence[views.WorkflowView]:
    name = call.optional("name")
    return [each for each in await call.operations.workflows() if name in (None, each.name)]


async def get_workflow(call: Call) -> views.WorkflowView:
    return await call.operations.workflow(call.path["name"])


async def explain_workflow(call: Call) -> registry_views.ExplanationView:
    user = call.optional("user") or call.user
    return await call.operations.explain(call.path["name"], call.optional("project"), user)


async def list_codesets(call: Call) -> Sequence[views.CodesetView]:
    project, label = call.optional("project"), call.optional("label")
    return [
        each
        for each in await call.operations.codesets()
        if project in (None, each.project) and (label is None or label in each.labels)
    ]


async def get_codeset(call: Call) -> views.CodesetView:
    return await call.operations.codeset(call.path["project"], call.path["name"])


async def list_extensions(call: Call) -> Sequence[registry_views.ExtensionView]:
    query = call.decoded(reference.ExtensionQuery)
    return [each for each in await call.operations.extensions() if reference.matches(each, query)]


async def get_extension(call: Call) -> registry_views.ExtensionView:
    return await call.operations.extension(call.path["id"])


async def check_extension(call: Call) -> Sequence[registry_views.CheckView]:
    user = call.optional("user") or call.user
    return await call.operations.check_extension(call.path["id"], call.optional("project"), user)


async def schema(_: Call) -> dict[str, Any]:
    return json_schema()


# What runs outlive


async def list_applications(call: Call) -> Sequence[views.ApplicationView]:
    kind, workflow = call.optional("type"), call.optional("workflow")
    return [
        each
        for each in await call.operations.applications()
        if kind in (None, each.type) and workflow in (None, each.workflow)
    ]


async def get_application(call: Call) -> views.ApplicationView:
    return await call.operations.application(call.path["name"])


async def delete_application(call: Call) -> None:
    await call.operations.delete_application(call.path["name"], orphan=call.flag("orphan"))


async def services(call: Call) -> Sequence[views.ServiceView]:
    return await call.operations.services()
