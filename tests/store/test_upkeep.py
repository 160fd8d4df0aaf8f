"""What retention asks, over runs of every kind."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import immutables
import pytest

from fusemld.model.application import Application
from fusemld.model.codeset import PinnedCodeset
from fusemld.model.run import Run, RunState, StepRun, StepState
from fusemld.store.changes import PutApplication, PutRun, PutWorkflow
from fusemld.store.sqlite import Store
from fusemld.store.upkeep import Aged

ENDED_AT = {"s1": 10.0, "f1": 20.0, "c1": 30.0, "s2": 40.0, "going": None}
STATES = {
    "s1": RunState.SUCCEEDED,
    "f1": RunState.FAILED,
    "c1": RunState.CANCELLED,
    "s2": RunState.SUCCEEDED,
    "going": RunState.RUNNING,
}
HELD = ("f1", "c1", "going")
"""What goes on, or can be made to."""


def a_run(name: str) -> Run:
    """Each has its name in an output, an input, its workflow and the digest of its codeset."""
    step = StepRun(name="one", state=StepState.SUCCEEDED, outputs={"o": f"output of {name}."})
    return Run(
        id=name,
        workflow="w",
        workflow_digest=f"w-{name}",
        cause=f"cause of {name}",
        created_at=1.0,
        finished_at=ENDED_AT[name],
        state=STATES[name],
        inputs={"i": f"input of {name}."},
        codesets={
            "code": PinnedCodeset(project="p", name="c", version="v", digest=f"pin-{name}", url="file:///c"),
        },
        steps=immutables.Map({"one": step}),
    )


Filled = Callable[[], AbstractAsyncContextManager[Store]]


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    """`async with filled() as store`: with a run of each kind."""

    @asynccontextmanager
    async def life() -> AsyncGenerator[Store]:
        async with Store.open(tmp_path / "fusemld.db") as opened:
            for name in STATES:
                workflow = PutWorkflow(f"w-{name}", "w", f'{{"image": "workflow of {name}."}}')
                await opened.write(workflow, PutRun(a_run(name)))
            yield opened

    return life


@pytest.mark.parametrize(
    ("before", "keep", "expected"),
    [
        (None, None, Aged(going=(), unfinished=1, of_applications=0, retriable=0, recent=4)),
        (35.0, None, Aged(going=("s1", "f1", "c1"), unfinished=1, of_applications=0, retriable=0, recent=1)),
        (10.0, None, Aged(going=(), unfinished=1, of_applications=0, retriable=0, recent=4)),
        (None, 1, Aged(going=("s1",), unfinished=1, of_applications=0, retriable=2, recent=1)),
        (25.0, 1, Aged(going=("s1", "f1"), unfinished=1, of_applications=0, retriable=1, recent=1)),
    ],
)
async def test_runs_go_by_age_and_succeeded_ones_by_number(
    filled: Filled, before: float | None, keep: int | None, expected: Aged
) -> None:
    async with filled() as store:
        assert await store.aged_runs(before=before, keep=keep) == expected


async def test_the_run_of_an_application_is_not_among_those_that_go(filled: Filled) -> None:
    async with filled() as store:
        await store.write(PutApplication(Application(name="iris", type="predictor", url="http://x", run="s1")))

        aged = await store.aged_runs(before=35.0, keep=None)

        assert (aged.going, aged.of_applications) == (("f1", "c1"), 1)


async def test_it_is_known_which_runs_are_stored_and_when_they_ended(filled: Filled) -> None:
    async with filled() as store:
        assert await store.known_runs(["s1", "going", "nobody"]) == {"s1": 10.0, "going": None}
        assert await store.known_runs([]) == {}
        assert await store.run_causes([]) == {f"cause of {name}" for name in STATES}
        assert await store.run_causes(["s1", "nobody"]) == {f"cause of {name}" for name in STATES if name != "s1"}


async def test_contents_of_workflows_are_counted_that_no_other_run_refers_to(filled: Filled) -> None:
    async with filled() as store:
        await store.write(PutWorkflow("w-nobody", "w", "{}"))

        assert await store.unused_workflows([]) == 1
        assert await store.unused_workflows(["s1", "f1"]) == 3


async def test_codesets_are_needed_by_runs_that_go_on_or_can_be_retried(filled: Filled) -> None:
    async with filled() as store:
        assert await store.pinned_digests([]) == {f"pin-{name}" for name in HELD}
        assert await store.pinned_digests(["f1"]) == {f"pin-{name}" for name in HELD if name != "f1"}


@pytest.mark.parametrize("place", ["output", "input", "workflow"])
@pytest.mark.parametrize("name", STATES)
async def test_a_text_is_found_in_every_part_of_a_run_that_goes_on_or_can_be_retried(
    filled: Filled, name: str, place: str
) -> None:
    async with filled() as store:
        assert await store.run_naming(f"{place} of {name}.", []) == (name if name in HELD else None)
        assert await store.run_naming(f"{place} of {name}.", [name]) is None
