"""How a resolved service is reached, read from the keys that FuseML's step images use; no I/O."""

from __future__ import annotations

from urllib.parse import urlsplit

from fusemld.hooks.stores import StoreConnection
from fusemld.model.errors import InvalidInputError
from fusemld.model.extension import ServiceAccess

DEFAULT_REGION = "us-east-1"
_ENDPOINT_KEYS = ("AWS_ENDPOINT_URL_S3", "MLFLOW_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL")
_NO = frozenset({"0", "false", "no", "off"})


def connection(access: ServiceAccess) -> StoreConnection:
    """Raises `InvalidInputError` where the record has one half of a pair of keys, or no usable address."""
    values = {key: value for key, value in access.configuration.items() if value}
    access_key, secret_key = values.get("AWS_ACCESS_KEY_ID"), values.get("AWS_SECRET_ACCESS_KEY")
    if (access_key is None) != (secret_key is None):
        raise InvalidInputError(
            f"cannot use the object store {access.service.extension_id}: AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY go together, and only one of them is set"
        )
    return StoreConnection(
        endpoint=_endpoint(access, values),
        region=values.get("AWS_DEFAULT_REGION") or values.get("AWS_REGION") or DEFAULT_REGION,
        access_key=access_key,
        secret_key=secret_key,
        session_token=values.get("AWS_SESSION_TOKEN"),
        verify_tls=values.get("S3_VERIFY_SSL", "1").lower() not in _NO,
    )


def _endpoint(access: ServiceAccess, values: dict[str, str]) -> str | None:
    given = next((values[key] for key in _ENDPOINT_KEYS if key in values), None)
    if given is None and "S3_ENDPOINT" in values:
        given = values["S3_ENDPOINT"]
        if "://" not in given:
            scheme = "http" if values.get("S3_USE_HTTPS", "1").lower() in _NO else "https"
            given = f"{scheme}://{given}"
    given = given or access.service.url
    if not given:
        return None
    if urlsplit(given).scheme not in ("http", "https"):
        raise InvalidInputError(
            f"cannot use the object store {access.service.extension_id}: {given!r} is not an http or https URL"
        )
    return given.rstrip("/")
