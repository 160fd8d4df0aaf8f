"""A daemon that dies while a model is served, updated or deleted: one serves, and in the end nothing is left."""

from __future__ import annotations

import signal
import urllib.request

import psutil
import pytest

from fusemld.model import faults
from fusemld.model.run import RunState
from tests.acceptance.daemon import Daemon, command_of, runs
from tests.acceptance.serving import SERVER, TEXTS_PLUGIN

pytestmark = pytest.mark.acceptance

SERVING_PLUGIN = '''\
"""A plugin step that serves a text."""

from fusemld.hooks.services import ServiceRequest
from fusemld.hooks.specs import hookimpl
from fusemld.hooks.steps import StepInputs
from fusemld.model.application import Application


class Serve:
    repositories = ("example.org/serve",)
    inputs = StepInputs(required=frozenset({"text"}))

    async def run(self, context):
        request = ServiceRequest(name="served", kind="text", parameters={"text": context.inputs["text"]})
        address = await context.services.ensure(request, context.note)
        await context.applications.record(
            Application(
                name="served",
                type="predictor",
                url=address.url,
                run=context.key.run,
                run_created_at=context.run_created_at,
                services=("served",),
            )
        )
        return {"url": address.url}


@hookimpl
def fusemld_plugin_steps():
    return [Serve()]
'''

WORKFLOW = """\
name: serve
inputs: [{name: text}]
outputs: [{name: url}]
steps:
  - name: serve
    image: example.org/serve:1
    inputs: [{name: text, value: "{{ inputs.text }}"}]
    outputs: [{name: url}]
"""


def has_died(daemon: Daemon) -> bool:
    assert daemon.process is not None
    if daemon.process.poll() is None:
        return False
    assert daemon.process.returncode == -signal.SIGKILL, daemon.journal()[-3000:]
    return True


def served(daemon: Daemon, text: str, number: int) -> str:
    """What is served after run `number`, with this text, however often the daemon dies meanwhile."""
    daemon.drop(f"{text}.yaml", f"workflow: serve\ninputs: {{text: {text}}}\n")

    def is_over() -> bool:
        if has_died(daemon):
            daemon.start()
        return len([run for run in runs(daemon) if run.state is not RunState.RUNNING]) == number

    daemon.wait_for(is_over, 30, "the run to be over")
    view = daemon.finished(daemon.run_of(f"{text}.yaml"))
    assert view["state"] == "succeeded", daemon.run("fuseml", "why", view["id"]).stdout
    with urllib.request.urlopen(view["outputs"]["url"], timeout=10) as answer:
        return str(answer.read().decode())


def servers(daemon: Daemon) -> list[psutil.Process]:
    return [process for process in daemon.processes() if str(SERVER) in command_of(process)]


POINTS = [
    *((point, 1) for point in faults.SERVING_POINTS),
    *((point, 2) for point in ("service.recorded", "service.spawned", "service.ready")),  # the update's
]


@pytest.mark.parametrize(("point", "time"), POINTS)
def test_a_crash_while_something_is_served_updated_or_deleted_leaves_one_server_and_then_none(
    daemon: Daemon, point: str, time: int
) -> None:
    daemon.install_plugin("texts", TEXTS_PLUGIN)
    daemon.install_plugin("serving", SERVING_PLUGIN)
    daemon.drop("serve.yaml", WORKFLOW)
    daemon.spawn(f"{point}:{time}")
    first = daemon.process

    answers = [served(daemon, text, number) for number, text in enumerate(("one", "two"), start=1)]
    daemon.wait_for(lambda: len(servers(daemon)) == 1, 15, "one server")
    assert daemon.process is not None
    if daemon.run("fuseml", "application", "delete", "served", check=False).returncode:
        daemon.process.wait(timeout=10)
        assert has_died(daemon)
        daemon.start()
        if daemon.json("application", "list"):
            daemon.run("fuseml", "application", "delete", "served")

    assert first is not None
    assert first.returncode == -signal.SIGKILL
    assert answers == ["one", "two"]
    assert daemon.json("application", "list") == []
    daemon.wait_for(lambda: not servers(daemon), 15, "no server")
    assert [service["name"] for service in daemon.json("services")] == []
    assert not (daemon.state / "services" / "served").exists()
