"""A canary in a record's credentials reaches the pod, and is nowhere else but in the Secret that brings it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator

import pytest

from tests.acceptance.pods import CANARY, VAULT, Gate, PodDaemon, bash, endings, log, workflow

pytestmark = [pytest.mark.acceptance, pytest.mark.cluster]

USES = (
    "extensions: [{name: vault, product: vault}]",
    'env: [{name: MAPPED, value: "user:{{ extensions.vault.cfg.VAULT_TOKEN }}@host"}]',
    'inputs: [{name: token, value: "{{ extensions.vault.cfg.VAULT_TOKEN }}"}]',
)
RESOURCES = ("pods", "configmaps", "events", "serviceaccounts")


def needles() -> list[bytes]:
    shifted = [base64.b64encode(b"x" * shift + CANARY.encode())[4:-4] for shift in range(3)]
    return [CANARY.encode(), CANARY[10:].encode(), *shifted]


def places(pods: PodDaemon) -> Iterator[tuple[str, bytes]]:
    """Everything that the daemon writes and everything in its namespace but Secrets."""
    daemon = pods.daemon
    for path in daemon.base.rglob("*"):
        try:
            if path.is_file() and not path.is_symlink() and path.name != "vault.yaml":
                yield str(path), path.read_bytes()
        except FileNotFoundError:
            continue
    for resource in RESOURCES:
        yield resource, pods.api.call("GET", f"/api/v1/namespaces/{pods.namespace}/{resource}")
    for run in daemon.json("runs"):
        for command in ("get", "why", "logs"):
            yield command, daemon.run("fuseml", command, run["id"], check=False).stdout.encode()
    for lives in pods.history.pods.values():
        yield "pods that were", json.dumps(list(lives.values())).encode()


def assert_nowhere(pods: PodDaemon) -> None:
    found = {place for place, data in places(pods) if any(needle in data for needle in needles())}
    assert not found


def test_a_credential_reaches_the_pod_intact_and_is_nowhere_but_in_its_secret(pods: PodDaemon, gate: Gate) -> None:
    daemon = pods.daemon
    digest = hashlib.sha256(CANARY.encode()).hexdigest()
    script = (
        f'test "$(printf %s "$VAULT_TOKEN" | sha256sum | cut -c1-64)" = {digest}; '
        'test "$FUSEML_TOKEN" = "$VAULT_TOKEN"; test "$MAPPED" = "user:$VAULT_TOKEN@host"; '
        'test "$VAULT_NAME" = "a public name"; echo "it is $VAULT_TOKEN"; printf %s "$VAULT_TOKEN" | base64; '
        f"{gate.wait} echo the last: $MAPPED; exit 7"
    )
    daemon.drop("vault.yaml", VAULT)
    pods.start(LOG_LEVEL="debug")
    daemon.drop("uses.yaml", workflow("uses", bash("only", script, *USES)))
    run = daemon.run_of("uses.yaml")
    gate.await_arrivals(1)
    daemon.wait_for(lambda: "it is" in log(daemon, run, "only"), 20, "the log")

    assert_nowhere(pods)
    (secret,) = pods.objects("secrets")
    daemon.kill()
    pods.start()
    gate.open()
    view = daemon.finished(run)

    assert secret["immutable"] is True
    assert base64.b64encode(CANARY.encode()).decode() in secret["data"].values()
    (attempt,) = view["steps"][0]["attempts"]
    assert (attempt["ending"], attempt["exit_status"]) == ("program failed", 7), log(daemon, run, "only")
    assert "the last: ***" in attempt["tail"]
    assert "it is ***" in log(daemon, run, "only")
    pods.assert_nothing_left()
    assert_nowhere(pods)


def test_an_output_that_holds_a_credential_is_refused(pods: PodDaemon) -> None:
    daemon = pods.daemon
    daemon.drop("vault.yaml", VAULT)
    pods.start()

    script = 'echo "the token is $VAULT_TOKEN" > /tekton/results/out'
    run = pods.finish("uses.yaml", workflow("uses", bash("only", script, *USES, "outputs: [{name: out}]")))

    assert endings(run, "only") == ["output refused"]
    pods.assert_nothing_left()
    assert_nowhere(pods)


def test_a_step_without_credentials_needs_no_secret(pods: PodDaemon, gate: Gate) -> None:
    pods.start()
    pods.daemon.drop("plain.yaml", workflow("plain", bash("only", gate.wait)))
    run = pods.daemon.run_of("plain.yaml")
    gate.await_arrivals(1)

    assert not pods.objects("secrets")
    gate.open()
    assert pods.daemon.finished(run)["state"] == "succeeded"
