from __future__ import annotations

from typing import TYPE_CHECKING

from fusemld.daemon.variables import selectors
from fusemld.model.extension import Endpoint, Extension, Service
from fusemld.model.run import Run
from fusemld.model.template import Reference, Template, literal
from fusemld.model.workflow import Requirement, Step, Workflow, WorkflowInput
from fusemld.registry.explain import Explanation, wanted
from fusemld.registry.registry import Registry

if TYPE_CHECKING:
    from .conftest import StoreResolver


def _store(id_: str, version: str) -> Extension:
    service = Service(id="s3", resource="s3", endpoints=(Endpoint(url=f"http://{id_}"),))
    return Extension(id=id_, product="minio", version=version, services=(service,))


def _workflow(*requirements: Requirement) -> Workflow:
    return Workflow(
        name="w",
        inputs=(WorkflowInput(name="version", default="^1"), WorkflowInput(name="product")),
        steps=(Step(name="train", image=literal("i"), extensions=requirements),),
    )


def _explain(registry: Registry, requirement: Requirement, **inputs: str) -> Explanation:
    (explanation,) = registry.explain(
        _workflow(requirement), executor="process", zone="local", project="p", user="u", inputs=inputs
    )
    return explanation


REQUIREMENT = Requirement(
    name="store", service_resource=literal("s3"), version=Template((Reference(("inputs", "version")),))
)


def test_what_was_picked_is_said_with_the_runners_up_and_the_near_misses() -> None:
    registry = Registry()
    for id_, version in (("old", "0.9"), ("spare", "1.1"), ("main", "1.2")):
        registry.upsert(_store(id_, version))

    explanation = _explain(registry, REQUIREMENT)

    assert explanation.message == "main/s3 at http://main is picked (record)"
    assert explanation.selectors == {"service_resource": "s3", "version": "^1"}
    assert [service.extension_id for service in explanation.alternatives] == ["spare"]
    assert [str(miss) for miss in explanation.near_misses] == [
        "old/s3: its version is '0.9', and '^1' is required"
    ]


def test_inputs_of_a_run_take_the_place_of_defaults() -> None:
    registry = Registry()
    registry.upsert(_store("old", "0.9"))

    assert _explain(registry, REQUIREMENT).service is None
    found = _explain(registry, REQUIREMENT, version="<1").service
    assert found is not None
    assert found.extension_id == "old"


def test_a_selector_without_a_value_yet_is_left_open_and_named() -> None:
    registry = Registry()
    registry.upsert(_store("main", "1.2"))
    requirement = Requirement(
        name="store", service_resource=literal("s3"), product=Template((Reference(("inputs", "product")),))
    )

    explanation = _explain(registry, requirement)

    assert explanation.unknown == ("product",)
    assert explanation.service is not None
    assert _explain(registry, requirement, product="minio").unknown == ()


def test_a_selector_that_is_rendered_to_nothing_is_none_as_in_a_run() -> None:
    registry = Registry()
    registry.upsert(_store("main", "1.2"))
    product = Template((Reference(("inputs", "product")),))
    requirement = Requirement(name="store", service_resource=literal("s3"), product=product)
    run = Run(id="r", workflow="w", workflow_digest="d", created_at=0.0, inputs={"product": ""})

    explanation = _explain(registry, requirement, product="")

    assert explanation.message == "main/s3 at http://main is picked (record)"
    assert explanation.selectors == wanted(selectors(requirement, run)) == {"service_resource": "s3"}
    assert explanation.unknown == ()


def test_what_a_resolver_would_give_is_explained_without_starting_anything(resolver: StoreResolver) -> None:
    explanation = _explain(Registry([resolver]), Requirement(name="store", service_resource=literal("s3")))

    assert explanation.source == "resolver store"
    assert explanation.message == "embedded-mlflow/s3 is picked (resolver store)"
    assert resolver.starts == []


def test_nothing_picked_says_why() -> None:
    explanation = _explain(Registry(), REQUIREMENT)

    assert (explanation.service, explanation.source) == (None, "")
    assert "no record of the Extension Registry and no plugin offers it" in explanation.message


def test_a_requirement_without_selectors_is_explained_as_one_for_any_service() -> None:
    registry, anything = Registry(), Requirement(name="anything")

    nothing_there = _explain(registry, anything)
    registry.upsert(_store("spare", "1.1"))
    registry.upsert(_store("main", "1.2"))
    picked = _explain(registry, anything)

    assert nothing_there.message.startswith("cannot resolve the extension 'anything' (any service): no record of")
    assert picked.message == "main/s3 at http://main is picked (record)"
    assert [service.extension_id for service in picked.alternatives] == ["spare"]


def test_a_selector_without_a_value_yet_is_named_where_nothing_was_picked() -> None:
    requirement = Requirement(name="store", product=Template((Reference(("inputs", "product")),)))

    explanation = _explain(Registry(), requirement)

    assert "cannot resolve the extension 'store' (product not known yet)" in explanation.message
