import pytest
from fusemld_s3.settings import connection

from fusemld.model.errors import InvalidInputError
from fusemld.model.extension import ResolvedService, ServiceAccess


def access(url: str = "", **configuration: str) -> ServiceAccess:
    service = ResolvedService(requirement="store", extension_id="minio", service_id="s3", url=url)
    return ServiceAccess(service=service, configuration=configuration)


@pytest.mark.parametrize(
    ("given", "endpoint"),
    [
        (access(), None),
        (access("http://minio:9000/"), "http://minio:9000"),
        (access("http://ui", MLFLOW_S3_ENDPOINT_URL="http://minio:9000"), "http://minio:9000"),
        (access(AWS_ENDPOINT_URL_S3="https://a", MLFLOW_S3_ENDPOINT_URL="https://b"), "https://a"),
        (access(S3_ENDPOINT="minio:9000"), "https://minio:9000"),
        (access(S3_ENDPOINT="minio:9000", S3_USE_HTTPS="0"), "http://minio:9000"),
        (access(S3_ENDPOINT="http://minio:9000"), "http://minio:9000"),
    ],
)
def test_the_endpoint_is_read_from_the_keys_that_step_images_use(
    given: ServiceAccess, endpoint: str | None
) -> None:
    assert connection(given).endpoint == endpoint


def test_an_address_that_is_not_http_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="not an http or https URL"):
        connection(access("ftp://minio"))


def test_half_a_pair_of_keys_is_refused_without_showing_it() -> None:
    with pytest.raises(InvalidInputError, match="only one of them is set") as caught:
        connection(access(AWS_SECRET_ACCESS_KEY="canary"))

    assert "canary" not in str(caught.value)


def test_a_connection_does_not_show_its_keys() -> None:
    keys = {"AWS_ACCESS_KEY_ID": "canary-id", "AWS_SECRET_ACCESS_KEY": "canary-key"}

    assert "canary" not in repr(connection(access("http://minio", **keys)))
