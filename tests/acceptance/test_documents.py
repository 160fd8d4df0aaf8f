"""Every mistake in a document gets one clear message in three places, and everything else goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.acceptance.daemon import EXAMPLES, Daemon

pytestmark = pytest.mark.acceptance

STEP = "steps:\n  - {name: a, image: host, command: ['true']}\n"


class Mistake(NamedTuple):
    """A wrong file, where the message must point, and what it must say: what is wrong, and the remedy."""

    content: str | bytes
    place: str
    wrong: str
    remedy: str


MISTAKES = {
    "undeclared-output": Mistake(
        """\
name: undeclared-output
steps:
  - name: a
    image: host
    command: ['true']
    outputs: [{name: model}]
  - name: b
    image: host
    command: [echo, "{{ steps.a.outputs.modle }}"]
""",
        "9:25",
        "step 'a' declares no output 'modle'",
        "did you mean 'model'?",
    ),
    "unknown-input": Mistake(
        """\
name: unknown-input
inputs: [{name: colour}]
steps:
  - name: a
    image: host
    command: [echo, "{{ inputs.color }}"]
""",
        "6:25",
        "unknown input 'color'",
        "did you mean 'colour'?",
    ),
    "cycle": Mistake(
        """\
name: cycle
steps:
  - {name: a, image: host, command: ['true'], needs: [b]}
  - {name: b, image: host, command: ['true'], needs: [a]}
""",
        "3:55",
        "a -> b -> a",
        "remove one of these needs",
    ),
    "forward-reference": Mistake(
        """\
name: forward-reference
steps:
  - name: a
    image: host
    command: [echo, "{{ steps.b.outputs.x }}"]
  - name: b
    image: host
    command: ['true']
    outputs: [{name: x}]
""",
        "5:25",
        "which is listed further below",
        "list 'b' above 'a'",
    ),
    "two-of-one-name": Mistake(
        f"name: two-of-one-name\n{STEP}  - {{name: a, image: host}}\n",
        "4:12",
        "two steps are named 'a' (the first in line 3)",
        "rename one",
    ),
    "bad-type": Mistake(
        f"name: bad-type\ninputs: [{{name: n, type: integer}}]\n{STEP}",
        "2:26",
        "cannot be 'integer'",
        "did you mean 'int'?",
    ),
    "bad-default": Mistake(
        f"name: bad-default\ninputs: [{{name: n, type: int, default: many}}]\n{STEP}",
        "2:40",
        "'many' is not an int",
        "write a whole number such as 10",
    ),
    "bad-shape": Mistake(
        "name: bad-shape\nsteps:\n  - {name: a, image: host, command: echo hello}\n",
        "3:37",
        "'command' of a step must be a list",
        "lines that start with '- '",
    ),
    "unknown-field": Mistake(
        "name: unknown-field\nsteps:\n  - name: a\n    image: host\n    imgae: host\n",
        "5:5",
        "unknown field 'imgae' of a step",
        "did you mean 'image'?",
    ),
    "unquoted": Mistake(
        "name: unquoted\nsteps:\n  - name: a\n    image: {{ inputs.x }}\n",
        "4:13",
        "braces start a mapping in YAML",
        "put an expression in quotes",
    ),
    "bomb": Mistake(
        "name: bomb\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
        + "steps: *a9\n",
        "7:10",
        "more than 200,000 values once aliases are expanded",
        "use fewer aliases",
    ),
    "big": Mistake(
        "name: big\n" + "# padding\n" * 209_716 + STEP,
        "1:1",
        "more than the 1,048,576 allowed",
        "split it into several files",
    ),
    "not-utf8": Mistake(
        b"name: not-utf8\ndescription: caf\xe9\n" + STEP.encode(),
        "2:17",
        "invalid UTF-8 (byte 0xe9)",
        "save the file as UTF-8",
    ),
    "tabs": Mistake(
        "name: tabs\nsteps:\n\t- name: a\n\t  image: host\n",
        "3:1",
        "a tab character is used for indentation",
        "use spaces instead",
    ),
    "given-twice": Mistake(
        f"name: given-twice\nname: again\n{STEP}",
        "2:1",
        "'name' is given twice (first in line 1)",
        "remove one",
    ),
    "deep": Mistake(
        "name: deep\nsteps: " + "[" * 100 + "]" * 100 + "\n",
        "2:71",
        "nested more than 64 levels deep",
        "flatten it",
    ),
    "python-tag": Mistake(
        "name: python-tag\nsteps: !!python/object/apply:os.system ['id']\n",
        "2:8",
        "this YAML tag is not allowed",
        "remove it",
    ),
    "unclosed": Mistake(
        "name: unclosed\nsteps:\n  - {name: a, image: host\n",
        "4:1",
        "not valid YAML",
        "did not find expected ',' or '}'",
    ),
    "odd-name": Mistake(
        f"name: hello world!\n{STEP}",
        "1:7",
        "'hello world!' is not a valid name",
        "use up to 100 letters, digits",
    ),
    "no-kind": Mistake(
        "foo: bar\n", "1:1", "cannot tell what this document is (it has foo)", "a workflow has 'steps'"
    ),
    "wrong-kind": Mistake("kind: workflw\nname: x\n", "1:7", "unknown kind 'workflw'", "did you mean 'workflow'?"),
    "list-of-inputs": Mistake(
        "workflow: good\ninputs:\n  - {name: who, value: you}\n",
        "3:3",
        "'inputs' of a run request must be a mapping of names to values, not a list",
        "",
    ),
    "password-in-url": Mistake(
        "name: c\nurl: https://me:canary-7261@example.org/r.git\n",
        "2:6",
        "the url holds a password",
        "put it under 'credentials' of an extension record",
    ),
    "token-in-url": Mistake(
        "name: c\nurl: https://canary-7261@example.org/r.git\n",
        "2:6",
        "the url holds a user name, which may be a token",
        "put it under 'credentials' of an extension record",
    ),
    **{
        f"step-{field}": Mistake(
            f"name: step-{field}\nsteps:\n  - name: a\n    image: host\n    {field}: {value}\n",
            "5:5",
            f"'{field}' of a step is not supported yet",
            "remove it",
        )
        for field, value in (("when", '"{{ run.id }}"'), ("matrix", "{a: [1, 2]}"), ("cache", "true"))
    },
    **{
        f"workflow-{field}": Mistake(
            f"name: workflow-{field}\n{field}: {value}\n{STEP}",
            "2:1",
            f"'{field}' of a workflow is not supported yet",
            "remove it",
        )
        for field, value in (
            ("finally", "[{name: z, image: host}]"),
            ("schedule", '"0 3 * * *"'),
            ("concurrency", "{limit: 1, policy: queue}"),
        )
    },
}

ONLY_FOR_THE_DAEMON = {
    "output-image": Mistake(
        """\
name: output-image
steps:
  - name: a
    image: host
    command: ['true']
    outputs:
      - name: o
        image: {name: example.org/app, dockerfile: Dockerfile}
""",
        "7:15",
        "no image builder is configured for the executor 'process'",
        "build the image elsewhere and name it in `image`",
    ),
    "wrong-request": Mistake(
        "workflow: long\ninputs:\n  whom: you\n",
        "3:3",
        "workflow 'long' has no input 'whom'",
        "",
    ),
    "no-executor": Mistake(
        f"name: no-executor\nexecutor: kubernetes\n{STEP}",
        "2:11",
        "wants the executor 'kubernetes'",
        "this daemon has: process",
    ),
    "no-executor-for-request": Mistake(
        "workflow: long\ninputs: {}\nexecutor: kubernetes\n",
        "3:11",
        "wants the executor 'kubernetes'",
        "this daemon has: process",
    ),
    "wrong-plugin-input": Mistake(
        """\
name: wrong-plugin-input
steps:
  - name: a
    image: ghcr.io/fuseml/kserve-predictor:latest
    inputs:
      - name: model
        value: s3://bucket/model
      - name: modle
        value: s3://bucket/model
""",
        "8:15",
        "does not know the input 'modle'",
        "did you mean 'model'?",
    ),
    "missing-plugin-input": Mistake(
        "name: missing-plugin-input\nsteps:\n  - name: a\n    image: ghcr.io/fuseml/kserve-predictor:latest\n",
        "3:11",
        "the input 'model' is missing",
        "add it under 'inputs'",
    ),
}
"""What depends on the plugins and executors that a daemon has; `fuseml lint` knows none."""

GOOD = """\
name: good
outputs: [{name: answer}]
steps:
  - name: a
    image: host
    command: [sh, -c, 'echo 42 > "$FUSEML_RESULTS_DIR/answer"']
    outputs: [{name: answer}]
"""


def test_each_mistake_gets_one_message_with_its_place_and_remedy_while_everything_else_goes_on(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.start()
    gate = tmp_path / "gate"
    wait = f"until test -e {gate}; do sleep 0.05; done"
    daemon.drop("long.yaml", f"name: long\nsteps:\n  - {{name: a, image: host, command: [sh, -c, '{wait}']}}\n")
    long = daemon.run_of("long.yaml")
    daemon.in_state(long, "a", "running")
    mistakes = MISTAKES | ONLY_FOR_THE_DAEMON

    for name, mistake in mistakes.items():
        content = mistake.content
        (daemon.folder / f"{name}.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    daemon.drop("zz-good.yaml", GOOD)
    good = daemon.finished(daemon.run_of("zz-good.yaml"))

    def all_rejected() -> bool:
        states = {entry["path"]: entry["state"] for entry in daemon.json("files")}
        return all(states.get(f"{name}.yaml") == "rejected" for name in mistakes)

    daemon.wait_for(all_rejected, 20, "every wrong file to be rejected")
    shown = daemon.run("fuseml", "files", "--problems").stdout.splitlines()
    told = [event["text"] for line in daemon.journal().splitlines() if "text" in (event := json.loads(line))]
    for name, mistake in mistakes.items():
        for where, lines in (("fuseml files", shown), ("the journal", told)):
            mine = [line for line in lines if line.startswith(f"{name}.yaml:")]
            assert len(mine) == 1, (where, name, mine)
            assert mine[0].startswith(f"{name}.yaml:{mistake.place}: "), (where, mine)
            assert mistake.wrong in mine[0], (where, mine)
            assert mistake.remedy in mine[0], (where, mine)
        assert [line for line in shown if line.startswith(f"{name}.yaml:")] == [
            line for line in told if line.startswith(f"{name}.yaml:")
        ]
    assert "canary-7261" not in "\n".join([*shown, *told])
    assert good["outputs"] == {"answer": "42"}
    assert [entry["name"] for entry in daemon.json("workflow", "list")] == ["good", "long"]
    gate.touch()
    assert daemon.finished(long)["state"] == "succeeded"


def test_lint_says_the_same_as_the_daemon_without_one(daemon: Daemon, tmp_path: Path) -> None:
    for name, mistake in MISTAKES.items():
        content = mistake.content
        (tmp_path / f"{name}.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    (tmp_path / "good.yaml").write_text(GOOD)

    done = daemon.run("fuseml", "lint", str(tmp_path), check=False)
    one = daemon.run("fuseml", "lint", str(tmp_path / "tabs.yaml"), check=False)
    fine = daemon.run("fuseml", "lint", str(tmp_path / "good.yaml"))

    assert done.returncode == 1
    for name, mistake in MISTAKES.items():
        mine = [line for line in done.stdout.splitlines() if line.startswith(f"{tmp_path}/{name}.yaml:")]
        assert len(mine) == 1, mine
        assert mine[0].startswith(f"{tmp_path}/{name}.yaml:{mistake.place}: "), mine
        assert mistake.wrong in mine[0]
        assert mistake.remedy in mine[0]
    assert "good.yaml" not in done.stdout
    assert one.stderr == "1 file checked: 1 error, 0 warnings\n"
    assert fine.stdout == ""
    assert fine.stderr == "1 file checked: 0 errors, 0 warnings\n"


def test_all_problems_of_a_document_are_told_at_once_and_nothing_of_the_file_counts(daemon: Daemon) -> None:
    daemon.start()

    other = "name: other\ninputs: [{name: n, tpye: int}]\nsteps:\n  - {image: host}\n"
    daemon.drop("several.yaml", f"{GOOD}---\n{other}")
    daemon.wait_for(lambda: daemon.json("files"), 10, "the file to be seen")

    shown = daemon.run("fuseml", "files", "--problems").stdout.splitlines()
    assert [line.partition(": ")[0] for line in shown] == ["several.yaml:10:20", "several.yaml:12:5"]
    assert "did you mean 'type'?" in shown[0]
    assert "'name'" in shown[1]
    assert daemon.json("workflow", "list") == []
    assert daemon.json("runs") == []


def test_a_mended_file_counts_at_once(daemon: Daemon) -> None:
    daemon.start()
    daemon.drop("w.yaml", GOOD.replace("image: host", "imgae: host"))
    daemon.wait_for(lambda: daemon.file("w.yaml")["state"] == "rejected", 10, "the mistake to be seen")

    daemon.drop("w.yaml", GOOD)
    daemon.wait_for(lambda: daemon.file("w.yaml")["state"] == "registered", 10, "the mended file to be registered")

    assert daemon.finished(daemon.run_of("w.yaml"))["outputs"] == {"answer": "42"}
    assert daemon.run("fuseml", "files", "--problems").stdout == "no problems\n"


def test_the_workflows_of_the_reference_are_accepted_as_they_are(daemon: Daemon) -> None:
    daemon.start()

    daemon.drop_example("workflows/mlflow-e2e.yaml")
    daemon.drop_example("workflows/mlflow-multi-e2e.yaml")
    daemon.wait_for(lambda: len(daemon.json("workflow", "list")) == 2, 10, "both workflows")

    for name in ("mlflow-e2e.yaml", "mlflow-multi-e2e.yaml"):
        entry = next(entry for entry in daemon.json("files") if entry["path"] == name)
        assert entry["state"] == "registered"
    warnings = daemon.run("fuseml", "files", "--problems").stdout.splitlines()
    assert [line for line in warnings if "warning: " not in line] == []
    assert "verbose" in "\n".join(warnings), "an input that is given twice takes the last value, with a warning"
    linted = daemon.run("fuseml", "lint", str(EXAMPLES / "workflows"))
    assert "0 errors" in linted.stderr


LENIENT = """\
name: lenient
outputs: [{name: seen}]
steps:
  - name: only
    image: host
    command: [sh, -c, 'echo "$MODE ${FUSEML_EMPTY-absent} $PLACE" > $FUSEML_RESULTS_DIR/seen']
    inputs: [{name: empty}]
    outputs: [{name: seen}]
    extensions: [{name: anything}]
    env: [{name: MODE, value: first}, {name: MODE, value: last}]
"""
RECORD = """\
id: somewhere
configuration: {PLACE: here}
services: [{id: main, endpoints: [{url: "http://127.0.0.1:9"}]}]
"""


def test_what_only_the_reference_leaves_open_is_run_with_a_warning_each(daemon: Daemon) -> None:
    daemon.start()
    daemon.drop("record.yaml", RECORD)
    daemon.wait_for(
        lambda: "somewhere" in {entry["id"] for entry in daemon.json("extension", "list")},
        10,
        "a record that any step may take",
    )

    file = daemon.drop("w.yaml", LENIENT)
    run = daemon.finished(daemon.run_of("w.yaml"))

    assert run["outputs"] == {"seen": "last absent here"}
    linted = daemon.run("fuseml", "lint", str(file))
    assert "0 errors, 3 warnings" in linted.stderr
    for what in ("has no value", "names no selector", "is given twice"):
        assert what in linted.stdout
        assert what in daemon.run("fuseml", "files", "--problems").stdout
        assert what in daemon.journal()
    explained = daemon.run("fuseml", "extension", "explain", "lenient").stdout
    assert "only: anything (wants anything)\n  picked somewhere/main" in explained
    (step,) = daemon.json("workflow", "get", "lenient")["steps"]
    assert step["inputs"] == [{"name": "empty"}]
    assert step["env"] == [{"name": "MODE", "value": "last"}]
    assert step["extensions"] == [{"name": "anything"}]


def test_a_step_whose_image_nobody_can_run_fails_and_says_who_could(daemon: Daemon) -> None:
    daemon.start()

    daemon.drop(
        "w.yaml",
        """\
name: w
steps:
  - name: before
    image: host
    command: ['true']
  - name: converter
    image: ghcr.io/fuseml/ovms-converter:latest
""",
    )
    run = daemon.finished(daemon.run_of("w.yaml"))
    why = daemon.run("fuseml", "why", run["id"]).stdout

    assert run["state"] == "failed"
    assert [step["state"] for step in run["steps"]] == ["succeeded", "failed"]
    assert "ghcr.io/fuseml/ovms-converter:latest" in why
    assert "kubernetes" in why, "an executor that could"
    assert "process.images" in why, "the setting that could"
