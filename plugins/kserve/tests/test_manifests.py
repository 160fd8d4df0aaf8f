from __future__ import annotations

import re

import pytest
from fusemld_kserve.engines import Layout
from fusemld_kserve.manifests import (
    Owner,
    access_places,
    created_at,
    inference_service,
    is_loopback,
    secret,
    service_account,
    service_name,
    service_place,
)
from fusemld_kserve.options import Resources
from hypothesis import given
from hypothesis import strategies as st

from fusemld.hooks.stores import StoreConnection

OWNER = Owner(instance="i-1", application="app", workflow="W 1", run="r1", run_created_at=1763896325.25)
ACCESS = access_places("app", "models", "r1")
NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)


@given(NAMES, NAMES)
def test_a_name_fits_into_the_host_names_that_kserve_makes_of_it(application: str, namespace: str) -> None:
    name = service_name(application, namespace)

    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(f"{name}-predictor-00001-deployment") <= 63
    if len(namespace) <= 36:
        assert len(f"{name}-predictor-{namespace}") <= 63
    assert all(len(place.name) <= 63 for place in access_places(name, namespace, "run"))


def test_a_short_name_stays_and_long_ones_stay_different() -> None:
    long = "a" * 40

    assert service_name("default-sklearn-iris-mlflow-e2e", "default") == "default-sklearn-iris-mlflow-e2e"
    assert service_name(f"{long}1", "default") != service_name(f"{long}2", "default")


def test_every_run_has_an_access_of_its_own() -> None:
    assert access_places("app", "models", "r1") == ACCESS
    assert {place.name for place in ACCESS}.isdisjoint(
        {place.name for place in access_places("app", "models", "r2")}
    )


@pytest.mark.parametrize(
    ("connection", "notes"),
    [
        (
            StoreConnection(endpoint="http://minio:9000", region="eu-1", access_key="a", secret_key="s"),
            {"endpoint": "minio:9000", "usehttps": "0", "region": "eu-1", "verifyssl": "1"},
        ),
        (
            StoreConnection(
                endpoint="https://s3.x.org/base", region="r", access_key="a", secret_key="s", verify_tls=False
            ),
            {"endpoint": "s3.x.org/base", "usehttps": "1", "region": "r", "verifyssl": "0"},
        ),
        (
            StoreConnection(endpoint=None, region="us-east-1", access_key="a", secret_key="s"),
            {"region": "us-east-1", "verifyssl": "1"},
        ),
        (
            StoreConnection(endpoint="http://m", region="r"),
            {"endpoint": "m", "usehttps": "0", "region": "r", "verifyssl": "1", "useanoncredential": "true"},
        ),
    ],
)
def test_the_secret_says_how_the_store_is_reached(connection: StoreConnection, notes: dict[str, str]) -> None:
    made = secret(ACCESS[0], OWNER, connection)

    found = made["metadata"]["annotations"]
    assert {key.partition("/s3-")[2]: value for key, value in found.items() if "/s3-" in key} == notes
    assert set(made["stringData"]) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert made["stringData"]["AWS_SECRET_ACCESS_KEY"] == (connection.secret_key or "")


@pytest.mark.parametrize(
    ("endpoint", "is_so"),
    [
        ("http://127.0.0.1:9000", True),
        ("http://[::1]:9000", True),
        ("http://localhost:9000", True),
        ("http://minio.localhost", True),
        ("http://10.0.0.1:9000", False),
        ("http://minio:9000", False),
        (None, False),
    ],
)
def test_a_store_of_one_machine_only_is_told_from_others(endpoint: str | None, is_so: bool) -> None:
    assert is_loopback(StoreConnection(endpoint=endpoint, region="r")) is is_so


def test_everything_says_whose_it_is() -> None:
    place, layout = service_place("app", "models"), Layout(engine="triton", protocol="v2", model_name="app")
    service = inference_service(place, OWNER, layout, storage="s3://b/m", account="a", resources=Resources())

    for made in (service, service_account(ACCESS[1], OWNER, "s"), secret(ACCESS[0], OWNER, CONNECTION)):
        assert made["metadata"]["labels"] == {
            "app.kubernetes.io/managed-by": "fusemld",
            "fusemld.io/instance": "i-1",
            "fusemld.io/application": "app",
        }
        assert made["metadata"]["annotations"]["fusemld.io/run"] == "r1"
        assert created_at(made) == OWNER.run_created_at
        assert made["metadata"]["namespace"] == "models"


def test_kserves_pods_do_not_pass_for_ours() -> None:
    layout = Layout(engine="sklearn", protocol="v2", model_name="app")
    service = inference_service(
        service_place("app", "models"), OWNER, layout, storage="s3://b/m", account="a", resources=Resources()
    )

    assert service["spec"]["predictor"]["labels"] == {
        "app.kubernetes.io/managed-by": "kserve",
        "fusemld.io/instance": "",
    }


def test_only_what_is_known_is_specified() -> None:
    place = service_place("app", "models")
    bare = Layout(engine="sklearn", protocol="v2", model_name="app")
    full = Layout(engine="triton", protocol="v2", model_name="app", runtime_version="21.09-py3", args=("--x",))

    little = inference_service(place, OWNER, bare, storage="s3://b/m", account="a", resources=Resources())
    much = inference_service(
        place, OWNER, full, storage="s3://b/m", account="a", resources=Resources(limits={"nvidia.com/gpu": "1"})
    )

    assert little["spec"]["predictor"]["model"] == {
        "modelFormat": {"name": "sklearn"},
        "protocolVersion": "v2",
        "storageUri": "s3://b/m",
    }
    assert much["spec"]["predictor"]["model"] == {
        "modelFormat": {"name": "triton"},
        "protocolVersion": "v2",
        "storageUri": "s3://b/m",
        "runtimeVersion": "21.09-py3",
        "args": ["--x"],
        "resources": {"requests": {}, "limits": {"nvidia.com/gpu": "1"}},
    }


def test_a_service_that_does_not_say_when_its_run_was_created_is_older_than_any() -> None:
    assert created_at({"metadata": {}}) == 0
    assert created_at({"metadata": {"annotations": {"fusemld.io/run-created-at": "yesterday"}}}) == 0


CONNECTION = StoreConnection(endpoint=None, region="r")
