"""Credentials where others could see them."""

from __future__ import annotations

from collections.abc import Iterator

from fusemld.model.document import Document
from fusemld.model.extension import Extension
from fusemld.model.problem import Problem
from fusemld.model.workflow import Workflow
from fusemld.registry.credentials import secret_keys


def exposed(document: Document, workflow: Workflow, records: tuple[Extension, ...]) -> Iterator[Problem]:
    """Uses of configuration values in the workflow that these records make credentials, each with its place."""
    requirements = {(step.name, entry.name): entry for step in workflow.steps for entry in step.extensions}
    for risk in document.risks:
        if risk.key in secret_keys(requirements[risk.step, risk.requirement], records):
            yield Problem(
                message=f"step {risk.step!r}: extensions.{risk.requirement}.cfg.{risk.key} comes from "
                f"credentials and would be seen in {risk.place}; hand it over in env or an input instead",
                line=risk.line,
                column=risk.column,
            )
