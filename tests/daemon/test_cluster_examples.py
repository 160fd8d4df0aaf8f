"""The settings in `examples/kubernetes` are settings."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from fusemld.daemon.settings import load_settings

EXAMPLES = Path(__file__).parents[2] / "examples/kubernetes"


def test_the_example_outside_of_the_cluster_is_valid_with_everything_that_it_suggests(tmp_path: Path) -> None:
    suggested = re.sub(r"^# (\w+ = )", r"\1", (EXAMPLES / "config.toml").read_text(), flags=re.MULTILINE)
    file = tmp_path / "config.toml"
    file.write_text(suggested)

    settings = load_settings(file, environ={}).settings

    assert settings.executor == "kubernetes"
    assert settings.kubernetes.kubeconfig == Path("/etc/fusemld/kubeconfig")
    assert settings.kubernetes.security_context["capabilities"] == {"drop": ["ALL"]}
    assert settings.kubernetes.image_pull_secrets == ("registry",)


def test_the_example_inside_of_the_cluster_uses_its_service_account(tmp_path: Path) -> None:
    documents = {each["kind"]: each for each in yaml.safe_load_all((EXAMPLES / "daemon.yaml").read_text())}
    file = tmp_path / "config.toml"
    file.write_text(documents["ConfigMap"]["data"]["config.toml"])
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}

    settings = load_settings(file, environ=environment | {"FUSEMLD_CONFIG": ""}).settings

    assert (settings.executor, settings.kubernetes.in_cluster) == ("kubernetes", True)
    mounted = [Path(each["mountPath"]) for each in container["volumeMounts"]]
    assert settings.state in mounted
    assert settings.socket.parent in mounted
    assert documents["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}
