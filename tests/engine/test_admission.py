from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fusemld.engine.admission import Admission, Holdup, SlotKey


def fill(admission: Admission, run: str, steps: int, workflow: str = "w") -> list[SlotKey]:
    keys = [(run, f"s{number}") for number in range(steps)]
    for key in keys:
        admission.request(key, workflow)
    return keys


def test_the_global_limit_holds_and_slots_are_given_in_the_order_of_requests() -> None:
    admission = Admission(limit=2)
    keys = [*fill(admission, "a", 1), *fill(admission, "b", 1), *fill(admission, "c", 1)]

    assert admission.admit() == keys[:2]
    assert admission.admit() == []

    admission.release(keys[0])

    assert admission.admit() == keys[2:]


def test_a_large_run_does_not_starve_a_small_one_that_came_later() -> None:
    admission = Admission(limit=1)
    large = fill(admission, "large", 1_000)
    assert admission.admit() == large[:1]
    small = fill(admission, "small", 2)

    order = []
    held = large[0]
    for _ in range(5):
        admission.release(held)
        (held,) = admission.admit()
        order.append(held)

    assert order == [large[1], small[0], large[2], small[1], large[3]]


def test_a_workflow_at_its_limit_is_gone_past_until_one_of_its_slots_is_free() -> None:
    admission = Admission(limit=10, workflow_limits={"slow": 1})
    slow = [*fill(admission, "a", 2, "slow"), *fill(admission, "b", 1, "slow")]
    other = fill(admission, "c", 2, "other")

    assert set(admission.admit()) == {slow[0], *other}
    assert admission.holdup(slow[1]) == Holdup(workflow="slow", held=1, limit=1)

    admission.release(slow[0])

    assert admission.admit() == [slow[2]]


def test_slots_of_an_earlier_life_count_even_beyond_the_limit() -> None:
    admission = Admission(limit=1)
    admission.occupy(("a", "s0"), "w")
    admission.occupy(("a", "s1"), "w")
    keys = fill(admission, "b", 1)

    admission.release(("a", "s0"))
    assert admission.admit() == []

    admission.release(("a", "s1"))
    assert admission.admit() == keys


def test_a_step_that_gives_up_waiting_is_not_admitted() -> None:
    admission = Admission(limit=0)
    keys = fill(admission, "a", 2)
    admission.release(keys[0])
    admission.set_limits(limit=5)

    assert admission.admit() == keys[1:]
    assert admission.queued == 0


def test_raised_and_lowered_limits_count_from_then_on() -> None:
    admission = Admission(workflow_limit=1)
    keys = fill(admission, "a", 4)
    assert len(admission.admit()) == 1

    admission.set_limits(workflow_limit=3)
    assert len(admission.admit()) == 2

    admission.set_limits(workflow_limit=1)
    admission.release(keys[0])
    assert admission.admit() == []


def test_requests_and_releases_may_be_repeated() -> None:
    admission = Admission(limit=1)
    key = ("a", "s0")
    for _ in range(2):
        admission.request(key, "w")
    assert (admission.admit(), admission.admit()) == ([key], [])
    admission.request(key, "w")
    assert admission.queued == 0
    for _ in range(2):
        admission.release(key)

    assert (admission.held, admission.admit()) == (0, [])


runs = st.lists(st.tuples(st.sampled_from(["v", "w"]), st.integers(1, 4)), min_size=1, max_size=5)


@given(runs, st.integers(0, 6))
def test_the_position_is_the_number_of_admissions_before_the_turn_comes(
    queued: list[tuple[str, int]], before: int
) -> None:
    admission = Admission(limit=before)
    keys = [
        key for run, (workflow, steps) in enumerate(queued) for key in fill(admission, f"{run}", steps, workflow)
    ]
    admission.admit()
    expected = {key: admission.position(key) for key in keys}

    admission.set_limits()
    admitted = admission.admit()

    assert [expected[key] for key in admitted] == list(range(len(admitted)))


@given(
    runs,
    st.integers(1, 3),
    st.integers(1, 2),
    st.lists(st.tuples(st.booleans(), st.integers(0, 19)), max_size=30),
)
def test_limits_are_never_exceeded_and_nobody_is_forgotten(
    queued: list[tuple[str, int]], limit: int, workflow_limit: int, releases: list[tuple[bool, int]]
) -> None:
    admission = Admission(limit=limit, workflow_limit=workflow_limit)
    waiting = {
        key: workflow
        for run, (workflow, steps) in enumerate(queued)
        for key in fill(admission, f"{run}", steps, workflow)
    }
    held: dict[SlotKey, str] = {}

    def admit() -> None:
        for key in admission.admit():
            held[key] = waiting.pop(key)
        workflows = list(held.values())
        assert len(held) <= limit
        assert all(workflows.count(workflow) <= workflow_limit for workflow in "vw")
        could_move = len(held) < limit and any(workflows.count(w) < workflow_limit for w in waiting.values())
        assert not could_move

    admit()
    for is_held, index in releases:
        pool = held if is_held else waiting
        if pool:
            key = list(pool)[index % len(pool)]
            del pool[key]
            admission.release(key)
            admit()
    while held:
        admission.release(held.popitem()[0])
        admit()

    assert not waiting
    assert (admission.held, admission.queued) == (0, 0)


def test_ten_thousand_runs_all_get_their_turn() -> None:
    admission = Admission(limit=32)
    for run in range(10_000):
        fill(admission, f"{run}", 5, workflow=f"w{run % 100}")
    held = admission.admit()
    done = 0
    while held:
        for key in held:
            admission.release(key)
            done += 1
        held = admission.admit()

    assert done == 50_000
