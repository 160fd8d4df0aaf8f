"""What only the daemon can say about a document: whether its plugins, executors and records allow it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from fusemld.daemon.step_inputs import input_problems
from fusemld.hooks.manager import Plugins, repository
from fusemld.intake.snapshot import FileReport, Scan
from fusemld.model.document import Document, Kind, RunRequest
from fusemld.model.extension import Extension
from fusemld.model.problem import Problem
from fusemld.model.workflow import Workflow
from fusemld.registry.exposure import exposed


class Admitting:
    """Adds problems to what was read; a file with one is rejected whole, like one that cannot be understood."""

    def __init__(self, plugins: Plugins, executors: Iterable[str], default_executor: str) -> None:
        self._plugins = plugins
        self._executors = sorted(executors)
        self._default_executor = default_executor

    def check(self, scan: Scan, registered: Mapping[str, Document]) -> Scan:
        """`registered` are the extensions in force; those of the scan itself count too."""
        arriving = [document for report in scan.files for document in report.documents]
        documents = {**registered, **{d.name: d for d in arriving if d.kind is Kind.EXTENSION}}
        records = tuple(d.declared for d in documents.values() if isinstance(d.declared, Extension))
        return msgspec.structs.replace(scan, files=tuple(self._checked(report, records) for report in scan.files))

    def problems(self, document: Document, records: tuple[Extension, ...]) -> tuple[Problem, ...]:
        match document.declared:
            case Workflow() as workflow:
                return tuple(self._workflow_problems(document, workflow, records))
            case RunRequest(executor=str(executor)) if executor not in self._executors:
                return (document.problem(self._no_executor("this run request", executor), "executor"),)
            case _:
                return ()

    def _no_executor(self, who: str, executor: str) -> str:
        return f"{who} wants the executor {executor!r}; this daemon has: {', '.join(self._executors)}"

    def _checked(self, report: FileReport, records: tuple[Extension, ...]) -> FileReport:
        found = [problem for document in report.documents for problem in self.problems(document, records)]
        if not found:
            return report
        return msgspec.structs.replace(report, documents=(), problems=(*report.problems, *found))

    def _workflow_problems(
        self, document: Document, workflow: Workflow, records: tuple[Extension, ...]
    ) -> Iterator[Problem]:
        executor = workflow.executor or self._default_executor
        if executor not in self._executors:
            yield document.problem(self._no_executor(f"workflow {workflow.name!r}", executor), "executor")
        yield from exposed(document, workflow, records)
        for step in workflow.steps:
            place = ("steps", step.name)
            for output in step.outputs:
                if output.image is not None:
                    yield document.problem(
                        f"step {step.name!r}: no image builder is configured for the executor {executor!r}, "
                        "so `outputs[].image` cannot be built; build the image elsewhere and name it in `image`",
                        *place, "outputs", output.name,
                    )  # fmt: skip
            if step.image.references:
                continue
            claimed = repository(str(step.image))
            owner = self._plugins.steps.get(claimed) or self._plugins.runtime(claimed, executor)
            for problem in () if owner is None else input_problems(step, owner.inputs):
                yield document.problem(problem.message, *place, "inputs", problem.name)
