"""The hooks of this plugin: the embedded object store, access to object stores, and their clients."""

from __future__ import annotations

from collections.abc import Sequence

from fusemld.hooks.resolvers import Resolver
from fusemld.hooks.services import ServiceKind
from fusemld.hooks.specs import hookimpl
from fusemld.hooks.stores import ObjectStoreFactory
from fusemld_s3.resolver import S3Resolver
from fusemld_s3.service import RcloneKind
from fusemld_s3.store import S3StoreFactory


@hookimpl
def fusemld_resolvers() -> Sequence[Resolver]:
    return (S3Resolver(),)


@hookimpl
def fusemld_service_kinds() -> Sequence[ServiceKind]:
    return (RcloneKind(),)


@hookimpl
def fusemld_object_stores() -> Sequence[ObjectStoreFactory]:
    return (S3StoreFactory(),)
