"""A canary in a record's credentials reaches the step, and nothing else.

Two places hold it and must: the record's own file in the watched folder, and the environment of the step's own
processes, which their user (and root) can read in /proc/PID/environ: that is how it is delivered.
"""

from __future__ import annotations

import hashlib
import json
import signal
from typing import Any

import psutil
import pytest

from fusemld.api.routes import ROUTES
from tests.acceptance.canary import CHANGING, LOOKING, NAMES, Watch, filled
from tests.acceptance.daemon import Daemon
from tests.cli.commands import commands

pytestmark = pytest.mark.acceptance

PLAIN = "canary-5e1f0a77-value"

CANARIES = {
    "plain": PLAIN,
    "special to shells, JSON and patterns": "c$(id)`n\"a'r\\y{}[]*.+?^|&;<{{ run.id }}>é canary",
    "several lines": "-----BEGIN CANARY-----\nMIIEcanary0first/+\ncanary1second==\n-----END CANARY-----\n",
    "short": "q~%7",
}

RECORD = """\
id: vault
product: vault
services:
  - id: main
    resource: vault
    auth_required: true
    configuration: {{VAULT_NAME: a public name}}
    endpoints: [{{url: "http://127.0.0.1:9/vault"}}]
    credentials:
      - id: one
        configuration: {{VAULT_TOKEN: {value}}}
"""

STEP = """\
    extensions: [{name: vault, product: vault}]
    env: [{name: MAPPED, value: "user:{{ extensions.vault.cfg.VAULT_TOKEN }}@host"}]
    inputs:
      - {name: token, value: "{{ extensions.vault.cfg.VAULT_TOKEN }}"}
"""

ECHO = r"""
import base64, hashlib, json, os, sys, time, urllib.parse

token = os.environ["VAULT_TOKEN"]
assert hashlib.sha256(token.encode()).hexdigest() == sys.argv[1], "not intact"
assert os.environ["FUSEML_TOKEN"] == token
assert os.environ["MAPPED"] == "user:" + token + "@host"
assert os.environ["VAULT_NAME"] == "a public name"
for stream in (sys.stdout, sys.stderr):
    half = len(token) // 2
    pieces = ("begin ", token, " end\n", token + "\n", token[:half], token[half:], "\n" + token + "\n", token * 2)
    for text in pieces:
        stream.write(text)
        stream.flush()
        time.sleep(0.05)
    for form in (json.dumps(token), repr(token), urllib.parse.quote(token, safe="")):
        stream.write("\n" + form + "\n")
    if len(token) > 5:
        stream.write(base64.b64encode(b"user:" + token.encode()).decode() + "\n")
    stream.flush()
print("gate", flush=True)
while not os.path.exists(sys.argv[2]):
    time.sleep(0.05)
if len(sys.argv) > 3:
    with open(os.path.join(os.environ["FUSEML_RESULTS_DIR"], "out"), "w") as file:
        file.write("the token is " + token)
print("the last line:", token, flush=True)
sys.exit(int(sys.argv[3]) if len(sys.argv) > 3 else 7)
"""


def quoted(text: str) -> str:
    """A YAML scalar of exactly this text."""
    return json.dumps(text, ensure_ascii=False)


def test_every_command_and_every_route_that_only_looks_is_searched() -> None:
    assert LOOKING.keys() | CHANGING == commands().keys()
    assert not LOOKING.keys() & CHANGING
    for route in ROUTES:
        filled(route.path, NAMES, "r")


def workflow(daemon: Daemon, canary: str, *arguments: str, outputs: bool = False) -> str:
    script = daemon.base / "echo.py"
    script.write_text(ECHO)
    digest = hashlib.sha256(canary.encode()).hexdigest()
    command = json.dumps(["python3", str(script), digest, str(daemon.base / "gate"), *arguments])
    return f"name: uses\nsteps:\n  - name: only\n    image: host\n    command: {command}\n{STEP}" + (
        "    outputs: [{name: out}]\n" if outputs else ""
    )


@pytest.mark.parametrize("canary", CANARIES.values(), ids=CANARIES)
def test_a_credential_reaches_the_step_intact_and_is_nowhere_else(daemon: Daemon, canary: str) -> None:
    watch = Watch(daemon, canary)
    daemon.drop("vault.yaml", RECORD.format(value=quoted(canary)))
    daemon.drop("uses.yaml", workflow(daemon, canary))
    daemon.start(LOG_LEVEL="debug")
    run = daemon.run_of("uses.yaml")
    daemon.wait_for(lambda: "gate" in log(daemon, run), 20, "the step to have echoed")

    watch.assert_nowhere_now(run)
    daemon.kill()
    daemon.start()
    with watch.listening():
        (daemon.base / "gate").touch()
        view = daemon.finished(run)

    (attempt,) = view["steps"][0]["attempts"]
    assert (attempt["ending"], attempt["exit_status"]) == ("program failed", 7), log(daemon, run)
    assert "the last line: ***" in attempt["tail"]
    assert "begin ***" in log(daemon, run)
    assert view["steps"][0]["services"][0]["credentials_id"] == "one"
    watch.assert_nowhere(run)


def test_an_output_that_holds_a_credential_is_refused_and_not_stored(daemon: Daemon) -> None:
    daemon.drop("vault.yaml", RECORD.format(value=PLAIN))
    daemon.drop("uses.yaml", workflow(daemon, PLAIN, "0", outputs=True))
    (daemon.base / "gate").touch()
    daemon.start()

    view = daemon.finished(daemon.run_of("uses.yaml"))

    (attempt,) = view["steps"][0]["attempts"]
    assert view["state"] == "failed"
    assert attempt["ending"] == "output refused"
    assert attempt["message"].startswith("output out is refused: it holds")
    Watch(daemon, PLAIN).assert_nowhere(view["id"])


CRASHING = """\
import anyio

from fusemld.hooks.specs import hookimpl
from fusemld.hooks.steps import StepInputs


class Crashing:
    repositories = ("example.org/crashing",)
    inputs = StepInputs(required=frozenset({"token", "how", "gate"}))

    async def run(self, context):
        token = context.extensions["vault"].configuration["VAULT_TOKEN"]
        assert context.inputs["token"] == token
        context.note(f"going to use {token}")
        while not await anyio.Path(context.inputs["gate"]).exists():
            await anyio.sleep(0.05)
        if context.inputs["how"] == "leaks":
            return {"out": f"it is {token}"}
        raise RuntimeError(f"cannot use {token}")


@hookimpl
def fusemld_plugin_steps():
    return [Crashing()]
"""


@pytest.mark.parametrize(
    ("how", "ending", "message"),
    [
        ("crashes", "program failed", "the plugin failed: RuntimeError: cannot use ***"),
        ("leaks", "output refused", "output out is refused: it holds"),
    ],
)
def test_a_plugin_step_that_tells_a_credential_is_masked_or_refused(
    daemon: Daemon, how: str, ending: str, message: str
) -> None:
    watch = Watch(daemon, PLAIN)
    daemon.install_plugin("crashing", CRASHING)
    daemon.drop("vault.yaml", RECORD.format(value=PLAIN))
    daemon.start(LOG_LEVEL="debug")

    with watch.listening():
        daemon.drop(
            "uses.yaml",
            f"name: uses\nsteps:\n  - name: only\n    image: example.org/crashing\n{STEP}"
            f"      - {{name: how, value: {how}}}\n      - {{name: gate, value: {daemon.base / 'gate'}}}\n"
            "    outputs: [{name: out}]\n",
        )
        run = daemon.run_of("uses.yaml")
        daemon.wait_for(lambda: "going to use" in log(daemon, run), 20, "the note")
        (daemon.base / "gate").touch()
        view = daemon.finished(run)

    (attempt,) = view["steps"][0]["attempts"]
    assert attempt["ending"] == ending
    assert attempt["message"].startswith(message)
    assert "going to use ***" in log(daemon, run)
    assert b"going to use ***" in watch.heard
    watch.assert_nowhere(run)


def test_a_killed_keeper_leaves_no_credential_behind(daemon: Daemon) -> None:
    daemon.drop("vault.yaml", RECORD.format(value=PLAIN))
    daemon.drop("uses.yaml", workflow(daemon, PLAIN))
    daemon.start()
    run = daemon.run_of("uses.yaml")
    daemon.wait_for(lambda: "gate" in log(daemon, run), 20, "the step to have echoed")

    psutil.Process(daemon.keeper_pid()).send_signal(signal.SIGKILL)
    (daemon.base / "gate").touch()
    view = daemon.finished(run)

    assert [attempt["ending"] for attempt in view["steps"][0]["attempts"]] == ["lost", "program failed"]
    Watch(daemon, PLAIN).assert_nowhere(run)


def test_a_credential_that_cannot_be_delivered_is_not_quoted_in_the_reason(daemon: Daemon) -> None:
    keys = daemon.base / "keys"
    keys.mkdir()
    (keys / "nul").write_bytes(f"{PLAIN}\0more".encode())
    long = PLAIN * 10_000
    daemon.drop("vault.yaml", RECORD.format(value=f"{{from_file: {keys / 'nul'}}}"))
    daemon.drop("long.yaml", RECORD.replace("vault", "long").format(value=long))
    daemon.drop("elsewhere.yaml", RECORD.replace("vault", "elsewhere").format(value="{from_file: /etc/hostname}"))
    for product in ("vault", "long", "elsewhere"):
        uses = f"    extensions: [{{name: it, product: {product}}}]\n"
        daemon.drop(
            f"uses-{product}.yaml",
            f"name: uses-{product}\nsteps:\n  - name: only\n    image: host\n    command: ['true']\n{uses}",
        )
    daemon.start(SECRETS_FILES=str(keys))

    messages = {
        product: daemon.finished(daemon.run_of(f"uses-{product}.yaml"))["message"]
        for product in ("vault", "long", "elsewhere")
    }

    assert "cannot set VAULT_TOKEN: a NUL byte cannot be in an environment variable" in messages["vault"]
    assert f"variable VAULT_TOKEN has {len(long) + len('VAULT_TOKEN=')} bytes" in messages["long"]
    assert "the settings do not allow records to read '/etc/hostname'" in messages["elsewhere"]
    (keys / "nul").unlink()
    (daemon.folder / "long.yaml").unlink()
    daemon.wait_for(
        lambda: "long.yaml" not in {file["path"] for file in daemon.json("files")},
        10,
        "the long record to be gone",
    )
    Watch(daemon, PLAIN, "uses-vault").assert_nowhere(*[run["id"] for run in daemon.json("runs")])


def test_problems_of_a_record_do_not_quote_what_is_under_credentials(daemon: Daemon) -> None:
    wrong = {
        "list.yaml": RECORD.format(value=f"[{PLAIN}]"),
        "unknown.yaml": RECORD.format(value=f"{{from_nowhere: {PLAIN}}}"),
        "colon.yaml": RECORD.format(value="x").replace("VAULT_TOKEN: x", f"VAULT_TOKEN:{PLAIN}"),
        "field.yaml": RECORD.format(value="x").replace("id: one", f"VAULT_TOKEN:{PLAIN}:"),
        "broken.yaml": RECORD.format(value=f'"{PLAIN}'),
        "twice.yaml": RECORD.format(value=f"{PLAIN}, VAULT_TOKEN: {PLAIN}"),
    }
    for name, text in wrong.items():
        (daemon.folder / name).write_text(text)
    daemon.start()

    files = daemon.wait_for(lambda: [f for f in daemon.json("files") if f["state"] == "rejected"], 10, "the files")

    assert {file["path"] for file in files} == set(wrong)
    assert all(file["problems"] for file in files)
    for data in (json.dumps(daemon.json("files")), daemon.run("fuseml", "files").stdout, daemon.journal()):
        assert PLAIN not in data
    for path in daemon.state.rglob("*"):
        assert not path.is_file() or PLAIN.encode() not in path.read_bytes(), path


EXPOSING = """\
name: uses
inputs: [{name: wanted}]
steps:
  - name: image
    image: "x/{{ extensions.vault.cfg.VAULT_TOKEN }}"
    needs: []
    extensions: [{name: vault, product: vault}]
  - name: command
    image: host
    needs: []
    command: [echo, "{{ extensions.vault.cfg.VAULT_TOKEN }}"]
    extensions: [{name: vault, product: vault}]
  - name: args
    image: host
    needs: []
    command: [echo]
    args:
      - "{{ extension.vault.cfg.VAULT_TOKEN }}"
    extensions: [{name: vault, product: vault}]
"""
PLACES = {"image": (5, 18), "command": (11, 25), "args": (18, 13)}
"""Step and place of the same name, with line and column."""

OUTPUT = """\
name: uses
inputs: [{name: wanted}]
outputs: [{name: token, value: "{{ extensions.vault.cfg.VAULT_TOKEN }}"}]
steps:
  - name: only
    image: host
    command: ['true']
    extensions: [{name: vault, product: vault}]
"""


@pytest.mark.parametrize("order", ["earlier", "in the same look", "in the same file", "in a later document"])
def test_a_credential_where_others_would_see_it_is_refused_when_the_file_is_read(
    daemon: Daemon, order: str
) -> None:
    record = RECORD.format(value=PLAIN)
    above = 0
    match order:
        case "earlier":
            daemon.drop("vault.yaml", record)
            daemon.start()
            daemon.wait_for(lambda: daemon.json("extension", "list"), 10, "the record")
            daemon.drop("uses.yaml", EXPOSING)
        case "in the same look":
            daemon.drop("vault.yaml", record)
            daemon.drop("uses.yaml", EXPOSING)
            daemon.start()
        case "in the same file":
            daemon.drop("uses.yaml", f"{record}---\n{EXPOSING}")
            above = record.count("\n") + 1
            daemon.start()
        case _:
            daemon.drop("uses.yaml", f"{EXPOSING}---\n{record}")
            daemon.start()

    def rejected() -> list[dict[str, Any]]:
        return [file for file in daemon.json("files") if file["state"] == "rejected"]

    (file,) = daemon.wait_for(rejected, 10, "the file to be refused")
    shown = daemon.run("fuseml", "files").stdout
    assert file["path"] == "uses.yaml"
    assert len(file["problems"]) == len(PLACES)
    for problem, (place, (line, column)) in zip(file["problems"], PLACES.items(), strict=True):
        assert f"cfg.VAULT_TOKEN comes from credentials and would be seen in {place}" in problem["message"]
        assert "hand it over in env or an input instead" in problem["message"]
        assert (problem["line"], problem["column"]) == (above + line, column)
        assert f"uses.yaml:{above + line}:{column}: " in shown
    assert daemon.json("workflow", "list") == []


def test_a_credential_in_a_workflow_output_is_refused_when_the_file_is_read(daemon: Daemon) -> None:
    daemon.drop("vault.yaml", RECORD.format(value=PLAIN))
    daemon.drop("uses.yaml", OUTPUT)
    daemon.start()

    file = daemon.wait_for(lambda: daemon.file("uses.yaml"), 10, "the file")

    assert file["state"] == "rejected"
    assert [(problem["line"], problem["column"]) for problem in file["problems"]] == [(3, 36)]
    assert "a workflow output cannot refer to an extension" in file["problems"][0]["message"]


def test_where_the_record_comes_later_the_steps_are_refused_when_they_start(daemon: Daemon) -> None:
    daemon.start()
    daemon.drop("uses.yaml", EXPOSING)
    daemon.wait_for(lambda: daemon.json("workflow", "list"), 10, "the workflow")
    daemon.drop("vault.yaml", RECORD.format(value=PLAIN))
    daemon.wait_for(lambda: daemon.json("extension", "list"), 10, "the record")

    daemon.run("fuseml", "run", "uses", "-i", "wanted=yes", "--wait", check=False)

    view = daemon.json("get", "latest")
    for step in view["steps"]:
        (attempt,) = step["attempts"]
        assert attempt["ending"] == "cannot start"
        assert f"in {step['name']}: it holds a value from credentials" in attempt["message"]
    Watch(daemon, PLAIN).assert_nowhere(view["id"])


def log(daemon: Daemon, run: str) -> str:
    return daemon.run("fuseml", "logs", run, "only").stdout
