"""`fuseml workflow`."""

from __future__ import annotations

import click

from fusemld.api import views
from fusemld.api.client import url
from fusemld.cli import tables
from fusemld.cli.options import Output, argument, connect, output_option, socket_option


@click.group("workflow")
@socket_option
def workflow() -> None:
    """List or show registered workflows."""


@workflow.command("list")
@output_option
@socket_option
def list_workflows(output: Output) -> None:
    """List registered workflows."""
    found = connect().get("/workflows", tuple[views.WorkflowView, ...])

    def table() -> str:
        if not found:
            return "no workflows yet: drop one into the watched folder (`fuseml files` shows what is there)"
        return tables.table(("name", "inputs", "steps", "file", "description"), (_row(each) for each in found))

    tables.emit(output, found, table)


@workflow.command("get")
@argument("name")
@output_option
@socket_option
def get(name: str, output: Output) -> None:
    """Show the inputs, steps and outputs of the workflow NAME."""
    found = connect().get(url("workflows", name), views.WorkflowView)
    tables.emit(output, found, lambda: _described(found))


def _row(workflow: views.WorkflowView) -> tuple[str, ...]:
    inputs = ", ".join(each.name for each in workflow.inputs)
    steps = ", ".join(step.name for step in workflow.steps)
    first_line = workflow.description.strip().partition("\n")[0]
    return (workflow.name, inputs, steps, workflow.file, first_line)


def _described(workflow: views.WorkflowView) -> str:
    head = tables.fields(
        (
            ("workflow", workflow.name),
            ("executor", workflow.executor or ""),
            ("order", "listed" if workflow.order == "listed" else ""),
            ("file", workflow.file),
            ("description", workflow.description.strip()),
        )
    )
    inputs = ((each.name, each.type, _default(each), each.description) for each in workflow.inputs)
    steps = (
        (step.name, step.image, ", ".join(each.name for each in step.outputs), _requirements(step))
        for step in workflow.steps
    )
    outputs = ((each.name, each.type, each.description) for each in workflow.outputs)
    parts = [head]
    if workflow.inputs:
        parts.append(tables.table(("input", "type", "default", "description"), inputs))
    parts.append(tables.table(("step", "image", "outputs", "extensions"), steps))
    if workflow.outputs:
        parts.append(tables.table(("output", "type", "description"), outputs))
    return "\n\n".join(parts)


def _default(entry: views.WorkflowInputView) -> str:
    return "(required)" if entry.default is None else entry.default or '""'


def _requirements(step: views.WorkflowStepView) -> str:
    return ", ".join(each.name for each in step.extensions)
