"""Where in its file a document says what only the daemon can judge."""

from __future__ import annotations

from collections.abc import Iterator

from fusemld.spec.leaves import Text
from fusemld.spec.nodes import Place
from fusemld.spec.shapes import AssignmentShape, CodesetShape, RunShape, WorkflowShape

Places = dict[tuple[str, ...], tuple[int, int]]


def workflow_places(shape: WorkflowShape) -> Places:
    """`executor`, every step by name, its image, and its inputs and outputs by name."""
    return {path: (text.place.line, text.place.column) for path, text in _of_workflow(shape)}


def request_places(shape: RunShape | AssignmentShape) -> Places:
    """`executor`, and the inputs by name: those with values, and the one that takes an assignment's codeset."""
    places: dict[tuple[str, ...], Place] = {("inputs", name.text): name.place for name in shape.inputs}
    if isinstance(shape, RunShape) and shape.executor is not None:
        places |= {("executor",): shape.executor.place}
    if isinstance(shape, AssignmentShape) and shape.input is not None:
        places |= {("inputs", shape.input.text): shape.input.place}
    return {path: (place.line, place.column) for path, place in places.items()}


def codeset_places(shape: CodesetShape) -> Places:
    """`path` or `url`, whichever it has."""
    given = (("path", shape.path), ("url", shape.url))
    return {(name,): (text.place.line, text.place.column) for name, text in given if text is not None}


def _of_workflow(shape: WorkflowShape) -> Iterator[tuple[tuple[str, ...], Text]]:
    if shape.executor is not None:
        yield ("executor",), shape.executor
    for step in shape.steps:
        place = ("steps", step.name.text)
        yield place, step.name
        yield (*place, "image"), step.image
        yield from (((*place, "inputs", entry.name.text), entry.name) for entry in step.inputs)
        yield from (((*place, "outputs", entry.name.text), entry.name) for entry in step.outputs)
