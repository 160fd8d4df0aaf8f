"""Records as tests write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from fusemld.hooks.clusters import Clusters
from fusemld.hooks.environments import Note
from fusemld.hooks.resolvers import CheckResult
from fusemld.hooks.services import ServiceAddress, ServiceRequest, Services
from fusemld.model.extension import Credentials, Endpoint, Extension, Service, ServiceAccess


class StoreResolver:
    """A plugin that offers an object store: `starts` counts what it was asked to start."""

    name = "store"
    resources: tuple[str, ...] = ("s3",)

    def __init__(self) -> None:
        self.starts: list[tuple[str, str]] = []
        self.checked: list[ServiceAccess] = []

    def offers(self, executor: str) -> tuple[Extension, ...]:
        services = (Service(id="s3", resource="s3", category="object-store", auth_required=True),)
        if executor != "process":
            return ()
        return (
            Extension(id="embedded-mlflow", product="mlflow", zone="local", services=services),
            Extension(id="embedded-s3", zone="local", services=services),
        )

    async def access(
        self, extension_id: str, service_id: str, services: Services, clusters: Clusters, note: Note
    ) -> Extension:
        note("starting the store")
        address = await services.ensure(ServiceRequest(name="s3", kind="s3"), note)
        self.starts.append((extension_id, service_id))
        service = Service(
            id=service_id,
            resource="s3",
            auth_required=True,
            endpoints=(Endpoint(url=address.url, configuration={"AWS_ENDPOINT_URL_S3": address.url}),),
            credentials=(Credentials(id="generated", configuration=dict(address.credentials)),),
        )
        offer = next(offer for offer in self.offers("process") if offer.id == extension_id)
        return Extension(id=offer.id, product=offer.product, zone="local", services=(service,))

    async def check(self, access: ServiceAccess, clusters: Clusters) -> CheckResult:
        self.checked.append(access)
        return CheckResult(ok=True, message="answers")


class OneService:
    """The services of a daemon that can start one."""

    def __init__(self, credentials: Mapping[str, str]) -> None:
        self._credentials = credentials

    async def ensure(self, request: ServiceRequest, note: Note) -> ServiceAddress:
        found = self.find(request.name)
        assert found is not None
        return found

    async def remove(self, name: str) -> None:
        """Nothing is kept."""

    def folder(self, name: str) -> Path:
        return Path("/nowhere") / name

    def find(self, name: str) -> ServiceAddress | None:
        return ServiceAddress(
            name=name, host="127.0.0.1", port=9000, folder=self.folder(name), credentials=self._credentials
        )


@pytest.fixture
def resolver() -> StoreResolver:
    return StoreResolver()


@pytest.fixture
def services() -> OneService:
    return OneService({"AWS_SECRET_ACCESS_KEY": "hunter2"})
