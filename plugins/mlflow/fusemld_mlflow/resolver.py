"""Access to the embedded tracking server, and checks of any MLflow tracking service."""

from __future__ import annotations

import aiohttp
import msgspec

from fusemld.hooks.clusters import Clusters
from fusemld.hooks.environments import Note
from fusemld.hooks.resolvers import CheckResult
from fusemld.hooks.services import ServiceRequest, Services
from fusemld.model.errors import NotFoundError
from fusemld.model.extension import Endpoint, EndpointType, Extension, Service, ServiceAccess
from fusemld_mlflow.service import KIND, pinned_version

_EXECUTOR = "process"
_ZONE = "local"
_TIMEOUT = aiohttp.ClientTimeout(total=10)


def _offer() -> Extension:
    return Extension(
        id="embedded-mlflow",
        product="mlflow",
        version=pinned_version("mlflow"),
        zone=_ZONE,
        description="MLflow tracking server of this host, started when first needed",
        services=(
            Service(
                id="mlflow-tracking",
                resource="mlflow-tracking",
                category="experiment-tracking",
                description="MLflow experiment tracking API and UI",
            ),
        ),
    )


class TrackingResolver:
    name = "mlflow"
    resources: tuple[str, ...] = ("mlflow-tracking",)

    def offers(self, executor: str) -> tuple[Extension, ...]:
        return (_offer(),) if executor == _EXECUTOR else ()

    async def access(
        self,
        extension_id: str,
        service_id: str,
        services: Services,
        clusters: Clusters,  # noqa: ARG002
        note: Note,
    ) -> Extension:
        offer = _offer()
        if (extension_id, service_id) != (offer.id, offer.services[0].id):
            raise NotFoundError(f"cannot give access to {extension_id}/{service_id}: there is no such offer")
        address = await services.ensure(ServiceRequest(name=KIND, kind=KIND), note)
        configuration = {"MLFLOW_TRACKING_URI": address.url}
        endpoint = Endpoint(url=address.url, type=EndpointType.INTERNAL, configuration=configuration)
        service = msgspec.structs.replace(offer.services[0], endpoints=(endpoint,))
        return msgspec.structs.replace(offer, services=(service,))

    async def check(self, access: ServiceAccess, clusters: Clusters) -> CheckResult:  # noqa: ARG002
        values = access.configuration
        url = (values.get("MLFLOW_TRACKING_URI") or access.service.url).rstrip("/")
        if not url.startswith(("http://", "https://")):
            return CheckResult(ok=False, message=f"{url!r} is not the address of a tracking server")
        auth: aiohttp.BasicAuth | None = None
        if user := values.get("MLFLOW_TRACKING_USERNAME"):
            auth = aiohttp.BasicAuth(user, values.get("MLFLOW_TRACKING_PASSWORD", ""))
        token = values.get("MLFLOW_TRACKING_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token and not auth else {}
        try:
            async with aiohttp.ClientSession(timeout=_TIMEOUT, auth=auth, headers=headers) as session:
                async with session.get(f"{url}/health") as answer:
                    if answer.status != 200:
                        return CheckResult(ok=False, message=f"{url}/health answers {answer.status}")
                async with session.get(f"{url}/version") as answer:
                    version = (await answer.text()).strip() if answer.status == 200 else ""
                search = f"{url}/api/2.0/mlflow/experiments/search"
                async with session.post(search, json={"max_results": 1}) as answer:
                    if answer.status != 200:
                        return CheckResult(ok=False, message=f"{url} is healthy, its API answers {answer.status}")
        except (aiohttp.ClientError, TimeoutError) as error:
            return CheckResult(ok=False, message=f"cannot reach {url}: {str(error) or 'no answer in time'}")
        return _compared(access.service.version, version)


def _compared(recorded: str, live: str) -> CheckResult:
    """A record that names another version than the server does is wrong."""
    if recorded and live and recorded.removeprefix("v") != live:
        return CheckResult(ok=False, message=f"the server is MLflow {live}, the record says {recorded}")
    return CheckResult(ok=True, message=f"answers{f', MLflow {live}' if live else ''}")
