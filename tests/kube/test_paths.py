from __future__ import annotations

import pytest

from fusemld.kube.paths import resource


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/v1/namespaces/x/pods", ("pods", False)),
        ("/api/v1/namespaces/x/pods/y", ("pods", True)),
        ("/api/v1/namespaces/x/pods/y/log", ("pods/log", True)),
        ("/api/v1/nodes/z", ("nodes", True)),
        ("/api/v1/namespaces", ("namespaces", False)),
        ("/api/v1/namespaces/x", ("namespaces", True)),
        ("/apis/serving.kserve.io/v1beta1/namespaces/x/inferenceservices/m", ("inferenceservices", True)),
        (
            "/apis/serving.kserve.io/v1beta1/namespaces/x/inferenceservices/m/status",
            ("inferenceservices/status", True),
        ),
        ("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", ("selfsubjectaccessreviews", False)),
        ("/apis/serving.kserve.io/v1beta1", ("/apis/serving.kserve.io/v1beta1", True)),
        ("/version", ("/version", True)),
    ],
)
def test_a_path_tells_its_resource_and_whether_one_object_is_meant(path: str, expected: tuple[str, bool]) -> None:
    assert resource(path) == expected
