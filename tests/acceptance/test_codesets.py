"""Codesets: real repositories and folders, pinned per run, private per attempt; assignments follow them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon import Daemon
from tests.acceptance.repositories import Repository

pytestmark = pytest.mark.acceptance

SHOW = """\
name: show
inputs: [{name: code, type: codeset}]
outputs: [{name: version}]
steps:
  - name: only
    image: host
    command: [sh, -c, 'cat version; echo "$WHAT" >&2; printf %s "$VERSION" > "$FUSEML_RESULTS_DIR/version"']
    inputs: [{name: code, codeset: {name: "{{ inputs.code }}", path: /project}}]
    env:
      - {name: VERSION, value: "{{ inputs.code.version }}"}
      - {name: WHAT, value: "{{inputs.code.project}} {{ inputs.code.name }} {{ inputs.code.url}} {{inputs.code}}"}
    outputs: [{name: version}]
"""


def repository(daemon: Daemon, name: str = "repo") -> Repository:
    """Registered as `demo/NAME`."""
    made = Repository(daemon.codesets / name)
    daemon.drop(f"codeset-{name}.yaml", f"name: {name}\nproject: demo\nurl: file://{made.path}\n")
    return made


def ask(daemon: Daemon, codeset: str, workflow: str = "show") -> dict[str, Any]:
    daemon.run("fuseml", "run", workflow, "-i", f"code={codeset}")
    return daemon.finished(daemon.json("get", "latest")["id"])


def runs_of(daemon: Daemon, name: str) -> list[dict[str, Any]]:
    return [run for run in daemon.json("runs", "--limit", "200") if run["workflow"] == name]


def await_names(daemon: Daemon, kind: str, *names: str) -> None:
    wanted = set(names)
    daemon.wait_for(
        lambda: wanted <= {entry["name"] for entry in daemon.json(kind, "list")}, 20, f"{kind} {names}"
    )


def test_branches_tags_commits_and_the_default_are_what_they_say_and_an_unknown_ref_names_the_close_ones(
    daemon: Daemon,
) -> None:
    daemon.start()
    made = repository(daemon)
    first = made.commit("first")
    made.git("tag", "-a", "v1", "-m", "one")
    made.git("checkout", "--quiet", "-b", "feature/x")
    feature = made.commit("feature")
    made.git("checkout", "--quiet", "main")
    latest = made.commit("latest")
    daemon.drop("pinned.yaml", f"name: pinned\nproject: demo\nurl: {made.path.as_uri()}\nref: v1\n")
    daemon.drop("show.yaml", SHOW)
    await_names(daemon, "codeset", "repo", "pinned")
    await_names(daemon, "workflow", "show")
    expected = {
        "demo/repo": latest,
        "demo/repo@main": latest,
        "demo/repo@v1": first,
        "demo/repo@feature/x": feature,
        f"demo/repo@{first}": first,
        f"demo/repo@{feature[:10]}": feature,
        "demo/pinned": first,
        "demo/pinned@main": latest,
    }

    versions = {reference: ask(daemon, reference)["outputs"]["version"] for reference in expected}
    unknown = ask(daemon, "demo/repo@featur")
    why = daemon.run("fuseml", "why", unknown["id"]).stdout

    assert versions == expected
    assert unknown["state"] == "failed"
    assert "no branch, tag or commit 'featur'" in why
    assert "did you mean 'feature/x'?" in why


def test_every_step_of_a_run_sees_the_same_commit_while_the_branch_moves_on(daemon: Daemon) -> None:
    daemon.start()
    made = repository(daemon)
    first = made.commit("first")
    gate = daemon.base / "gate"
    wait = f"until test -e {gate}; do sleep 0.05; done"
    mount = "inputs: [{name: code, codeset: {name: demo/repo, path: /project}}]"
    daemon.drop(
        "w.yaml",
        f"""\
name: w
steps:
  - name: one
    image: host
    command: [sh, -c, 'cat version; echo spoilt > version; rm .fuseml/_org; touch new; {wait}']
    {mount}
  - name: two
    image: host
    command: [sh, -c, 'cat version; test ! -e new']
    {mount}
""",
    )
    run = daemon.run_of("w.yaml")
    daemon.in_state(run, "one", "running")
    daemon.wait_for(lambda: daemon.run("fuseml", "logs", run, "one").stdout == "first\n", 10, "the first look")

    second = made.commit("second")
    gate.touch()
    done = daemon.finished(run)
    daemon.run("fuseml", "run", "w", "--wait")
    again = daemon.json("get", "latest")

    assert done["state"] == "succeeded"
    assert daemon.run("fuseml", "logs", run, "two").stdout == "first\n"
    assert [pin["version"] for pin in done["codesets"].values()] == [first]
    assert [pin["version"] for pin in again["codesets"].values()] == [second]
    assert daemon.run("fuseml", "logs", again["id"], "two").stdout == "second\n"
    assert made.git("status", "--porcelain") == ""


def test_a_retried_step_gets_the_pinned_files_anew(daemon: Daemon) -> None:
    daemon.start()
    source = daemon.codesets / "code"
    source.mkdir()
    (source / "data").write_text("as pinned\n")
    daemon.drop("code.yaml", f"name: code\npath: {source}\n")
    daemon.drop(
        "w.yaml",
        """\
name: w
steps:
  - name: only
    image: host
    command: [sh, -c, 'cat data; echo spoilt > data; test -e never']
    retry: {limit: 1, backoff: 1s}
    inputs: [{name: code, codeset: {name: code, path: /project}}]
""",
    )
    run = daemon.run_of("w.yaml")
    daemon.in_state(run, "only", "backoff")
    (source / "data").write_text("changed meanwhile\n")
    done = daemon.finished(run)

    assert [attempt["number"] for attempt in done["steps"][0]["attempts"]] == [1, 2]
    assert daemon.run("fuseml", "logs", run, "only").stdout.count("as pinned\n") == 2
    assert (source / "data").read_text() == "changed meanwhile\n"


def test_a_step_sees_what_design_section_4_promises(daemon: Daemon) -> None:
    daemon.start()
    source = daemon.codesets / "code"
    source.mkdir()
    (source / "data").write_text("data\n")
    daemon.drop("code.yaml", f"name: code\nproject: demo\npath: {source}\n")
    script = (
        "cat .fuseml/_org; echo; cat .fuseml/_project; echo; pwd; cat $FUSEML_CODESET_DIR/data;"
        " env | grep -E '^(FUSEML_|TASK_RESULT|OWN)' | sort; echo left > $FUSEML_RESULTS_DIR/$TASK_RESULT;"
        " printf 'a\\nb\\n\\n' > $FUSEML_RESULTS_DIR/second"
    )
    daemon.drop(
        "w.yaml",
        f"""\
name: w
inputs: [{{name: n, type: int, default: 010}}, {{name: empty, default: ""}}]
outputs: [{{name: first-one}}, {{name: second}}]
steps:
  - name: brackets
    image: host
    command: [sh, -c, "printf '\\\\173\\\\173 run.id }}}}' > $FUSEML_RESULTS_DIR/odd"]
    outputs: [{{name: odd}}]
  - name: only
    image: host
    command: [sh, -c, "{script}"]
    inputs:
      - {{name: code, codeset: {{name: demo/code, path: /project}}}}
      - {{name: my-in.put, value: "{{{{ inputs.n }}}} of {{{{ workflow.name }}}}"}}
      - {{name: flag, value: False}}
      - {{name: one, value: 1.50}}
      - {{name: empty, value: "{{{{ inputs.empty }}}}"}}
      - {{name: literal, value: "{{{{ steps.brackets.outputs.odd }}}}"}}
    env:
      - {{name: OWN, value: "{{{{ run.id }}}}"}}
      - {{name: FUSEML_ONE, value: wins}}
    outputs: [{{name: first-one}}, {{name: second}}]
""",
    )
    run = daemon.finished(daemon.run_of("w.yaml"))
    lines = daemon.run("fuseml", "logs", run["id"], "only").stdout.splitlines()

    assert run["state"] == "succeeded"
    assert lines[0:4] == ["demo", "code", lines[2], "data"]
    variables = dict(line.split("=", 1) for line in lines[4:])
    where, results = variables.pop("FUSEML_CODESET_DIR"), variables.pop("FUSEML_RESULTS_DIR")
    assert lines[2] == where
    assert results
    assert variables == {
        "FUSEML_MY_IN_PUT": "010 of w",
        "FUSEML_FLAG": "False",
        "FUSEML_ONE": "wins",
        "FUSEML_EMPTY": "",
        "FUSEML_LITERAL": "{{ run.id }}",
        "FUSEML_ENV_WORKFLOW_NAME": "w",
        "FUSEML_ENV_WORKFLOW_NAMESPACE": "fuseml-workloads",
        "FUSEML_ENV_RUN_ID": run["id"],
        "OWN": run["id"],
        "TASK_RESULT": "first-one",
    }
    assert run["outputs"] == {"first-one": "left", "second": "a\nb"}


def test_an_assignment_runs_now_and_for_every_commit_and_not_for_a_restart(daemon: Daemon) -> None:
    daemon.start()
    made, other = repository(daemon), repository(daemon, "other")
    first = made.commit("first")
    other.commit("other")
    daemon.drop("show.yaml", SHOW)
    daemon.drop("assign.yaml", "name: follow\nworkflow: show\ncodesets: [demo/repo, demo/other]\n")
    daemon.wait_for(lambda: len(runs_of(daemon, "show")) == 2, 20, "a run for each codeset")

    assert daemon.terminate() < 10
    daemon.start()
    second = made.commit("second")
    daemon.wait_for(lambda: len(runs_of(daemon, "show")) == 3, 20, "a run for the new commit")
    daemon.kill()
    third = made.commit("third, while the daemon is down")
    daemon.start()
    daemon.wait_for(lambda: len(runs_of(daemon, "show")) == 4, 20, "a run for the commit of meanwhile")
    for run in runs_of(daemon, "show"):
        daemon.finished(run["id"])
    (daemon.folder / "assign.yaml").unlink()
    daemon.wait_for(lambda: not daemon.documents("assign.yaml"), 10, "it to be gone")
    made.commit("fourth, which nobody follows")
    daemon.run("fuseml", "run", "show", "-i", "code=demo/other", "--wait")

    versions = [daemon.json("get", run["id"])["outputs"]["version"] for run in runs_of(daemon, "show")]
    mine = [version for version in versions if version in {first, second, third}]
    assert sorted(mine) == sorted([first, second, third])
    assert len(versions) == 5


def test_an_assignment_follows_a_folder_too(daemon: Daemon) -> None:
    daemon.start()
    source = daemon.codesets / "code"
    source.mkdir()
    (source / "version").write_text("one\n")
    daemon.drop("code.yaml", f"name: code\npath: {source}\n")
    daemon.drop("show.yaml", SHOW)
    daemon.drop("assign.yaml", "workflow: show\ncodesets: [code]\n")
    daemon.wait_for(lambda: len(runs_of(daemon, "show")) == 1, 20, "the first run")

    (source / "version").write_text("two\n")
    daemon.wait_for(lambda: len(runs_of(daemon, "show")) == 2, 20, "a run for the new content")

    latest = daemon.finished(runs_of(daemon, "show")[0]["id"])
    assert latest["outputs"]["version"].startswith("sha256:")
    log = daemon.run("fuseml", "logs", latest["id"], "only").stdout.splitlines()
    assert sorted(log) == sorted(["two", f"default code {source} default/code"])


def test_an_assignment_that_cannot_run_says_what_it_waits_for_or_what_is_wrong(daemon: Daemon) -> None:
    daemon.start()
    made = repository(daemon)
    made.commit("first")
    daemon.drop("show.yaml", SHOW)
    daemon.drop(
        "two.yaml",
        SHOW.replace("name: show", "name: two").replace(
            "type: codeset}", "type: codeset}, {name: b, type: codeset}"
        ),
    )
    await_names(daemon, "workflow", "show", "two")
    await_names(daemon, "codeset", "repo")
    expected = {
        "workflow: shw\ncodesets: [demo/repo]\n": ("waiting", "waiting for workflow shw (did you mean 'show'?)"),
        "workflow: show\ncodesets: [demo/rep]\n": ("waiting", "codeset demo/rep (did you mean 'demo/repo'?)"),
        "workflow: show\ncodesets: [demo/repo@man]\n": (
            "waiting",
            "no branch, tag or commit 'man'; did you mean 'main'?",
        ),
        "workflow: show\ncodesets: [demo/repo]\ninput: cod\n": (
            "rejected",
            "no codeset input 'cod': did you mean 'code'?",
        ),
        "workflow: two\ncodesets: [demo/repo]\n": (
            "rejected",
            "several codeset inputs (code, b): name one with `input:`",
        ),
    }

    for number, text in enumerate(expected):
        daemon.drop(f"assign{number}.yaml", text)

    def states() -> list[tuple[str, str]]:
        entries = [entry for entry in daemon.json("files") if entry["path"].startswith("assign")]
        return [(entry["state"], entry["detail"]) for entry in sorted(entries, key=lambda entry: entry["path"])]

    def as_expected() -> bool:
        pairs = zip(states(), expected.values(), strict=False)
        fits = [state == wanted and part in detail for (state, detail), (wanted, part) in pairs]
        return len(fits) == len(expected) and all(fits)

    daemon.wait_for(as_expected, 20, f"every assignment to say {list(expected.values())}")
    shown = daemon.run("fuseml", "files", "--problems").stdout
    assert "assign3.yaml:3:8: workflow 'show' has no codeset input 'cod'" in shown
    assert daemon.json("runs") == []


def test_a_codeset_outside_of_the_roots_is_refused_naming_the_setting_and_never_read(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.start()
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "version").write_text("canary-55\n")
    (daemon.codesets / "link").symlink_to(secret)
    hidden = Repository(tmp_path / "hidden")
    hidden.commit("canary-55")
    (daemon.folder / "inside").mkdir()
    (daemon.folder / "inside" / "version").write_text("inside\n")
    sources = {
        "out": f"path: {secret}",
        "up": f"path: {daemon.codesets}/../../secret",
        "linked": f"path: {daemon.codesets}/link",
        "git": f"url: {hidden.path.as_uri()}",
        "inside": "path: inside",
    }
    for name, source in sources.items():
        daemon.drop(f"codeset-{name}.yaml", f"name: {name}\n{source}\n")
    daemon.drop("show.yaml", SHOW)
    await_names(daemon, "codeset", *sources)
    await_names(daemon, "workflow", "show")

    refused = {name: ask(daemon, name) for name in ("out", "up", "linked", "git")}
    fine = ask(daemon, "inside")

    for name, run in refused.items():
        why = daemon.run("fuseml", "why", run["id"]).stdout
        assert run["state"] == "failed", name
        assert f"cannot use codeset default/{name}" in why
        assert "setting codesets.roots" in " ".join(why.split())
    shown = daemon.run("fuseml", "files").stdout
    for name, column in (("out", 7), ("up", 7), ("linked", 7), ("git", 6)):
        warning = f"codeset-{name}.yaml:2:{column}: warning: no run can use this: "
        assert warning in shown
        assert warning in daemon.journal()
    assert "codeset-inside.yaml:" not in shown
    assert fine["state"] == "succeeded"
    assert "canary-55" not in daemon.journal()


def test_codesets_are_listed_shown_and_missed_in_words(daemon: Daemon) -> None:
    daemon.start()
    made = repository(daemon)
    commit = made.commit("first")
    daemon.drop("show.yaml", SHOW)
    await_names(daemon, "codeset", "repo")
    await_names(daemon, "workflow", "show")

    before = daemon.run("fuseml", "codeset", "get", "demo/repo").stdout
    ask(daemon, "demo/repo")
    shown = daemon.run("fuseml", "codeset", "get", "demo/repo").stdout
    listed = daemon.json("codeset", "list", "--project", "demo")
    nothing = daemon.json("codeset", "list", "--project", "other")
    missed = daemon.run("fuseml", "codeset", "get", "demo/rep", check=False)
    asked = daemon.run("fuseml", "run", "show", "-i", "code=demo/rep", check=False)

    assert "no run has used it" in before
    assert commit in shown
    assert [entry["version"] for entry in listed] == [commit]
    assert nothing == []
    assert missed.returncode == 3
    assert "did you mean 'demo/repo'?" in missed.stderr
    assert asked.returncode == 2
    assert "codeset 'demo/rep': no file of" in asked.stderr
    assert "did you mean 'demo/repo'?" in asked.stderr
