"""What somebody types who has never seen a daemon is answered in words."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from examples.demo import Demo
from tests.acceptance.daemon import Daemon

pytestmark = pytest.mark.acceptance

STEP = "steps:\n  - {name: a, image: host, command: ['true']}\n"

NEWCOMER = {
    "runs": (0, "no runs yet"),
    "files": (0, "no files yet: drop workflows"),
    "files --problems": (0, "no problems"),
    "workflow list": (0, "no workflows yet"),
    "codeset list": (0, "no codesets yet"),
    "application list": (0, "no applications yet"),
    "extension list": (0, "no extensions yet"),
    "services": (0, "no services"),
    "version": (0, "daemon:"),
    "get x": (3, "cannot find run 'x'"),
    "get latest": (3, "there are no runs yet"),
    "logs x": (3, "cannot find run 'x'"),
    "why x": (3, "cannot find run 'x'"),
    "watch x": (3, "cannot find run 'x'"),
    "cancel x": (3, "cannot find run 'x'"),
    "retry x": (3, "cannot find run 'x'"),
    "run x": (3, "cannot run workflow 'x'"),
    "run x -i foo": (2, "'foo' is not NAME=VALUE"),
    "run": (2, "Missing argument 'WORKFLOW'"),
    "workflow get x": (3, "cannot show workflow 'x'"),
    "codeset get x": (3, "cannot show codeset 'default/x'"),
    "codeset get a/b/c": (2, "write NAME or PROJECT/NAME"),
    "extension get x": (3, "cannot show extension 'x'"),
    "extension explain x": (3, "cannot show workflow 'x'"),
    "extension check x": (3, "cannot show extension 'x'"),
    "application get x": (3, "cannot show application x"),
    "application delete x": (3, "cannot delete application x"),
    "runs --state foo": (2, "'foo' is not one of"),
    "workflow list -o xml": (2, "'xml' is not one of"),
    "lint": (2, "Missing argument 'FILE...'"),
    "lint /nonexistent.yaml": (1, "cannot read this file"),
    "workflw list": (2, "Did you mean 'workflow'?"),
    "workflow lst": (2, "Did you mean 'list'?"),
    "frobnicate": (2, "No such command 'frobnicate'"),
    "get ''": (2, "Invalid value for 'RUN': it is empty"),
    "workflow get ''": (2, "Invalid value for 'NAME': it is empty"),
    "lint ''": (2, "Invalid value for 'FILE...': it is empty"),
    "backup '' --force": (2, "Invalid value for 'FILE': it is empty"),
}


def test_whatever_a_newcomer_types_on_an_empty_daemon_is_answered_in_words(daemon: Daemon) -> None:
    daemon.start()

    for line, (status, answer) in NEWCOMER.items():
        done = daemon.run("fuseml", *shlex.split(line), check=False)
        said = done.stdout + done.stderr
        assert done.returncode == status, (line, said)
        assert answer in said, (line, said)
        assert "Traceback" not in said
        assert "internal error" not in said


def test_what_a_newcomer_gets_wrong_about_a_workflow_is_answered_in_words(daemon: Daemon) -> None:
    daemon.start()
    daemon.drop("w.yaml", "name: w\ninputs: [{name: who}, {name: n, type: int, default: 1}]\n" + STEP)
    daemon.wait_for(lambda: daemon.json("workflow", "list"), 10, "the workflow")
    mistakes = {
        "run w": "workflow 'w' needs a value for its input 'who' (string)",
        "run w -i who=me -i n=x": "input 'n': 'x' is not an int: write a whole number such as 10",
        "run w -i whom=me": "workflow 'w' has no input 'whom': did you mean 'who'?",
        "run w -i who=me --executor kubernetes": "this daemon has: process",
        "run W -i who=me": "(declared are: w)",
    }

    said = {line: daemon.run("fuseml", *line.split(), check=False) for line in mistakes}
    files = daemon.run("fuseml", "files").stdout
    run = daemon.run("fuseml", "run", "w", "-i", "who=me", "--wait")
    log = daemon.run("fuseml", "logs", "latest", "a")

    for line, message in mistakes.items():
        assert said[line].returncode in (2, 3)
        assert message in said[line].stderr
    assert "runs on request: needs who" in files
    assert run.returncode == 0
    assert log.stdout == ""
    assert "nothing was logged" in log.stderr
    assert len(daemon.json("runs")) == 1


def test_the_demo_is_the_same_whatever_settings_the_shell_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FUSEMLD_EXECUTOR", "kubernetes")
    monkeypatch.setenv("FUSEMLD_SOCKET", "/elsewhere")

    demo = Demo(tmp_path)

    settings = {name: text for name, text in demo.environment.items() if name.startswith("FUSEMLD_")}
    assert settings == {
        "FUSEMLD_FOLDER": str(demo.inbox),
        "FUSEMLD_STATE": str(demo.state),
        "FUSEMLD_SOCKET": str(demo.socket),
        "FUSEMLD_CODESETS_ROOTS": str(demo.codesets),
    }
    assert demo.environment["PATH"]
