from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from fusemld.model.errors import NotFoundError, StartError
from fusemld.model.extension import Credentials, Endpoint, Extension, Selectors, Service, ServiceAccess
from fusemld.registry.registry import Registry

if TYPE_CHECKING:
    from .conftest import OneService, StoreResolver

RECORD = Extension(
    id="minio",
    product="minio",
    version="1.0",
    services=(
        Service(
            id="s3",
            resource="s3",
            auth_required=True,
            endpoints=(Endpoint(url="http://minio"),),
            credentials=(Credentials(id="c", configuration={"AWS_SECRET_ACCESS_KEY": "hunter1"}),),
        ),
        Service(id="admin", resource="console"),
    ),
)


async def _resolve(
    registry: Registry, services: OneService, *, executor: str = "process", **selectors: str
) -> ServiceAccess:
    return await registry.resolve(
        Selectors(name="store", **selectors),
        executor=executor,
        zone="local",
        project="team",
        user="ann",
        services=services,
        note=lambda text: None,
    )


def test_records_are_listed_by_id_replaced_and_removed() -> None:
    registry = Registry()
    for id_ in ("b", "a", "b"):
        registry.upsert(Extension(id=id_, product=f"{id_}!"))
    registry.remove("nothing")

    assert [record.id for record in registry.list()] == ["a", "b"]
    registry.remove("a")
    assert [record.id for record in registry.list()] == ["b"]
    with pytest.raises(NotFoundError, match="there is no extension 'a'"):
        registry.get("a")


async def test_a_record_is_preferred_to_what_resolvers_offer(
    resolver: StoreResolver, services: OneService
) -> None:
    registry = Registry([resolver])
    registry.upsert(RECORD)

    access = await _resolve(registry, services, service_resource="s3")

    assert access.service.extension_id == "minio"
    assert access.configuration == {"AWS_SECRET_ACCESS_KEY": "hunter1"}
    assert resolver.starts == []


async def test_a_resolver_gives_access_where_no_record_comes_near(
    resolver: StoreResolver, services: OneService
) -> None:
    registry = Registry([resolver])
    registry.upsert(
        Extension(id="other", product="seldon", services=(Service(id="x", resource="seldon-core-api"),))
    )

    access = await _resolve(registry, services, product="mlflow", service_resource="s3")

    assert resolver.starts == [("embedded-mlflow", "s3")]
    assert access.service.extension_id == "embedded-mlflow"
    assert access.service.url == "http://127.0.0.1:9000"
    assert access.secret_keys == {"AWS_SECRET_ACCESS_KEY"}
    assert access.configuration["AWS_SECRET_ACCESS_KEY"] == "hunter2"


async def test_a_record_that_nearly_matches_is_an_error_and_never_replaced(
    resolver: StoreResolver, services: OneService
) -> None:
    registry = Registry([resolver])
    registry.upsert(RECORD)

    with pytest.raises(StartError) as raised:
        await _resolve(registry, services, service_resource="s3", version="^2")

    assert str(raised.value) == (
        "cannot resolve the extension 'store' (version '^2', service_resource 's3'): nothing matches, near are "
        "minio/s3: its version is '1.0', and '^2' is required"
    )
    assert resolver.starts == []


async def test_what_nobody_offers_is_an_error_that_says_what_to_do(
    resolver: StoreResolver, services: OneService
) -> None:
    with pytest.raises(StartError, match="no record of the Extension Registry and no plugin offers it; drop an"):
        await _resolve(Registry([resolver]), services, executor="kubernetes", service_resource="s3")


async def test_an_offer_that_nearly_matches_says_what_refused_it(
    resolver: StoreResolver, services: OneService
) -> None:
    with pytest.raises(StartError, match="embedded-s3/s3: its product is not set, and 'minio' is required"):
        await _resolve(Registry([resolver]), services, product="minio", service_resource="s3")


async def test_services_of_a_record_are_checked_by_who_knows_their_resource(resolver: StoreResolver) -> None:
    registry = Registry([resolver])
    registry.upsert(RECORD)

    admin, store = await registry.check("minio", zone="local", project="team", user="ann")

    assert (store.result.ok, store.result.message) == (True, "answers")
    assert store.service is not None
    assert [access.service.url for access in resolver.checked] == ["http://minio"]
    assert admin.service is None
    assert admin.result.message == "not checked: no plugin knows services of resource 'console'"
    with pytest.raises(NotFoundError):
        await registry.check("absent", zone="local", project="team", user="ann")


async def test_a_service_that_was_resolved_before_is_reached_again_whoever_asks(services: OneService) -> None:
    registry = Registry()
    registry.upsert(RECORD)
    before = await _resolve(registry, services, service_resource="s3")

    again = await registry.again(before.service, services=services, note=lambda text: None)

    assert again == before


async def test_what_a_resolver_offered_is_reached_again_too(resolver: StoreResolver, services: OneService) -> None:
    registry = Registry([resolver])
    before = await _resolve(registry, services, product="mlflow", service_resource="s3")

    again = await registry.again(before.service, services=services, note=lambda text: None)

    assert again == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extension_id": "gone"}, "there is no such extension any more"),
        ({"service_id": "gone"}, "the extension has no such service any more"),
        ({"credentials_id": "gone"}, "its credentials gone are gone"),
        ({"url": "http://gone"}, "its endpoint http://gone is gone"),
    ],
)
async def test_what_is_gone_is_not_reached_by_something_else(
    services: OneService, change: dict[str, str], words: str
) -> None:
    registry = Registry()
    registry.upsert(RECORD)
    before = await _resolve(registry, services, service_resource="s3")
    service = msgspec.structs.replace(before.service, **change)

    with pytest.raises(NotFoundError, match=words):
        await registry.again(service, services=services, note=lambda text: None)
