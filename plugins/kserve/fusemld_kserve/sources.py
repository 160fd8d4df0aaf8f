"""What every way of serving asks first: the application as it is, the object store, the model's files."""

from __future__ import annotations

from collections.abc import Sequence

from fusemld.hooks.steps import StepContext
from fusemld.hooks.stores import ObjectStore, StoredObject
from fusemld.model.application import Application
from fusemld.model.errors import ConflictError, InvalidInputError, NotFoundError
from fusemld.model.extension import ServiceAccess
from fusemld_kserve.models import DESCRIPTION, ModelDescription, read_description

TYPE = "predictor"
DESCRIPTION_LIMIT_BYTES = 1024 * 1024


async def current(context: StepContext, name: str) -> Application | None:
    """The application as it is. Raises `ConflictError` where a newer run updated it."""
    found = await context.applications.get(name)
    if found is not None and found.run_created_at > context.run_created_at:
        raise ConflictError(
            f"cannot update application {name}: the newer run {found.run} has updated it, and its model stays"
        )
    return found


def store_access(context: StepContext) -> ServiceAccess:
    """Raises `InvalidInputError` where the step asks for no object store."""
    for access in context.extensions.values():
        if access.service.service_resource == "s3":
            return access
    raise InvalidInputError(
        "cannot read the model: the step has no extension with `service_resource: s3`; add one to its `extensions`"
    )


async def model_objects(store: ObjectStore, url: str) -> Sequence[StoredObject]:
    objects = await store.list(f"{url}/")
    if not objects:
        raise NotFoundError(f"cannot serve {url}: there is no such model in the object store")
    return objects


async def read_model(store: ObjectStore, url: str) -> ModelDescription:
    """Raises `InvalidInputError` where there is no MLflow model."""
    where = f"{url}/{DESCRIPTION}"
    try:
        text = await store.read(where, DESCRIPTION_LIMIT_BYTES)
    except NotFoundError as error:
        raise InvalidInputError(
            f"cannot serve {url}: it has no {DESCRIPTION}, so it is not an MLflow model"
        ) from error
    return read_description(text.decode(errors="replace"), where)
