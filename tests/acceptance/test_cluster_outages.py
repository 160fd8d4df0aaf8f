"""API servers that are away, forget, fall silent or have too much to do, and nodes that are lost: nothing fails of
it that need not, and everything goes on."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fusemld.api import views
from fusemld.api.client import Client
from fusemld.model.run import Ending, RunState
from tests.acceptance.daemon import Daemon, daemon_of, runs
from tests.acceptance.pods import EXEC_VERSION, Gate, PodDaemon, attempts_of, bash, endings, workflow
from tests.acceptance.proxies import SilentProxy
from tests.cluster import pki
from tests.cluster.api import Api
from tests.cluster.fixtures import create_namespace, delete_namespace
from tests.cluster.local import LocalCluster
from tests.cluster.role import ACCOUNT

pytestmark = [pytest.mark.acceptance, pytest.mark.cluster, pytest.mark.timeout(400)]

OUTAGE_S = 60.0
RUNS = 20
RESTARTS = 5


@contextmanager
def no_api_server(cluster: LocalCluster) -> Iterator[None]:
    cluster.kill_api_server()
    try:
        yield
    finally:
        cluster.end_outage()


def pair(name: str) -> str:
    return workflow(
        name,
        bash("make", f"echo {name} > /tekton/results/made", "outputs: [{name: made}]"),
        bash("use", 'echo "used $MADE"', 'env: [{name: MADE, value: "{{ steps.make.outputs.made }}"}]'),
    )


def health(daemon: Daemon) -> views.HealthView:
    return Client(daemon.socket).get("/health", views.HealthView)


def all_over(daemon: Daemon, count: int) -> bool:
    found = runs(daemon, limit="200")
    return len(found) == count and all(run.state is not RunState.RUNNING for run in found)


def assert_undisturbed(pods: PodDaemon, count: int) -> None:
    """Every run succeeded, and no step needed a second attempt."""
    daemon = pods.daemon
    client = Client(daemon.socket)
    for summary in runs(daemon, limit="200"):
        assert summary.state is RunState.SUCCEEDED, daemon.run("fuseml", "why", summary.id).stdout
        run = client.get(f"/runs/{summary.id}", views.RunView)
        found = {step.name: [attempt.ending for attempt in step.attempts] for step in run.steps}
        assert found == {"make": [Ending.SUCCEEDED], "use": [Ending.SUCCEEDED]}
        assert b"".join(client.logs(summary.id, "use", None, follow=False)) == f"used {run.workflow}\n".encode()
    pods.assert_one_pod_per_attempt()
    assert len(pods.attempts()) == 2 * count
    pods.assert_nothing_left(60)


def test_an_api_server_that_is_away_for_a_minute_amid_twenty_runs_fails_nothing(pods: PodDaemon) -> None:
    daemon = pods.daemon
    pods.start()
    for number in range(RUNS):
        daemon.drop(f"pair-{number}.yaml", pair(f"pair-{number}"))
    daemon.wait_for(lambda: any(run.steps_done for run in runs(daemon)), 60, "the first step to end")

    with no_api_server(pods.cluster):
        back_at = time.monotonic() + OUTAGE_S
        over = sum(run.state is not RunState.RUNNING for run in runs(daemon))
        daemon.wait_for(lambda: time.monotonic() > back_at, OUTAGE_S + 5, "the end of the outage")
        assert len(runs(daemon)) == RUNS, "the daemon itself is there"
        (executor,) = [each for each in health(daemon).components if each.name == "executor kubernetes"]
        assert not executor.ok
        assert "127.0.0.1" in executor.message
    daemon.wait_for(lambda: all_over(daemon, RUNS), 150, "the end of all runs")

    assert over < RUNS / 2
    assert health(daemon).state == "ok"
    assert_undisturbed(pods, RUNS)


def test_an_api_server_that_has_just_started_and_refuses_what_it_allows_fails_nothing(pods: PodDaemon) -> None:
    """It does so for a moment: pods are to be created, seen, read and deleted then."""
    daemon = pods.daemon
    pods.start()

    def drop(count: int) -> None:
        for _ in range(count):
            name = f"pair-{len(dropped)}"
            daemon.drop(f"{name}.yaml", pair(name))
            dropped.append(name)

    dropped: list[str] = []
    drop(6)
    daemon.wait_for(lambda: any(run.steps_done for run in runs(daemon)), 60, "the first step to end")

    while not is_refused(daemon) and len(dropped) < 6 + 4 * RESTARTS:
        pods.cluster.kill_api_server()
        drop(4)
        pods.cluster.start_api_server()
        daemon.wait_for(lambda: health(daemon).state == "ok", 30, "the API server to be seen")
    daemon.wait_for(lambda: all_over(daemon, len(dropped)), 150, "the end of all runs")

    assert_undisturbed(pods, len(dropped))
    if not is_refused(daemon):
        pytest.skip(f"the API server was quick: it refused nothing after {RESTARTS} starts")


def is_refused(daemon: Daemon) -> bool:
    return any("is forbidden" in error for error in watch_errors(daemon))


LATE = "localhost/late:1"


def test_what_happens_on_the_nodes_while_the_api_server_is_away_counts_and_what_time_alone_says_does_not(
    pods: PodDaemon,
) -> None:
    """The image comes, and a step ends in time, while nobody can see it; the daemon's patience with the image and
    the step's own time run out meanwhile."""
    daemon = pods.daemon
    pods.start(KUBERNETES_IMAGE_PULL_S="15")
    daemon.drop("late.yaml", workflow("late", bash("only", "echo hello", image=LATE)))
    late = daemon.run_of("late.yaml")
    script = "sleep 4; echo made > /tekton/results/made"
    daemon.drop("timed.yaml", workflow("timed", bash("only", script, "timeout: 12s", "outputs: [{name: made}]")))
    timed = daemon.run_of("timed.yaml")
    daemon.in_state(timed, "only", "running")

    def why() -> str:
        return " ".join(daemon.run("fuseml", "why", late).stdout.split())

    daemon.wait_for(lambda: LATE in why() and "given up at" in why(), 20, "the image to be missed")

    with pods.cluster.image(LATE) as appears:
        with no_api_server(pods.cluster):
            appears()
            back_at = time.monotonic() + 25
            daemon.wait_for(lambda: time.monotonic() > back_at, 30, "all patience to run out")
            during = [daemon.json("get", run)["state"] for run in (late, timed)]
        views_ = [daemon.finished(run, 90) for run in (late, timed)]

    assert during == ["running", "running"]
    assert [view["state"] for view in views_] == ["succeeded", "succeeded"]
    assert [endings(view, "only") for view in views_] == [["succeeded"], ["succeeded"]]
    assert views_[1]["steps"][0]["outputs"] == {"made": "made"}
    pods.assert_one_pod_per_attempt()
    pods.assert_nothing_left(60)


def test_a_program_that_has_no_credentials_when_the_daemon_starts_is_asked_again(
    pods: PodDaemon, tmp_path: Path
) -> None:
    """As a cloud's command does while its service is away: runs wait, and say for what."""
    daemon = pods.daemon
    token = tmp_path / "token"
    pods.use_program(f"cat {token}")
    pods.start()
    daemon.drop("one.yaml", workflow("one", bash("only", "true")))
    run = daemon.run_of("one.yaml")

    def why() -> bool:
        return "No such file" in " ".join(daemon.run("fuseml", "why", run).stdout.split())

    daemon.wait_for(why, 20, "the program to be quoted")
    answer = {"token": pods.token}
    token.write_text(json.dumps({"apiVersion": EXEC_VERSION, "kind": "ExecCredential", "status": answer}))

    assert daemon.finished(run)["state"] == "succeeded"


def test_what_happened_before_a_compaction_is_found_by_a_new_list(pods: PodDaemon, gate: Gate) -> None:
    """The server answers 410 to the daemon, which goes on with its watch where it broke off: meanwhile nobody has
    refused a connection."""
    daemon = pods.daemon
    path = f"/api/v1/namespaces/{pods.namespace}/pods"
    with SilentProxy(pki.PORT) as proxy:
        pods.use_server(f"https://127.0.0.1:{proxy.port}")
        pods.start()
        run = pods.begin(gate, workflow("long", bash("only", gate.wait), bash("next", "true")))

        with proxy.holding(), no_api_server(pods.cluster):
            gate.open()
            pods.cluster.compact()
        view = daemon.finished(run)

        assert any(
            error.startswith(f"cannot watch {path}: ") and "too old" in error for error in watch_errors(daemon)
        )
        assert view["state"] == "succeeded"
        assert endings(view, "only") == ["succeeded"]
        pods.assert_one_pod_per_attempt()
        pods.assert_nothing_left()
        daemon.terminate()


def watch_errors(daemon: Daemon) -> list[str]:
    entries = map(json.loads, daemon.journal().splitlines())
    return [entry["error"] for entry in entries if entry["event"] == "watch.failed"]


def test_a_watch_that_falls_silent_is_replaced(pods: PodDaemon, gate: Gate) -> None:
    daemon = pods.daemon
    with SilentProxy(pki.PORT) as proxy:
        pods.use_server(f"https://127.0.0.1:{proxy.port}")
        pods.start(KUBERNETES_WATCH_SILENCE_S="4", KUBERNETES_REQUEST_TIMEOUT_S="4")
        run = pods.begin(gate, workflow("long", bash("only", gate.wait), bash("next", "true")))

        proxy.fall_silent()
        gate.open()
        view = daemon.finished(run, 45)

        assert proxy.silenced > 0
        assert view["state"] == "succeeded"
        assert endings(view, "only") == ["succeeded"]
        pods.assert_one_pod_per_attempt()
        pods.assert_nothing_left()
        daemon.terminate()


@contextmanager
def rejected(pods: PodDaemon) -> Iterator[None]:
    """The API server answers 429 to everything that this daemon asks: its account has a priority level of its own
    with few seats and no queue, and the seats are taken."""
    group = "/apis/flowcontrol.apiserver.k8s.io/v1"
    limits = {"nominalConcurrencyShares": 1, "lendablePercent": 0, "borrowingLimitPercent": 0}
    level = {"type": "Limited", "limited": limits | {"limitResponse": {"type": "Reject"}}}
    account = {"namespace": pods.namespace, "name": ACCOUNT}
    everything = {
        "verbs": ["*"],
        "apiGroups": ["*"],
        "resources": ["*"],
        "namespaces": ["*"],
        "clusterScope": True,
    }
    rule = {
        "subjects": [{"kind": "ServiceAccount", "serviceAccount": account}],
        "resourceRules": [everything],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    }
    # nothing but `exempt` may come before it
    schema = {"matchingPrecedence": 2, "priorityLevelConfiguration": {"name": pods.namespace}, "rules": [rule]}
    things = {"prioritylevelconfigurations": level, "flowschemas": schema}
    try:
        for resource, spec in things.items():
            made = pods.api.create(f"{group}/{resource}", {"metadata": {"name": pods.namespace}, "spec": spec})
        with seats_taken(pods, made["metadata"]["uid"]):
            yield
    finally:
        for resource in reversed(things):
            pods.api.delete(f"{group}/{resource}/{pods.namespace}")


@contextmanager
def seats_taken(pods: PodDaemon, schema_uid: str) -> Iterator[None]:
    """By requests whose bodies never come: the server asks for the body once the request has its seat. The daemon
    may have one meanwhile."""
    tls = ssl.create_default_context(cafile=str(pods.cluster.pki / "ca.crt"))
    path = f"/api/v1/namespaces/{pods.namespace}/configmaps"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {pods.token}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n"
    pods.daemon.wait_for(lambda: schema_of(tls, path, pods.token) == schema_uid, 30, "the schema to be in use")
    seats = counted(pods.api, "apiserver_flowcontrol_nominal_limit_seats", pods.namespace)
    assert seats > 0
    deadline = time.monotonic() + 30
    with contextlib.ExitStack() as requests:
        taken = 0
        while taken < seats:
            assert time.monotonic() < deadline, f"{taken} of {seats} seats taken"
            connection = socket.create_connection(("127.0.0.1", pki.PORT), timeout=10)
            request = requests.enter_context(tls.wrap_socket(connection, server_hostname="localhost"))
            request.sendall(head.encode())
            taken += request.recv(1000).startswith(b"HTTP/1.1 100 ")
        yield


def schema_of(tls: ssl.SSLContext, path: str, token: str) -> str:
    """The uid of the FlowSchema that the server finds for such a request."""
    request = urllib.request.Request(f"{pki.SERVER}{path}", headers={"Authorization": f"Bearer {token}"})
    try:
        answer = urllib.request.urlopen(request, context=tls, timeout=10)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return str(answer.headers["X-Kubernetes-PF-FlowSchema-UID"])


def counted(api: Api, name: str, namespace: str) -> int:
    """The server's own count of this name, over all that bears the namespace's name."""
    lines = api.call("GET", "/metrics").decode().splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith(name) and namespace in line)


def rejections(pods: PodDaemon) -> int:
    """How many requests the server has answered with 429."""
    return counted(pods.api, "apiserver_flowcontrol_rejected_requests_total", pods.namespace)


def test_a_storm_of_429_slows_down_and_fails_nothing(pods: PodDaemon) -> None:
    daemon = pods.daemon
    pods.start()
    daemon.drop("first.yaml", pair("first"))
    daemon.wait_for(lambda: any(run.steps_done for run in runs(daemon)), 60, "the first step to end")

    with rejected(pods):
        before = rejections(pods)
        for number in range(5):
            daemon.drop(f"pair-{number}.yaml", pair(f"pair-{number}"))
        daemon.wait_for(lambda: rejections(pods) > before + 5, 60, "the server to reject requests")
        count = rejections(pods) - before
    daemon.wait_for(lambda: all_over(daemon, 6), 120, "the end of all runs")

    assert count < 500, "it keeps its distance"
    assert_undisturbed(pods, 6)


@pytest.fixture
def patient_pods(node: LocalCluster, api: Api, tmp_path: Path) -> Iterator[PodDaemon]:
    """Another daemon in a namespace of its own."""
    name = f"fusemld-test-{secrets.token_hex(4)}"
    create_namespace(api, name)
    try:
        with daemon_of(tmp_path / "patient") as daemon:
            made = PodDaemon(daemon, node, name)
            yield made
            made.history.close()
    finally:
        delete_namespace(api, name)


def test_a_node_that_falls_silent_and_is_deleted_loses_its_pods_and_the_runs_go_on_elsewhere(
    pods: PodDaemon, patient_pods: PodDaemon, gate: Gate
) -> None:
    """One daemon gives up a node that says nothing, the other waits until its pod is gone."""
    cluster = pods.cluster
    pods.start(KUBERNETES_NODE_LOST_AFTER_S="2")
    patient_pods.start(KUBERNETES_NODE_LOST_AFTER_S="3600")
    found = {}
    for each in (pods, patient_pods):
        each.daemon.drop("long.yaml", workflow("long", bash("only", gate.wait)))
        found[each] = each.daemon.run_of("long.yaml")
    gate.await_arrivals(2)
    for each, run in found.items():
        each.daemon.in_state(run, "only", "running")

    def attempts(each: PodDaemon) -> int:
        view = each.daemon.view(found[each])
        return 0 if view is None else len(view.steps[0].attempts)

    cluster.kill_kubelet()
    try:
        pods.daemon.wait_for(lambda: attempts(pods) == 2, 120, "the node to be given up")
        assert attempts(patient_pods) == 1
        assert pods.api.delete(f"/api/v1/nodes/{cluster.node_name}")
        patient_pods.daemon.wait_for(lambda: attempts(patient_pods) == 2, 120, "the pod to be gone")
    finally:
        cluster.start_node()
    gate.await_arrivals(4, 120)
    gate.open()

    for each, run in found.items():
        view = each.daemon.finished(run, 120)
        assert view["state"] == "succeeded"
        assert endings(view, "only") == ["node lost", "succeeded"]
        each.assert_one_pod_per_attempt()
        each.assert_nothing_left(90)
        lost = attempts_of(view, "only")[0]["message"]
        assert (cluster.node_name if each is pods else "does not exist any more") in lost
