"""The whole daemon against a bare client on one API server with a stand-in for the kubelet.

Both make the same pods: chains of three, all chains at once, then one long chain alone. They take turns, in
another order every time, so that a drift of the machine's speed hits both. Throughput, requests and latencies are
from the API server's audit log.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from fusemld.executors.kubernetes.names import WORKFLOW, attempt_of, pod_name
from fusemld.executors.kubernetes.pod import secret
from fusemld.hooks.clusters import INSTANCE as INSTANCE_LABEL
from fusemld.hooks.executors import Launch
from fusemld.model.run import AttemptKey, RunState
from fusemld.store.keys import INSTANCE
from tests.acceptance.daemon import Daemon, daemon_of, runs
from tests.bench.audit import Asked, AuditLog, counts
from tests.bench.bare_client import BareClient
from tests.bench.control_plane import NAMESPACE, ControlPlane, control_plane

ROUNDS = 8
ROUNDS_WITH_A_GOAL = 24
"""Single ones scatter by a quarter on machines that share their processors with others."""
CHAINS = 100
LENGTH = 3
LONG = 40
LONGEST_S = 300.0
IMAGE = "localhost/base:1"
TOKEN = "a-token-of-some-length-0123456789"
VAULT = f"""\
id: vault
product: vault
services: [{{id: main, auth_required: true, credentials: [{{id: one, configuration: {{VAULT_TOKEN: {TOKEN}}}}}]}}]
"""
BARE_INSTANCE = "the-bare-clients"
"""As long as the daemon's, which would take pods with its own for its own."""
DAEMON, BARE, KUBELET = "fusemld", "bare", "stand-in"
GOAL = 0.8
ADDED_TO_PODS = frozenset(
    {"terminationGracePeriodSeconds", "dnsPolicy", "serviceAccountName", "serviceAccount", "securityContext",
     "schedulerName", "tolerations", "priority", "preemptionPolicy"}
)  # fmt: skip
ADDED_TO_CONTAINERS = frozenset(
    {"resources", "terminationMessagePath", "terminationMessagePolicy", "imagePullPolicy"}
)
"""By the API server."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Of one client in one round. `gaps_s`: from the answer to the kubelet's word that a pod has ended to the
    request for the next pod of its chain. `processor_s` is the client's own time per pod, `host_s` that
    of everything on this machine meanwhile: API server, etcd, kubelet and client."""

    pods_per_s: float
    gaps_s: tuple[float, ...]
    requests: dict[str, float]
    processor_s: float
    host_s: float


def main() -> None:
    with (
        control_plane() as plane,
        _kubelet(plane),
        tempfile.TemporaryDirectory(prefix="fusemld-bench-") as folder,
        daemon_of(Path(folder)) as daemon,
    ):
        kubeconfig = plane.write_kubeconfig(DAEMON, Path(folder) / "kubeconfig")
        daemon.start(EXECUTOR="kubernetes", KUBERNETES_KUBECONFIG=str(kubeconfig), LIMITS_STEPS="100000")
        daemon.drop("vault.yaml", VAULT)
        bench = _Bench(plane, daemon)
        many = f"{CHAINS} chains of {LENGTH} pods"
        for work, count, what, goal in (
            (_Work(chains=CHAINS, length=LENGTH), ROUNDS_WITH_A_GOAL, many, f" (goal {GOAL})"),
            (_Work(chains=CHAINS, length=LENGTH, has_credentials=True), ROUNDS, f"{many} with credentials", ""),
            (_Work(chains=1, length=LONG), ROUNDS, f"one chain of {LONG} pods", ""),
        ):
            bench.warm_up(work)
            rounds = [bench.both(work, bare_first=number % 2 == 0) for number in range(count)]
            _print(what, goal, [bare for bare, _ in rounds], [whole for _, whole in rounds])


class _Work(msgspec.Struct, frozen=True, kw_only=True):
    chains: int
    length: int
    has_credentials: bool = False


class _Bench:
    def __init__(self, plane: ControlPlane, daemon: Daemon) -> None:
        assert daemon.process is not None
        self._plane = plane
        self._daemon = daemon
        self._log = AuditLog(plane.audit)
        self._pod: dict[str, Any] = {}
        self._process = psutil.Process(daemon.process.pid)
        with sqlite3.connect(daemon.state / "fusemld.db") as database:
            (self._instance,) = database.execute("SELECT value FROM meta WHERE key = ?", (INSTANCE,)).fetchone()

    def warm_up(self, work: _Work) -> None:
        """And see what the daemon makes, for the bare client to make the same."""
        since = self._plane.version()
        self.daemon(msgspec.structs.replace(work, chains=1, length=1))
        self._pod = _sent(self._plane.first_pod(since))
        self.bare(work)
        self.daemon(work)

    def both(self, work: _Work, *, bare_first: bool) -> tuple[Measured, Measured]:
        """The bare client's and the daemon's. Who comes second finds the API server with more to clean up."""
        if bare_first:
            return self.bare(work), self.daemon(work)
        whole = self.daemon(work)
        return self.bare(work), whole

    def bare(self, work: _Work) -> Measured:
        name = f"bare-{time.monotonic_ns()}"
        used: list[float] = []
        host_before = _busy_s()

        async def run() -> None:
            headers = {"Authorization": f"Bearer {self._plane.tokens[BARE]}"}
            client = BareClient(self._plane.url, self._plane.tls(), NAMESPACE, at_once=64, headers=headers)
            async with client:
                started = time.process_time()
                await client.run_chains(name, work.chains, work.length, self._pod, _secret(work, self._pod))
                used.append(time.process_time() - started)

        asyncio.run(run())
        asked = self._log.since_last()
        host_s = _busy_s() - host_before
        names = [[f"{name}-{chain}-{link}" for link in range(work.length)] for chain in range(work.chains)]
        return _measured(asked, BARE, names, used[0], host_s)

    def daemon(self, work: _Work) -> Measured:
        name = f"chain-{time.monotonic_ns()}"
        self._daemon.drop(f"{name}.yaml", _workflow(name, work))
        self._daemon.wait_for(lambda: self._is_registered(name), 20, "the workflow")
        before, host_before = _processor_s(self._process), _busy_s()
        requests = (f"workflow: {name}\ninputs: {{number: '{number}'}}\n" for number in range(work.chains))
        self._daemon.drop(f"runs-{name}.yaml", "---\n".join(requests))
        deadline = time.monotonic() + LONGEST_S
        # Asking costs processor time, which the steps need: one run is cheaper to tell of than all.
        while self._is_running(name) or len(self._succeeded(name, work.chains)) < work.chains:
            assert time.monotonic() < deadline, self._daemon.journal()[-3000:]
            time.sleep(0.5)
        asked = self._log.since_last()
        used, host_s = _processor_s(self._process) - before, _busy_s() - host_before
        names = [
            [pod_name(AttemptKey(run, f"s{link}", 1), self._instance) for link in range(work.length)]
            for run in self._succeeded(name, work.chains)
        ]
        for file in (f"runs-{name}.yaml", f"{name}.yaml"):
            (self._daemon.folder / file).unlink()
        return _measured(asked, DAEMON, names, used, host_s)

    def _is_registered(self, name: str) -> bool:
        return any(each["name"] == name for each in self._daemon.json("workflow", "list"))

    def _is_running(self, name: str) -> bool:
        return bool(runs(self._daemon, workflow=name, state="running", limit="1"))

    def _succeeded(self, name: str, most: int) -> list[str]:
        found = runs(self._daemon, workflow=name, limit=str(most))
        assert not any(run.state is RunState.FAILED for run in found), self._daemon.journal()[-3000:]
        return [run.id for run in found if run.state is RunState.SUCCEEDED]


def _sent(found: dict[str, Any]) -> dict[str, Any]:
    """What the daemon has sent to make this pod: without what the API server has added."""
    labels, annotations = found["metadata"]["labels"], found["metadata"]["annotations"]
    assert len(labels[INSTANCE_LABEL]) == len(BARE_INSTANCE)
    metadata = {"labels": labels | {INSTANCE_LABEL: BARE_INSTANCE}, "annotations": annotations}
    spec = _without(found["spec"], ADDED_TO_PODS)
    spec["containers"] = [_without(container, ADDED_TO_CONTAINERS) for container in spec["containers"]]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _without(fields: dict[str, Any], added: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in added}


def _secret(work: _Work, pod: dict[str, Any]) -> dict[str, Any] | None:
    """Of such a pod, as the daemon makes them."""
    if not work.has_credentials:
        return None
    key = attempt_of(pod)
    assert key is not None, pod
    workflow = pod["metadata"]["annotations"][WORKFLOW]
    launch = Launch(key=key, workflow=workflow, image=IMAGE, secret_env={"VAULT_TOKEN": TOKEN})
    return secret(launch, instance=BARE_INSTANCE, namespace=NAMESPACE, known={})


def _workflow(name: str, work: _Work) -> str:
    step = "  - name: s{}\n    image: {}\n    command: ['true']\n"
    if work.has_credentials:
        step += "    extensions: [{{name: vault, product: vault}}]\n"
    steps = "".join(step.format(link, IMAGE) for link in range(work.length))
    return f"name: {name}\ninputs: [{{name: number}}]\nsteps:\n{steps}"


def _measured(
    asked: Sequence[Asked], user: str, chains: Sequence[Sequence[str]], used_s: float, host_s: float
) -> Measured:
    pods = [name for chain in chains for name in chain]
    ours = [each for each in asked if each.user == user]
    created = {each.name: each.came_at for each in ours if (each.verb, each.resource) == ("create", "pods")}
    deleted = {each.name: each.answered_at for each in ours if (each.verb, each.resource) == ("delete", "pods")}
    assert set(pods) == set(created) == set(deleted), "every pod is created and deleted once"
    ended = {
        each.name: each.answered_at for each in asked if (each.user, each.resource) == (KUBELET, "pods/status")
    }
    gaps = [created[later] - ended[sooner] for chain in chains for sooner, later in itertools.pairwise(chain)]
    return Measured(
        pods_per_s=len(pods) / (max(deleted.values()) - min(created.values())),
        gaps_s=tuple(gaps),
        requests={what: count / len(pods) for what, count in counts(ours, user).items()},
        processor_s=used_s / len(pods),
        host_s=host_s / len(pods),
    )


def _print(what: str, goal: str, bare: Sequence[Measured], whole: Sequence[Measured]) -> None:
    ratios = sorted(b.pods_per_s / a.pods_per_s for a, b in zip(bare, whole, strict=True))
    print(f"{what}:")
    for name, measured in (("bare client", bare), ("fusemld", whole)):
        gaps = sorted(gap * 1000 for each in measured for gap in each.gaps_s)
        own_ms = statistics.median(each.processor_s for each in measured) * 1000
        host_ms = statistics.median(each.host_s for each in measured) * 1000
        requests = ", ".join(f"{count:.2f} {kind}" for kind, count in sorted(measured[-1].requests.items()))
        print(
            f"  {name:<11}  {statistics.median(each.pods_per_s for each in measured):6.1f} pods/s; "
            f"from an end to the next create {statistics.median(gaps):.1f} ms "
            f"(p99 {gaps[-1 - len(gaps) // 100]:.1f}); "
            f"processor {own_ms:.2f} ms a pod, {host_ms:.2f} ms with all others"
        )
        print(f"  {'':<11}  requests a pod: {requests}")
    print(f"  ratio of pods/s {statistics.median(ratios):.3f}{goal}, from {ratios[0]:.2f} to {ratios[-1]:.2f}")


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def _processor_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def _kubelet(plane: ControlPlane) -> Iterator[None]:
    arguments = ["--server", plane.url, "--authority", str(plane.authority), "--token", plane.tokens[KUBELET]]
    command = [sys.executable, "-m", "tests.bench.stand_in_kubelet", *arguments, "--namespace", NAMESPACE]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
