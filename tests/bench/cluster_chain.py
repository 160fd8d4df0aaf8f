"""A chain of three pods on a real node: the whole daemon against a script that creates the next pod as soon as the
container of the one before has terminated.

Each pod does nothing but pass a small text on. The daemon's figure is what its run took as a user sees it, from
the run's creation to its end; the script's from the first request to the end of the last container.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.acceptance.daemon import Daemon, daemon_of
from tests.bench.bare_client import BareClient
from tests.bench.daemon import seconds
from tests.cluster.fixtures import create_namespace, delete_namespace
from tests.cluster.images import BASE
from tests.cluster.local import LocalCluster

ROUNDS = 3
LENGTH = 3
SMALL = "bench/small"
PLUGIN = f"""\
from fusemld.hooks.specs import hookimpl
from fusemld.hooks.steps import StepInputs

class Small:
    repositories = ("{SMALL}",)
    inputs = StepInputs(open=True)
    small_output = True

    def image(self, image):
        return "{BASE}"

@hookimpl
def fusemld_pod_runtimes():
    return [Small()]
"""
POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {},
    "spec": {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [
            {
                "name": "step",
                "image": BASE,
                "imagePullPolicy": "Never",
                "command": ["sh", "-c", 'printf "%s." "$INPUT" > /dev/termination-log'],
            }
        ],
    },
}


def main() -> None:
    cluster = LocalCluster()
    namespace = f"fusemld-bench-{secrets.token_hex(4)}"
    try:
        cluster.start()
        cluster.start_node()
        create_namespace(cluster.api, namespace)
        try:
            with tempfile.TemporaryDirectory(prefix="fusemld-bench-") as name, daemon_of(Path(name)) as daemon:
                _compare(cluster, namespace, daemon)
        finally:
            delete_namespace(cluster.api, namespace)
    finally:
        cluster.stop()


def _compare(cluster: LocalCluster, namespace: str, daemon: Daemon) -> None:
    daemon.install_plugin("small", PLUGIN)
    daemon.start(
        EXECUTOR="kubernetes",
        KUBERNETES_KUBECONFIG=str(cluster.kubeconfig),
        KUBERNETES_NAMESPACE=namespace,
        KUBERNETES_HELPER_IMAGE=BASE,
        KUBERNETES_IMAGE_PULL_POLICY="Never",
    )
    folder = daemon.codesets / "code"
    folder.mkdir()
    (folder / "README").write_text("nothing to see\n")
    daemon.drop("code.yaml", f"name: code\nproject: bench\npath: {folder}\n")
    _script(cluster, namespace)
    print(f"a chain of {LENGTH} pods on a real node:")
    for what, image, with_codeset, goal in (
        ("small output", SMALL, False, 1.2),
        ("output by the sidecar", BASE, False, 2.0),
        ("small output, a codeset", SMALL, True, None),
        ("output by the sidecar, a codeset", BASE, True, None),
    ):
        rounds = [
            (_script(cluster, namespace), _daemon(daemon, _workflow(image, with_codeset))) for _ in range(ROUNDS)
        ]
        _print(what, goal, rounds)


def _script(cluster: LocalCluster, namespace: str) -> float:
    tls = ssl.create_default_context(cafile=str(cluster.pki / "ca.crt"))
    tls.load_cert_chain(cluster.pki / "admin.crt", cluster.pki / "admin.key")

    async def run() -> float:
        async with BareClient(cluster.api.server, tls, namespace, at_once=8) as client:
            started = time.perf_counter()
            await client.run_chains(f"script-{time.monotonic_ns()}", 1, LENGTH, POD)
            return time.perf_counter() - started

    return asyncio.run(run())


def _daemon(daemon: Daemon, steps: str) -> float:
    name = f"chain-{time.monotonic_ns()}"
    daemon.drop(f"{name}.yaml", f"name: {name}\nsteps:\n{steps}")
    view = daemon.finished(daemon.run_of(f"{name}.yaml"), 120)
    assert view["state"] == "succeeded", view
    (daemon.folder / f"{name}.yaml").unlink()
    return seconds(view["finished_at"]) - seconds(view["created_at"])


def _workflow(image: str, with_codeset: bool) -> str:
    steps = []
    for link in range(LENGTH):
        inputs = [f"{{name: text, value: '{{{{ steps.s{link - 1}.outputs.text }}}}'}}"] if link else []
        if with_codeset:
            inputs.append("{name: code, codeset: {name: bench/code, path: /code}}")
        steps.append(
            f"  - name: s{link}\n    image: {image}\n    inputs: [{', '.join(inputs)}]\n"
            "    outputs: [{name: text}]\n"
            '    command: [sh, -c, \'printf "%s." "$FUSEML_TEXT" > /tekton/results/text\']\n'
        )
    return "".join(steps)


def _print(what: str, goal: float | None, rounds: Sequence[tuple[float, float]]) -> None:
    script_s, daemon_s = (statistics.median(side) for side in zip(*rounds, strict=True))
    ratio = statistics.median(whole / script for script, whole in rounds)
    wanted = "" if goal is None else f" (goal {goal})"
    print(f"  {what:<33} script {script_s:.2f} s, fusemld {daemon_s:.2f} s, ratio {ratio:.2f}{wanted}")


if __name__ == "__main__":
    main()
