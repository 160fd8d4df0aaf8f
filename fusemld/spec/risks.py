"""Where a workflow uses configuration values that must not turn out to be credentials."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fusemld.model.template import Template
from fusemld.model.workflow import CredentialRisk, Step, Workflow


def credential_risks(workflow: Workflow) -> tuple[CredentialRisk, ...]:
    """Every `extensions.NAME.cfg.KEY` in places that other people or the executor's host can see.

    That is `image`, `command`, `args`, resource quantities and output images (whose name becomes an output);
    workflow outputs cannot refer to extensions. Each is named once, without its line and column.
    """
    return tuple(dict.fromkeys(risk for step in workflow.steps for risk in _of_step(step)))


def _of_step(step: Step) -> Iterator[CredentialRisk]:
    images = [output.image for output in step.outputs if output.image is not None]
    yield from _in(step, "image", [step.image])
    yield from _in(step, "command", step.command or ())
    yield from _in(step, "args", step.args or ())
    yield from _in(step, "outputs", [text for image in images for text in (image.name, image.dockerfile)])
    yield from _in(step, "resources", [*step.resources.requests.values(), *step.resources.limits.values()])


def _in(step: Step, place: str, templates: Iterable[Template]) -> Iterator[CredentialRisk]:
    for template in templates:
        for reference in template.references:
            match reference.path:
                case ("extensions", requirement, "cfg", key):
                    yield CredentialRisk(step=step.name, place=place, requirement=requirement, key=key)
                case _:
                    pass
