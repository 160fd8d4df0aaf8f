"""The watched folder: what is read and when, what starts a run and what does not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon import Daemon

pytestmark = pytest.mark.acceptance


def workflow(name: str, command: str = "'true'", comment: str = "") -> str:
    return f"{comment}name: {name}\nsteps:\n  - name: only\n    image: host\n    command: [{command}]\n"


def gated(name: str, gate: Path, then: str = "true") -> str:
    return workflow(name, f"sh, -c, 'until test -e {gate}; do sleep 0.05; done; {then}'")


def runs_of(daemon: Daemon, name: str) -> list[dict[str, Any]]:
    return [run for run in daemon.json("runs", "--limit", "200") if run["workflow"] == name]


def in_state(daemon: Daemon, file: str, state: str) -> Callable[[], Any]:
    def reached() -> dict[str, Any] | None:
        return next((entry for entry in daemon.documents(file) if entry["state"] == state), None)

    return reached


def await_state(daemon: Daemon, file: str, state: str) -> dict[str, Any]:
    return dict(daemon.wait_for(in_state(daemon, file, state), 20, f"{file} to be {state}"))


def await_sentinel(daemon: Daemon, name: str) -> None:
    """Wait until the folder has been read: a new file after everything before it has its run."""
    daemon.drop(f"{name}.yaml", workflow(name))
    daemon.finished(daemon.run_of(f"{name}.yaml"))


def test_a_half_written_file_that_is_valid_so_far_is_not_read_until_it_is_closed(daemon: Daemon) -> None:
    daemon.start()
    file = daemon.folder / "w.yaml"

    with file.open("w") as writer:
        writer.write(workflow("w"))
        writer.flush()
        os.fsync(writer.fileno())
        half = daemon.wait_for(lambda: daemon.json("files"), 20, "the file to be noticed")[0]
        await_sentinel(daemon, "sentinel")
        early = [entry["name"] for entry in daemon.json("workflow", "list")]
        writer.write("  - name: second\n    image: host\n    command: ['true']\n")
    run = daemon.finished(daemon.run_of("w.yaml"))

    assert half["problems"][0]["message"].startswith("not read yet: a program still has it open for writing")
    assert early == ["sentinel"]
    assert [step["name"] for step in run["steps"]] == ["only", "second"]
    assert len(runs_of(daemon, "w")) == 1


def test_a_file_that_is_written_in_place_counts_when_its_writer_closes_it(daemon: Daemon) -> None:
    daemon.start(INTAKE_RESCAN_S="600")

    (daemon.folder / "w.yaml").write_text(workflow("w"))

    assert daemon.finished(daemon.run_of("w.yaml"))["state"] == "succeeded"


def test_the_order_of_arrival_does_not_matter_and_what_is_missing_is_shown(daemon: Daemon) -> None:
    daemon.start()
    source = daemon.codesets / "code"
    source.mkdir()
    (source / "data").write_text("some data\n")

    daemon.drop("a-run.yaml", "workflow: w\ninputs: {code: demo/code}\n")
    first = await_state(daemon, "a-run.yaml", "waiting")
    table = daemon.run("fuseml", "files").stdout
    daemon.drop(
        "w.yaml",
        """\
name: w
inputs: [{name: code, type: codeset}]
steps:
  - name: only
    image: host
    command: [cat, data]
    inputs: [{name: code, codeset: {name: "{{ inputs.code }}", path: /project}}]
""",
    )
    daemon.wait_for(lambda: "codeset" in daemon.file("a-run.yaml")["detail"], 10, "it to wait for the codeset")
    second = daemon.file("a-run.yaml")
    daemon.drop("code.yaml", f"name: code\nproject: demo\npath: {source}\n")
    run = daemon.finished(daemon.run_of("a-run.yaml"))

    assert first["detail"] == "waiting for workflow w"
    assert "waiting for workflow w" in table
    assert (second["state"], second["detail"]) == ("waiting", "waiting for codeset demo/code")
    assert run["state"] == "succeeded"
    assert run["project"] == "demo"
    assert daemon.run("fuseml", "logs", run["id"], "only").stdout == "some data\n"
    assert len(daemon.json("runs")) == 1


def test_only_new_content_and_a_new_drop_start_a_run(daemon: Daemon) -> None:
    daemon.start()
    file = daemon.drop("w.yaml", workflow("w"))
    request = daemon.drop("r.yaml", "workflow: asked\ninputs: {n: '1'}\n")
    daemon.drop(
        "asked.yaml", "name: asked\ninputs: [{name: n}]\nsteps:\n  - {name: a, image: host, command: ['true']}\n"
    )
    daemon.finished(daemon.run_of("w.yaml"))
    daemon.finished(daemon.run_of("r.yaml"))

    file.touch()
    request.touch()
    file.write_text(file.read_text())
    daemon.drop("w.yaml", workflow("w", comment="# now with a comment\n"))
    daemon.drop("r.yaml", '# the same, written otherwise\nworkflow: asked\ninputs:\n  n: "1"\n')
    daemon.wait_for(lambda: daemon.file("w.yaml")["line"] == 2, 10, "the new layout of w.yaml")
    daemon.wait_for(lambda: daemon.file("r.yaml")["line"] == 2, 10, "the new layout of r.yaml")
    file.rename(daemon.folder / "renamed.yaml")
    await_state(daemon, "renamed.yaml", "registered")
    (daemon.folder / "renamed.yaml").rename(file)
    await_state(daemon, "w.yaml", "registered")
    assert daemon.terminate() < 10
    daemon.start()
    await_sentinel(daemon, "after-restart")
    assert len(runs_of(daemon, "w")) == 1
    assert len(runs_of(daemon, "asked")) == 1

    daemon.drop("w.yaml", workflow("w", "echo, changed"))
    daemon.wait_for(lambda: len(runs_of(daemon, "w")) == 2, 10, "a run of the new content")
    content = request.read_text()
    request.unlink()
    daemon.wait_for(lambda: not daemon.documents("r.yaml"), 10, "the request to be gone")
    daemon.drop("r.yaml", content)
    daemon.wait_for(lambda: len(runs_of(daemon, "asked")) == 2, 10, "a run of the new drop")

    await_sentinel(daemon, "last")
    assert len(runs_of(daemon, "w")) == 2
    assert len(runs_of(daemon, "asked")) == 2


def test_what_changed_while_the_daemon_was_down_starts_one_run(daemon: Daemon) -> None:
    daemon.start()
    file = daemon.drop("w.yaml", workflow("w"))
    other = daemon.drop("gone.yaml", workflow("gone"))
    daemon.finished(daemon.run_of("w.yaml"))
    daemon.finished(daemon.run_of("gone.yaml"))

    daemon.kill()
    file.write_text(workflow("w", "echo, new"))
    other.unlink()
    daemon.start()
    daemon.wait_for(lambda: len(runs_of(daemon, "w")) == 2, 20, "a run of the new content")
    await_sentinel(daemon, "sentinel")

    assert len(runs_of(daemon, "w")) == 2
    assert [entry["name"] for entry in daemon.json("workflow", "list")] == ["sentinel", "w"]


def test_of_two_files_with_one_name_the_first_stays_and_the_second_takes_over(daemon: Daemon) -> None:
    daemon.start()
    first = daemon.drop("m-first.yaml", workflow("w", "echo, first"))
    daemon.finished(daemon.run_of("m-first.yaml"))

    daemon.drop("a-second.yaml", workflow("w", "echo, second"))
    shadowed = await_state(daemon, "a-second.yaml", "shadowed")
    daemon.kill()
    daemon.start()
    still = await_state(daemon, "a-second.yaml", "shadowed")
    before = runs_of(daemon, "w")
    first.unlink()
    await_state(daemon, "a-second.yaml", "registered")
    run = daemon.finished(daemon.run_of("a-second.yaml"))

    assert "m-first.yaml" in shadowed["detail"]
    assert still["detail"] == shadowed["detail"]
    assert len(before) == 1
    assert daemon.run("fuseml", "logs", run["id"], "only").stdout == "second\n"
    assert len(runs_of(daemon, "w")) == 2


def test_a_folder_that_is_away_unregisters_nothing_also_across_a_restart(daemon: Daemon) -> None:
    daemon.start()
    daemon.drop("w.yaml", workflow("w"))
    daemon.drop("x.yaml", "id: x\nproduct: x\nservices: [{id: s, resource: r}]\n")
    daemon.finished(daemon.run_of("w.yaml"))
    away = daemon.base / "away"

    daemon.folder.rename(away)
    daemon.wait_for(lambda: "intake.unavailable" in daemon.journal(), 20, "it to be noticed")
    listed_away = [entry["name"] for entry in daemon.json("workflow", "list")]
    shown_away = daemon.run("fuseml", "files")
    asked_away = daemon.run("fuseml", "run", "w", "--wait")
    daemon.kill()
    daemon.start()
    listed_restarted = [entry["name"] for entry in daemon.json("workflow", "list")]
    again_away = daemon.run("fuseml", "run", "w", "--wait")
    assert not daemon.folder.exists() or not list(daemon.folder.iterdir())
    if daemon.folder.exists():
        daemon.folder.rmdir()
    away.rename(daemon.folder)
    await_sentinel(daemon, "sentinel")

    assert listed_away == listed_restarted == ["w"]
    assert "w.yaml" in shown_away.stdout
    assert shown_away.stderr == f"warning: {daemon.folder} cannot be seen; what it declared stays\n"
    assert asked_away.returncode == again_away.returncode == 0
    assert [entry["name"] for entry in daemon.json("workflow", "list")] == ["sentinel", "w"]
    assert [entry["id"] for entry in daemon.json("extension", "list")] == ["x"]
    assert len(runs_of(daemon, "w")) == 3, "its own and the two that were asked for"


def test_deleting_a_file_unregisters_what_it_declared_while_its_run_goes_on(daemon: Daemon) -> None:
    daemon.start()
    gate = daemon.base / "gate"
    file = daemon.drop("w.yaml", gated("w", gate, "echo as it was"))
    run = daemon.run_of("w.yaml")
    daemon.in_state(run, "only", "running")

    file.unlink()
    daemon.wait_for(lambda: not daemon.json("workflow", "list"), 10, "the workflow to be unregistered")
    refused = daemon.run("fuseml", "run", "w", check=False)
    gate.touch()

    assert daemon.finished(run)["state"] == "succeeded"
    assert daemon.run("fuseml", "logs", run, "only").stdout == "as it was\n"
    assert refused.returncode == 3


def test_a_run_finishes_with_the_content_it_started_with(daemon: Daemon) -> None:
    daemon.start()
    gate = daemon.base / "gate"
    second = "  - {name: second, image: host, command: [echo, old]}\n"
    daemon.drop("w.yaml", gated("w", gate) + second)
    run = daemon.run_of("w.yaml")
    daemon.in_state(run, "only", "running")

    daemon.drop("w.yaml", gated("w", gate) + second.replace("old", "new"))
    daemon.wait_for(lambda: len(runs_of(daemon, "w")) == 2, 10, "the run of the new content")
    gate.touch()

    assert daemon.finished(run)["state"] == "succeeded"
    assert daemon.run("fuseml", "logs", run, "second").stdout == "old\n"


def test_odd_names_sub_folders_and_several_documents_are_read_and_hidden_files_are_not(daemon: Daemon) -> None:
    daemon.start()
    names = [
        "sp ace.yaml",
        "ümläut-日本.yml",
        "quote'\".yaml",
        "new\nline.yaml",
        "[red]x[bold].yaml",
        "-rf.yaml",
        "$(id).yaml",
    ]
    ignored = [".hidden.yaml", "backup.yaml~", "#emacs.yaml#", "x.yaml.swp", ".git/config.yaml", "notes.txt"]
    deep = "a/b/c d/deep.yaml"

    (daemon.folder / deep).parent.mkdir(parents=True)
    (daemon.folder / ".git").mkdir()
    for name in ignored:
        (daemon.folder / name).write_text(workflow("never"))
    for number, name in enumerate(names):
        (daemon.folder / name).write_text(workflow(f"odd{number}"))
    (daemon.folder / deep).write_text(f"{workflow('one')}---\n{workflow('two')}---\n# nothing\n")
    (daemon.folder / os.fsdecode(b"latin-\xe9.yaml")).write_text(workflow("latin"))
    expected = sorted([f"odd{number}" for number in range(len(names))] + ["one", "two"])
    daemon.wait_for(
        lambda: sorted(run["workflow"] for run in daemon.json("runs")) == expected, 20, "a run of every document"
    )

    not_utf8 = await_state(daemon, "latin-\\xe9.yaml", "rejected")
    files = daemon.json("files")
    table = daemon.run("fuseml", "files").stdout
    (daemon.folder / os.fsdecode(b"latin-\xe9.yaml")).unlink()
    daemon.wait_for(lambda: len(daemon.json("files")) == len(names) + 2, 10, "the refused file to be forgotten")
    assert {entry["path"] for entry in files} == {*names, deep, "latin-\\xe9.yaml"}
    assert [entry["path"] for entry in files if entry["state"] != "registered"] == ["latin-\\xe9.yaml"]
    assert "not UTF-8; rename it" in not_utf8["detail"]
    assert "[red]x[bold].yaml" in table
    assert "new\nline" not in table
    daemon.wait_for(lambda: all(run["state"] == "succeeded" for run in daemon.json("runs")), 20, "all to succeed")


def test_links_are_followed_within_the_folder_and_refused_out_of_it(daemon: Daemon) -> None:
    outside = daemon.base / "outside.yaml"
    outside.write_text(workflow("outside"))
    (daemon.base / "folder").mkdir()
    (daemon.base / "folder" / "x.yaml").write_text(workflow("in-linked-folder"))
    daemon.start()

    (daemon.folder / "link.yaml").symlink_to(outside)
    (daemon.folder / "passwd.yaml").symlink_to("/etc/passwd")
    (daemon.folder / "nowhere.yaml").symlink_to(daemon.base / "nowhere")
    (daemon.folder / "folder").symlink_to(daemon.base / "folder")
    (daemon.folder / "real.txt").write_text(workflow("inside"))
    (daemon.folder / "inside.yaml").symlink_to("real.txt")
    os.mkfifo(daemon.folder / "pipe.yaml")
    daemon.finished(daemon.run_of("inside.yaml"))
    for name in ("link.yaml", "passwd.yaml", "nowhere.yaml", "pipe.yaml"):
        await_state(daemon, name, "rejected")

    shown = daemon.run("fuseml", "files", "--problems").stdout
    assert "link.yaml:1:1: refused: the link leaves the watched folder" in shown
    assert "nowhere.yaml:1:1: refused: the link leads nowhere" in shown or "nowhere.yaml:1:1: refused" in shown
    assert "pipe.yaml:1:1: refused: it is not a regular file" in shown
    assert "root:" not in shown
    assert [entry["name"] for entry in daemon.json("workflow", "list")] == ["inside"]


def test_a_request_that_can_never_run_says_so_and_runs_once_it_is_mended(daemon: Daemon) -> None:
    daemon.start()
    daemon.drop(
        "w.yaml", "name: w\ninputs: [{name: who}]\nsteps:\n  - {name: a, image: host, command: ['true']}\n"
    )

    daemon.drop("r.yaml", "workflow: w\ninputs:\n  whom: you\n")
    rejected = await_state(daemon, "r.yaml", "rejected")
    shown = daemon.run("fuseml", "files", "--problems").stdout.splitlines()
    daemon.drop("r.yaml", "workflow: w\ninputs:\n  who: you\n")
    daemon.wait_for(lambda: daemon.file("r.yaml")["state"] != "rejected", 10, "the mended request to be read")
    run = daemon.finished(daemon.run_of("r.yaml"))

    assert shown[0] == "r.yaml:3:3: workflow 'w' has no input 'whom': did you mean 'who'?"
    assert "needs a value for its input 'who'" in shown[1]
    assert rejected["run"] is None
    assert run["inputs"] == {"who": "you"}


def test_a_folder_that_was_emptied_while_the_daemon_was_away_declares_nothing_any_more(daemon: Daemon) -> None:
    daemon.start()
    await_sentinel(daemon, "w")
    daemon.terminate()
    for file in daemon.folder.iterdir():
        file.unlink()

    daemon.start()
    daemon.wait_for(lambda: daemon.json("workflow", "list") == [], 20, "the workflow to be gone")

    assert daemon.json("files") == []
