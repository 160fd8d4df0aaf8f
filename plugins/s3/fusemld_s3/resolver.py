"""Access to the embedded object store, alone and as MLflow's artifact store; checks of any S3 service."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec

from fusemld.hooks.clusters import Clusters
from fusemld.hooks.environments import Note
from fusemld.hooks.resolvers import CheckResult
from fusemld.hooks.services import ServiceRequest, Services
from fusemld.model.errors import FusemldError, NotFoundError
from fusemld.model.extension import Credentials, Endpoint, EndpointType, Extension, Service, ServiceAccess
from fusemld_s3.service import ACCESS_KEY, KIND, SECRET_KEY, version
from fusemld_s3.settings import DEFAULT_REGION, connection
from fusemld_s3.store import S3Store

_EXECUTOR = "process"
_ZONE = "local"


def _offers() -> tuple[Extension, ...]:
    description = "S3 object store of this host (rclone), started when first needed"
    return (
        Extension(
            id="embedded-s3",
            product="s3",
            version=version(),
            zone=_ZONE,
            description=description,
            services=(Service(id="s3", resource="s3", category="object-storage", description=description),),
        ),
        Extension(
            id="embedded-mlflow-store",
            product="mlflow",
            zone=_ZONE,
            description=f"artifact store of the embedded MLflow: {description}",
            services=(Service(id="mlflow-store", resource="s3", category="model-store", description=description),),
        ),
    )


class S3Resolver:
    name = "s3"
    resources: tuple[str, ...] = ("s3",)

    def offers(self, executor: str) -> tuple[Extension, ...]:
        return _offers() if executor == _EXECUTOR else ()

    async def access(
        self,
        extension_id: str,
        service_id: str,
        services: Services,
        clusters: Clusters,  # noqa: ARG002
        note: Note,
    ) -> Extension:
        offer = next((offer for offer in _offers() if offer.id == extension_id), None)
        if offer is None or offer.services[0].id != service_id:
            raise NotFoundError(f"cannot give access to {extension_id}/{service_id}: there is no such offer")
        address = await services.ensure(ServiceRequest(name=KIND, kind=KIND), note)
        endpoint = Endpoint(
            url=address.url,
            type=EndpointType.INTERNAL,
            configuration={
                "MLFLOW_S3_ENDPOINT_URL": address.url,
                "AWS_ENDPOINT_URL_S3": address.url,
                "S3_ENDPOINT": urlsplit(address.url).netloc,
                "S3_USE_HTTPS": "0",
                "AWS_DEFAULT_REGION": DEFAULT_REGION,
                # newer S3 clients ask for checksums that the server does not have for ranged reads
                "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
                "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            },
        )
        credentials = Credentials(
            id="embedded",
            default=True,
            configuration={
                "AWS_ACCESS_KEY_ID": address.credentials[ACCESS_KEY],
                "AWS_SECRET_ACCESS_KEY": address.credentials[SECRET_KEY],
            },
        )
        service = msgspec.structs.replace(
            offer.services[0], auth_required=True, endpoints=(endpoint,), credentials=(credentials,)
        )
        return msgspec.structs.replace(offer, services=(service,))

    async def check(self, access: ServiceAccess, clusters: Clusters) -> CheckResult:  # noqa: ARG002
        try:
            store = S3Store(connection(access))
            buckets = await store.buckets()
        except FusemldError as error:
            return CheckResult(ok=False, message=str(error))
        return CheckResult(ok=True, message=f"answers and takes the credentials ({len(buckets)} buckets)")
