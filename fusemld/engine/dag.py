"""The order of a workflow's steps as a graph, shared by all runs of the same content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from fusemld.model.errors import InvalidInputError
from fusemld.model.workflow import Order, Step, Workflow


class Dag(msgspec.Struct, frozen=True, kw_only=True):
    """What waits for what, by step name; all tuples in listed order.

    Only the edges that are needed to imply the others across barriers are kept, so their number is that of
    the steps plus that of the references and `needs` in the document. `index` is the listed position.
    """

    names: tuple[str, ...]
    index: Mapping[str, int]
    dependencies: Mapping[str, tuple[str, ...]]
    dependents: Mapping[str, tuple[str, ...]]


def build(workflow: Workflow) -> Dag:
    """The order that section 3 of the design gives the steps.

    A step waits for the steps that its expressions reference and those in `needs`. One with neither is a barrier:
    it waits for every step above, and every step below waits for it; `needs: []` makes it none. Raises
    `InvalidInputError` for an unknown name and for a cycle.
    """
    names = tuple(step.name for step in workflow.steps)
    index = {name: position for position, name in enumerate(names)}
    if workflow.order is Order.LISTED:
        chain: list[Iterable[int]] = [() if position == 0 else (position - 1,) for position in range(len(names))]
        return _dag(names, index, chain)
    edges: list[Iterable[int]] = []
    barrier = -1
    ends: dict[int, None] = {}  # the steps since the last barrier, itself included, that no other of them needs
    needed: set[int] = set()
    for position, step in enumerate(workflow.steps):
        direct = _direct(step, index)
        if direct is None:
            edges.append(tuple(ends))
            barrier, ends = position, {position: None}
            needed.clear()
            continue
        # What is listed above the last barrier is implied by the barrier, and the barrier by what is below it.
        near = {other for other in direct if other > barrier}
        if not near and barrier >= 0:
            near = {barrier}
        edges.append(near)
        needed |= near
        for other in near:
            ends.pop(other, None)
        if position not in needed:
            ends[position] = None
    return _dag(names, index, edges)


def _direct(step: Step, index: Mapping[str, int]) -> set[int] | None:
    """The steps that it names, None for a barrier."""
    named = {
        reference.path[1]
        for template in step.templates
        for reference in template.references
        if reference.path[0] == "steps"
    }
    if step.needs is None and not named:
        return None
    named.update(step.needs or ())
    unknown = min((name for name in named if name not in index), default=None)
    if unknown is not None:
        raise InvalidInputError(f"cannot order the steps: step {step.name!r} waits for unknown step {unknown!r}")
    return {index[name] for name in named}


def _dag(names: tuple[str, ...], index: Mapping[str, int], edges: list[Iterable[int]]) -> Dag:
    dependencies = [sorted(others) for others in edges]
    dependents: list[list[int]] = [[] for _ in names]
    for position, others in enumerate(dependencies):
        for other in others:
            dependents[other].append(position)
    _refuse_cycle(names, dependencies, dependents)
    return Dag(
        names=names,
        index=index,
        dependencies=_named(names, dependencies),
        dependents=_named(names, dependents),
    )


def _refuse_cycle(names: tuple[str, ...], dependencies: list[list[int]], dependents: list[list[int]]) -> None:
    unmet = [len(others) for others in dependencies]
    ready = [position for position, count in enumerate(unmet) if count == 0]
    for position in ready:
        for other in dependents[position]:
            unmet[other] -= 1
            if unmet[other] == 0:
                ready.append(other)
    if len(ready) < len(names):
        stuck = ", ".join(name for name, count in zip(names, unmet, strict=True) if count)
        raise InvalidInputError(f"cannot order the steps: these wait for each other: {stuck}")


def _named(names: tuple[str, ...], positions: list[list[int]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(names[other] for other in others) for name, others in zip(names, positions, strict=True)}
