from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemld.engine.dag import Dag, build
from fusemld.model.errors import InvalidInputError
from fusemld.model.template import Reference, Template, literal
from fusemld.model.workflow import Order, Step, Workflow

Shape = list[tuple[set[int], set[int] | None]]
"""Of each step, by position, the steps that its expressions reference and its `needs`."""


def workflow(shape: Shape, order: Order = Order.DAG) -> Workflow:
    return Workflow(
        name="w",
        order=order,
        steps=tuple(
            Step(
                name=f"s{position}",
                image=Template(tuple(Reference(("steps", f"s{other}", "outputs", "o")) for other in references)),
                needs=None if needs is None else tuple(f"s{other}" for other in needs),
            )
            for position, (references, needs) in enumerate(shape)
        ),
    )


def closure(dependencies: dict[str, set[str]]) -> dict[str, set[str]]:
    reached: dict[str, set[str]] = {}
    for name in sorted(dependencies, key=lambda name: int(name[1:])):
        direct = dependencies[name]
        reached[name] = direct.union(*(reached[other] for other in direct))
    return reached


def as_sets(dag: Dag) -> dict[str, set[str]]:
    return {name: set(others) for name, others in dag.dependencies.items()}


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    shape: Shape = []
    for position in range(draw(st.integers(1, 9))):
        above = st.sets(st.sampled_from(range(position))) if position else st.just(set[int]())
        shape.append((draw(above), draw(st.none() | above)))
    return shape


@given(shapes())
def test_the_reduced_graph_implies_exactly_the_order_of_the_design(shape: Shape) -> None:
    expected: dict[str, set[str]] = {}
    barriers: list[int] = []
    for position, (references, needs) in enumerate(shape):
        if needs is None and not references:
            direct = set(range(position))
            barriers.append(position)
        else:
            direct = references | (needs or set()) | {barrier for barrier in barriers if barrier < position}
        expected[f"s{position}"] = {f"s{other}" for other in direct}

    dag = build(workflow(shape))

    assert closure(as_sets(dag)) == closure(expected)


@given(shapes())
def test_listed_order_is_a_chain_whatever_the_steps_say(shape: Shape) -> None:
    dag = build(workflow(shape, Order.LISTED))

    assert [dag.dependencies[name] for name in dag.names] == [(), *((name,) for name in dag.names[:-1])]


@given(shapes())
def test_dependents_mirror_dependencies_in_listed_order(shape: Shape) -> None:
    dag = build(workflow(shape))

    mirrored = {name: tuple(n for n in dag.names if name in dag.dependencies[n]) for name in dag.names}
    assert dag.dependents == mirrored


def test_steps_without_references_run_one_after_the_other() -> None:
    dag = build(workflow([(set(), None), (set(), None), (set(), None)]))

    assert dag.dependencies == {"s0": (), "s1": ("s0",), "s2": ("s1",)}


def test_branches_that_only_share_data_run_side_by_side_and_meet_at_a_barrier() -> None:
    dag = build(workflow([(set(), None), ({0}, None), ({0}, None), (set(), None)]))

    assert dag.dependencies == {"s0": (), "s1": ("s0",), "s2": ("s0",), "s3": ("s1", "s2")}


def test_empty_needs_is_no_barrier_but_waits_for_the_barrier_above() -> None:
    dag = build(workflow([(set(), set()), (set(), set()), (set(), None), (set(), set())]))

    assert dag.dependencies == {"s0": (), "s1": (), "s2": ("s0", "s1"), "s3": ("s2",)}


def test_a_need_may_point_downwards() -> None:
    dag = build(workflow([(set(), {1}), (set(), set()), (set(), None)]))

    assert dag.dependencies == {"s0": ("s1",), "s1": (), "s2": ("s0",)}


@pytest.mark.parametrize(
    "shape",
    [[(set(), {0})], [(set(), {1}), (set(), {0})], [(set(), {2}), (set(), None), (set(), set())]],
    ids=["itself", "each other", "across a barrier"],
)
def test_a_cycle_is_refused_by_name(shape: Shape) -> None:
    with pytest.raises(InvalidInputError, match=r"wait for each other: s0"):
        build(workflow(shape))


def test_an_unknown_step_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match=r"'s0' waits for unknown step 's7'"):
        build(workflow([(set(), {7})]))


@pytest.mark.parametrize("needs", [None, ()], ids=["barriers", "fan-out and fan-in"])
def test_ten_thousand_steps_have_ten_thousand_edges(needs: tuple[str, ...] | None) -> None:
    steps = [Step(name=f"s{n}", image=literal("x"), needs=needs) for n in range(9_999)]
    wide = Workflow(name="w", steps=(*steps, Step(name="last", image=literal("x"))))

    dag = build(wide)

    assert sum(map(len, dag.dependencies.values())) == 9_999
