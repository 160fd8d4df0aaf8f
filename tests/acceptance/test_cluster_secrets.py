"""A canary in a record's credentials reaches the pod, and is nowhere else but in the Secret that brings it."""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.acceptance.pods import CANARY, VAULT, Gate, PodDaemon, attempts_of, bash, endings, log, workflow
from tests.acceptance.repositories import Repository
from tests.codesets.git_server import serving

pytestmark = [pytest.mark.acceptance, pytest.mark.cluster]

USES = (
    "extensions: [{name: vault, product: vault}]",
    'env: [{name: MAPPED, value: "user:{{ extensions.vault.cfg.VAULT_TOKEN }}@host"}]',
    'inputs: [{name: token, value: "{{ extensions.vault.cfg.VAULT_TOKEN }}"}]',
)
RESOURCES = ("pods", "configmaps", "events", "serviceaccounts")
RECORDS = ("vault.yaml", "forge.yaml")
"""The files that the canary comes from."""
COMMANDS = ("codeset", "extension", "workflow")
FORGE = f"""\
id: forge
product: forge
services:
  - id: git
    auth_required: true
    endpoints: [{{url: "http://forge.example.org"}}]
    configuration: {{GIT_USERNAME: ann}}
    credentials: [{{id: one, configuration: {{GIT_PASSWORD: "{CANARY}"}}}}]
"""
"""A record whose password is the canary; the name of its user is no secret."""
CODE = "inputs: [{name: code, codeset: {name: demo/repo@pinned, path: /project}}]"


def needles() -> list[bytes]:
    shifted = [base64.b64encode(b"x" * shift + CANARY.encode())[4:-4] for shift in range(3)]
    return [CANARY.encode(), CANARY[10:].encode(), *shifted]


def places(pods: PodDaemon) -> Iterator[tuple[str, bytes]]:
    """Everything that the daemon writes and everything in its namespace but Secrets."""
    daemon = pods.daemon
    for path in daemon.base.rglob("*"):
        try:
            if path.is_file() and not path.is_symlink() and path.name not in RECORDS:
                yield str(path), path.read_bytes()
        except FileNotFoundError:
            continue
    for resource in RESOURCES:
        yield resource, pods.api.call("GET", f"/api/v1/namespaces/{pods.namespace}/{resource}")
    for command in COMMANDS:
        yield command, daemon.run("fuseml", command, "list", "-o", "json").stdout.encode()
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


@pytest.fixture
def passwords() -> dict[str, str]:
    """Those that the git server demands."""
    return {"ann": CANARY}


@pytest.fixture
def repository(pods: PodDaemon, passwords: dict[str, str]) -> Iterator[Repository]:
    """Registered as `demo/repo`, too large for ConfigMaps, and behind a password; its branch `pinned` is at the
    commit `one`."""
    daemon = pods.daemon
    made = Repository(daemon.codesets / "repo")
    made.commit("one")
    made.git("branch", "pinned")
    made.commit("two")
    with serving(made.path.parent, pods.cluster.address, passwords) as url:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{url}/repo/.git/info/refs?service=git-upload-pack", timeout=10)
        daemon.drop("forge.yaml", FORGE)
        daemon.drop("repo.yaml", f"name: repo\nproject: demo\nurl: {url}/repo/.git\nextension: forge\n")
        pods.start(LOG_LEVEL="debug", KUBERNETES_CODESET_LIMIT_BYTES="10")
        yield made


@pytest.mark.usefixtures("repository")
def test_a_password_opens_a_repository_to_the_pod_and_is_nowhere_but_in_its_secret(
    pods: PodDaemon, gate: Gate
) -> None:
    daemon = pods.daemon
    script = (
        "cat version .fuseml/_project > /tekton/results/version; test ! -e .git; echo ann uses git; "
        f'test "$PWD" = /project; test -z "$(env | grep -i password)"; {gate.wait} true'
    )
    daemon.drop(
        "show.yaml",
        workflow("show", bash("only", script, CODE, "outputs: [{name: version}]"), outputs="[{name: version}]"),
    )
    run = daemon.run_of("show.yaml")
    gate.await_arrivals(1)

    assert_nowhere(pods)
    (secret,) = pods.objects("secrets")
    (pod,) = pods.objects("pods")
    path = f"/api/v1/namespaces/{pods.namespace}/pods/{pod['metadata']['name']}/log?container=fetch"
    fetch_log = pods.api.call("GET", path)
    gate.open()
    view = daemon.finished(run)

    assert base64.b64encode(CANARY.encode()).decode() in secret["data"].values()
    assert not fetch_log
    assert view["outputs"] == {"version": "one\nrepo"}, daemon.run("fuseml", "why", run).stdout
    assert log(daemon, run, "only") == "ann uses git\n"
    assert not pods.objects("configmaps")
    pods.assert_nothing_left()
    assert_nowhere(pods)


@pytest.mark.usefixtures("repository")
def test_a_password_that_opens_the_repository_no_more_is_told_with_git_s_words(
    pods: PodDaemon, gate: Gate, passwords: dict[str, str]
) -> None:
    """It is changed after the run has pinned its codesets; with the new one in the record the run goes on."""
    daemon = pods.daemon
    daemon.drop("late.yaml", workflow("late", bash("first", gate.wait), bash("only", "cat version", CODE)))
    run = daemon.run_of("late.yaml")
    gate.await_arrivals(1)
    passwords["ann"] = f"new-{CANARY}"
    gate.open()
    view = daemon.finished(run)

    assert endings(view, "only") == ["cannot start"]
    (attempt,) = attempts_of(view, "only")
    assert "codesets cannot be fetched: demo/repo: fatal: Authentication failed for 'http://" in attempt["message"]
    assert attempt["message"] in " ".join(daemon.run("fuseml", "why", run).stdout.split())
    daemon.drop("forge.yaml", FORGE.replace(CANARY, passwords["ann"]))
    daemon.wait_for(lambda: daemon.file("forge.yaml")["generation"] > 1, 10, "the new password")
    daemon.run("fuseml", "retry", run)
    assert daemon.finished(run)["state"] == "succeeded"
    assert log(daemon, run, "only").endswith("\none\n")
    pods.assert_nothing_left()
    assert_nowhere(pods)
