"""Steps may only need what is listed above them: self references, cycles and forward references are found here."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fusemld.spec.leaves import named, shown_name
from fusemld.spec.nodes import Place
from fusemld.spec.reader import Findings

_MAX_SEARCHES: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A step needs `target`, because `place` says so: with an expression for `output`, or with `needs`."""

    target: str
    place: Place
    output: str | None = None


def check_precedence(needs: Mapping[str, Sequence[Need]], findings: Findings) -> None:
    """`needs` has every step, in listed order; targets that are no steps have been reported already."""
    listed = {step: index for index, step in enumerate(needs)}
    cycles: set[frozenset[str]] = set()
    searches = 0
    for step, needed in needs.items():
        for need in needed:
            if need.target == step:
                findings.error(_self(step, need), need.place)
            elif listed.get(need.target, -1) > listed[step]:
                searches += 1
                cycle = _way(need.target, step, needs) if searches <= _MAX_SEARCHES else None
                if cycle is None:
                    findings.error(_forward(step, need), need.place)
                elif frozenset(cycle) not in cycles:
                    cycles.add(frozenset(cycle))
                    way = " -> ".join(map(shown_name, (step, *cycle)))
                    findings.error(
                        f"the steps wait for each other in a cycle: {way} (each needs the next): "
                        "remove one of these needs",
                        need.place,
                    )


def _self(step: str, need: Need) -> str:
    if need.output is None:
        return f"{named('step', step)} needs itself: remove it from 'needs'"
    return (
        f"{named('step', step)} refers to its own output {need.output!r}, "
        "which exists only after it has ended: remove it"
    )


def _forward(step: str, need: Need) -> str:
    target = named("step", need.target)
    what = f"needs {target}"
    if need.output is not None:
        what = f"refers to the output {need.output!r} of {target}"
    order = f"list {need.target!r} above {step!r}" if need.target and step else "list that one first"
    return f"{named('step', step)} {what}, which is listed further below: {order}"


def _way(start: str, goal: str, needs: Mapping[str, Sequence[Need]]) -> tuple[str, ...] | None:
    """The steps on the shortest way along needs, both ends included."""
    before: dict[str, str | None] = {start: None}
    queue = deque([start])
    while queue:
        step = queue.popleft()
        if step == goal:
            way = [step]
            while (previous := before[way[-1]]) is not None:
                way.append(previous)
            return tuple(reversed(way))
        for need in needs.get(step, ()):
            if need.target not in before and need.target in needs:
                before[need.target] = step
                queue.append(need.target)
    return None
