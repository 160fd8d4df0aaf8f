"""Payloads of the reference API that differ from our own views."""

from __future__ import annotations

import datetime as dt

import msgspec

from fusemld.api.registry_views import ExtensionView
from fusemld.api.views import RunSummary, Time, WorkflowInputView, WorkflowOutputView, WorkflowView
from fusemld.model.errors import InvalidInputError
from fusemld.model.run import RunState

UNFINISHED = dt.datetime(1, 1, 1, tzinfo=dt.UTC)
"""The reference demands a `completionTime`; Go's zero time says that there is none yet."""


class RunInput(msgspec.Struct, frozen=True, kw_only=True):
    input: WorkflowInputView
    value: str


class RunOutput(msgspec.Struct, frozen=True, kw_only=True):
    output: WorkflowOutputView
    value: str


class WorkflowRun(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The reference's `WorkflowRun`. `status` is `Running`, `Succeeded`, `Failed` or `Cancelled`."""

    name: str
    workflow_ref: str
    start_time: Time
    completion_time: Time
    status: str
    inputs: tuple[RunInput, ...] = ()
    outputs: tuple[RunOutput, ...] = ()


class ExtensionQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The reference's `ListExtensionsRequestBody`: the body of a GET. What is empty matches everything."""

    extension_id: str = ""
    product: str = ""
    version: str = ""
    zone: str = ""
    service_id: str = ""
    service_resource: str = ""
    service_category: str = ""


def workflow_run(run: RunSummary, workflow: WorkflowView | None) -> WorkflowRun:
    """`workflow` is the registered one, None where it is gone: names and values are shown all the same."""
    inputs = {entry.name: entry for entry in workflow.inputs} if workflow else {}
    outputs = {entry.name: entry for entry in workflow.outputs} if workflow else {}
    return WorkflowRun(
        name=run.id,
        workflow_ref=run.workflow,
        start_time=run.created_at,
        completion_time=run.finished_at or UNFINISHED,
        status=run.state.value.capitalize(),
        inputs=tuple(
            RunInput(input=inputs.get(name) or WorkflowInputView(name=name), value=value)
            for name, value in run.inputs.items()
        ),
        outputs=tuple(
            RunOutput(output=outputs.get(name) or WorkflowOutputView(name=name), value=value)
            for name, value in run.outputs.items()
        ),
    )


def run_state(status: str) -> RunState:
    """Of a reference status, in any case."""
    try:
        return RunState(status.lower())
    except ValueError:
        known = ", ".join(state.value for state in RunState)
        raise InvalidInputError(f"cannot list runs: there is no status {status!r}, only {known}") from None


def matches(extension: ExtensionView, query: ExtensionQuery) -> bool:
    """Selectors are compared as they are; a version constraint is refused rather than misunderstood."""
    if query.version and not query.version.removeprefix("v")[0].isdigit():
        raise InvalidInputError(
            f"cannot list extensions by the constraint {query.version!r}: name a version, or leave it out"
        )
    own = (
        (query.extension_id, extension.id),
        (query.product, extension.product),
        (query.version.removeprefix("v"), extension.version.removeprefix("v")),
        (query.zone, extension.zone),
    )
    if any(wanted and wanted != value for wanted, value in own):
        return False
    if not (query.service_id or query.service_resource or query.service_category):
        return True
    return any(
        query.service_id in ("", service.id)
        and query.service_resource in ("", service.resource)
        and query.service_category in ("", service.category)
        for service in extension.services
    )
