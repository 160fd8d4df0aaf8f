from __future__ import annotations

import datetime as dt
import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import yaml
from anyio.from_thread import BlockingPortal

from fusemld.api import views
from fusemld.api.views import moment
from fusemld.model.problem import Problem, Severity
from fusemld.model.run import Ending, RunState, StepState
from tests.api.memory import START, MemoryOperations, run_view, step_view
from tests.cli.conftest import BIN

Cli = Callable[..., subprocess.CompletedProcess[str]]

FAILED = views.AttemptView(
    number=1,
    reason="first",
    launched_at=START,
    ending=Ending.PROGRAM_FAILED,
    message="exit status 3",
    exit_status=3,
    tail="Traceback\nKeyError: 'x'",
)


def finished() -> views.RunView:
    return run_view(
        "r1",
        state=RunState.SUCCEEDED,
        outputs={"prediction-url": "http://127.0.0.1:1/v2/models/iris/infer"},
        steps=(step_view("builder", StepState.SUCCEEDED, duration_s=6.0),),
    )


def test_without_runs_the_list_says_where_to_drop_a_request(fuseml: Cli) -> None:
    done = fuseml("runs")

    assert done.returncode == 0
    assert done.stdout == "no runs yet: drop a run request into /srv/inbox, or type `fuseml run WORKFLOW`\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("files",), "no files yet: drop"),
        (("workflow", "list"), "no workflows yet"),
        (("codeset", "list"), "no codesets yet"),
        (("application", "list"), "no applications yet"),
        (("extension", "list"), "no extensions yet"),
        (("services",), "no services"),
    ],
)
def test_an_empty_list_says_how_it_gets_filled(fuseml: Cli, args: tuple[str, ...], words: str) -> None:
    assert words in fuseml(*args).stdout
    assert json.loads(fuseml(*args, "-o", "json").stdout) == []


def test_the_list_of_runs_is_aligned_and_cuts_nothing_off(fuseml: Cli, operations: MemoryOperations) -> None:
    long = "installing " + "x" * 300
    operations.run_views["r1"] = finished()
    operations.run_views["run-two"] = run_view(
        "run-two", steps=(step_view("builder", StepState.RUNNING, activity=long),)
    )

    head, second, first = fuseml("runs").stdout.splitlines()

    assert head.split() == ["ID", "WORKFLOW", "PROJECT", "STATE", "STEPS", "STARTED", "TOOK", "NOW"]
    assert second.endswith(f"builder: {long}")
    assert first.split()[:5] == ["r1", "mlflow-e2e", "default", "succeeded", "1/1"]
    assert head.index("STATE") == second.index("running") == first.index("succeeded")


def test_json_and_yaml_hold_what_the_api_returns(fuseml: Cli, operations: MemoryOperations) -> None:
    operations.run_views["r1"] = finished()
    expected = msgspec.json.decode(msgspec.json.encode(operations.run_views["r1"]))

    assert json.loads(fuseml("get", "latest", "-o", "json").stdout) == expected
    assert yaml.safe_load(fuseml("get", "r1", "-o", "yaml").stdout) == expected


def test_a_run_shows_of_each_step_the_number_of_its_last_attempt_which_is_no_count(
    fuseml: Cli, operations: MemoryOperations
) -> None:
    tried = step_view(
        "tried", StepState.FAILED, duration_s=2.0, attempts=(FAILED, msgspec.structs.replace(FAILED, number=1002))
    )
    operations.run_views["r1"] = run_view(
        "r1", state=RunState.FAILED, steps=(tried, step_view("never", StepState.SKIPPED))
    )

    lines = [line.split() for line in fuseml("get", "r1").stdout.splitlines()]

    assert lines[-3:] == [
        ["STEP", "STATE", "ATTEMPT", "TOOK", "WHAT"],
        ["tried", "failed", "1002", "2.0s", "exit", "status", "3"],
        ["never", "skipped"],
    ]


def test_a_run_is_started_with_its_inputs(fuseml: Cli, operations: MemoryOperations) -> None:
    done = fuseml("run", "mlflow-e2e", "-i", "codeset=default/iris", "-i", "args=a=1", "--executor", "process")

    assert done.stdout == "run r1 of mlflow-e2e started; see it with: fuseml watch r1\n"
    assert operations.asked[0][:4] == (
        "start",
        "mlflow-e2e",
        "{'codeset': 'default/iris', 'args': 'a=1'}",
        "'process'",
    )


@pytest.mark.parametrize("args", [("-i", "nonsense"), ("-i", "a=1", "-i", "a=2"), ("--no-such-option",)])
def test_wrong_usage_is_exit_status_2_and_starts_nothing(
    fuseml: Cli, operations: MemoryOperations, args: tuple[str, ...]
) -> None:
    assert fuseml("run", "w", *args).returncode == 2
    assert operations.asked == []


def test_a_run_that_does_not_exist_is_exit_status_3(fuseml: Cli) -> None:
    done = fuseml("get", "zzz")

    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "fuseml: cannot find run zzz: there is no such run\n"


def test_without_a_daemon_it_is_exit_status_4_and_says_how_to_start_one(fuseml: Cli, tmp_path: Path) -> None:
    done = fuseml("--socket", str(tmp_path / "none.sock"), "runs")

    assert done.returncode == 4
    assert "it is not running; start it with `fusemld run`" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_is_no_socket_is_called_that(fuseml: Cli, tmp_path: Path, what: str) -> None:
    named = tmp_path / "named"
    named.mkdir() if what == "folder" else named.touch()

    done = fuseml("--socket", str(named), "runs")

    assert done.returncode == 4
    assert done.stderr == (
        f"fuseml: cannot reach the daemon at {named}: it is not a socket; name the daemon's with --socket\n"
    )


@pytest.mark.parametrize(
    "command", ["runs", "runs -o json", "version", "schema", "--help", "--version", "logs r1"]
)
def test_output_for_which_there_is_no_room_is_one_line(
    environment: dict[str, str], operations: MemoryOperations, tmp_path: Path, command: str
) -> None:
    operations.run_views["r1"] = finished()
    log = tmp_path / "log"
    log.write_text("x\n" * 100_000)
    files = (views.LogFile(step="builder", attempt=1, path=log, finished=True),)
    operations.log_views["r1"] = views.LogFiles(files=files, complete=True)

    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [str(BIN / "fuseml"), *command.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            check=False,
        )

    assert (done.returncode, done.stderr) == (1, "fuseml: cannot write: No space left on device\n")


def test_what_is_not_possible_now_is_exit_status_6(fuseml: Cli, operations: MemoryOperations) -> None:
    operations.run_views["r1"] = finished()

    assert fuseml("cancel", "r1").returncode == 6


def test_a_piped_watch_has_one_line_per_change_and_ends_with_the_outputs(
    environment: dict[str, str], operations: MemoryOperations, portal: BlockingPortal
) -> None:
    building = step_view("builder", StepState.RUNNING, activity="installing environment: 38 packages")
    waiting = step_view("trainer", StepState.WAITING, reason="waits for builder")
    portal.call(operations.put, run_view("r1", steps=(building, waiting)))
    command = [str(BIN / "fuseml"), "watch", "latest"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as watching:
        assert watching.stdout is not None
        first = [watching.stdout.readline() for _ in range(3)]
        built = step_view("builder", StepState.SUCCEEDED, duration_s=6.0)
        failed = step_view("trainer", StepState.FAILED, duration_s=2.0, attempts=(FAILED,))
        portal.call(operations.put, run_view("r1", state=RunState.FAILED, steps=(built, failed)))
        rest = watching.stdout.read().splitlines()

    assert [line.split(" ", 1)[1] for line in first] == [
        "run r1 of mlflow-e2e: running\n",
        "builder: running: installing environment: 38 packages\n",
        "trainer: waiting: waits for builder\n",
    ]
    assert [line.split(" ", 1)[1] for line in rest[:2]] == [
        "builder: succeeded after 6.0s",
        "trainer: failed after 2.0s: exit status 3",
    ]
    assert rest[2] == "run r1 failed after 25s"
    assert [line.strip() for line in rest[3:]] == [
        "trainer | Traceback",
        "trainer | KeyError: 'x'",
        "see: fuseml logs r1 trainer; go on from there with: fuseml retry r1",
    ]
    assert watching.returncode == 1


def test_watching_a_run_that_succeeded_is_exit_status_0_and_shows_its_outputs(
    fuseml: Cli, operations: MemoryOperations
) -> None:
    operations.run_views["r1"] = finished()

    done = fuseml("watch", "r1")

    assert done.returncode == 0
    assert done.stdout.splitlines()[-2:] == [
        "run r1 succeeded after 25s",
        "output prediction-url = http://127.0.0.1:1/v2/models/iris/infer",
    ]


def test_logs_are_passed_on_byte_for_byte(fuseml: Cli, operations: MemoryOperations, tmp_path: Path) -> None:
    operations.run_views["r1"] = finished()
    path = tmp_path / "log"
    path.write_text("Ünë\n50 %\n")
    files = (views.LogFile(step="builder", attempt=1, path=path, finished=True),)
    operations.log_views["r1"] = views.LogFiles(files=files, complete=True)

    assert fuseml("logs", "-f", "r1", "builder").stdout == "Ünë\n50 %\n"
    assert fuseml("logs", "r1").stdout == "builder | Ünë\nbuilder | 50 %\n"
    lines = [{"step": "builder", "attempt": 1, "line": line} for line in ("Ünë", "50 %")]
    assert [json.loads(line) for line in fuseml("logs", "r1", "-o", "json").stdout.splitlines()] == lines
    assert list(yaml.safe_load_all(fuseml("logs", "r1", "-o", "yaml").stdout)) == lines


def test_files_show_every_problem_as_file_line_and_column(fuseml: Cli, operations: MemoryOperations) -> None:
    problems = (
        Problem(message="unknown input 'modle'; did you mean 'model'?", line=7, column=3),
        Problem(message="given twice", line=9, column=5, severity=Severity.WARNING),
    )
    operations.file_views = [
        views.FileView(path="good.yaml", kind="workflow", name="w", state="registered"),
        views.FileView(path="bad.yaml", state="rejected", problems=problems),
    ]

    lines = fuseml("files").stdout.splitlines()

    assert lines[2].split() == ["bad.yaml", "1", "rejected", "1", "problem,", "1", "warning,", "below"]
    assert lines[3:] == [
        "bad.yaml:7:3: unknown input 'modle'; did you mean 'model'?",
        "bad.yaml:9:5: warning: given twice",
    ]


@pytest.mark.parametrize(
    ("started_ago_s", "ended_ago_s", "tail", "said"),
    [
        (9.0, None, "", "nothing was logged so far"),
        (None, 8.0, "", "nothing was logged: it was never started"),
        (9.0, 8.0, "", "nothing was logged"),
        (100_000.0, 90_000.0, "", "nothing was logged, or the log is gone"),
        (9.0, 8.0, "last words", "the log is gone"),
    ],
)
def test_where_there_is_no_log_it_is_said_why(
    fuseml: Cli,
    operations: MemoryOperations,
    tmp_path: Path,
    started_ago_s: float | None,
    ended_ago_s: float | None,
    tail: str,
    said: str,
) -> None:
    def ago(duration_s: float | None) -> dt.datetime | None:
        return None if duration_s is None else moment(time.time() - duration_s)

    made = views.AttemptView(
        number=1,
        reason="first",
        launched_at=START,
        started_at=ago(started_ago_s),
        ended_at=ago(ended_ago_s),
        tail=tail,
    )
    step = views.StepView(name="one", state=StepState.RUNNING, attempts=(made,))
    operations.run_views["r1"] = run_view("r1", steps=(step,))
    nowhere = views.LogFile(step="one", attempt=1, path=tmp_path / "none.log", finished=True)
    operations.log_views["r1"] = views.LogFiles(files=(nowhere,), complete=True)

    done = fuseml("logs", "r1", "one")

    assert done.stderr.startswith(said)
    assert done.stderr.endswith("; what happened says: fuseml why r1\n")


def test_why_says_reason_last_lines_and_what_helps(fuseml: Cli, operations: MemoryOperations) -> None:
    operations.run_views["r1"] = run_view("r1", state=RunState.FAILED)
    item = views.WhyItem(step="trainer", state=StepState.FAILED, reason="exit status 3", tail="KeyError")
    operations.why_views["r1"] = views.WhyView(
        run="r1",
        workflow="w",
        state=RunState.FAILED,
        headline="run r1 of w: trainer: exit status 3",
        items=(item,),
        next=("fuseml retry r1",),
    )

    assert fuseml("why", "r1").stdout.splitlines() == [
        "run r1 of w: trainer: exit status 3",
        "  trainer (failed): exit status 3",
        "    | KeyError",
        "next: fuseml retry r1",
    ]


def test_why_shows_the_chain_deadlines_in_words_and_what_is_wrong_besides(
    fuseml: Cli, operations: MemoryOperations
) -> None:
    operations.run_views["r1"] = run_view("r1", state=RunState.RUNNING)
    now = moment(time.time())
    queued = views.WhyItem(
        step="a",
        state=StepState.QUEUED,
        reason="waiting for a free slot",
        activity="3 steps before it; all 2 slots are taken (limits.steps = 2)",
        since=now,
        deadline=now + dt.timedelta(hours=2, seconds=30),
        then="it fails if no slot was free by then",
        attempt=2,
        attempt_reason="retry 1 of 2; before: out of memory",
    )
    waiting = [
        views.WhyItem(
            step=f"w{number}",
            state=StepState.WAITING,
            reason="waiting for b",
            waits_for=("b", "a"),
            since=now,
            then="it starts after b, or is skipped if that does not succeed",
        )
        for number in range(30)
    ]
    operations.why_views["r1"] = views.WhyView(
        run="r1",
        workflow="w",
        state=RunState.RUNNING,
        headline="run r1 of w: disk is full",
        trouble=("disk is full",),
        items=(queued, *waiting),
        next=("fuseml watch r1",),
    )

    lines = [re.sub(r"since \S+ ago", "since 1s ago", line) for line in fuseml("why", "r1").stdout.splitlines()]

    assert lines[:8] == [
        "run r1 of w: disk is full",
        "  trouble: disk is full",
        "  a (queued): waiting for a free slot; 3 steps before it; all 2 slots are taken (limits.steps = 2)",
        "    attempt 2: retry 1 of 2; before: out of memory",
        "    since 1s ago; in 2h00m it fails if no slot was free by then",
        "  w0 (waiting): waiting for b",
        "    which waits for a",
        "    since 1s ago; it starts after b, or is skipped if that does not succeed",
    ]
    assert lines[-2:] == ["  and 10 more steps that wait for those above", "next: fuseml watch r1"]


def test_why_names_the_head_of_the_chain_where_a_step_waits_for_several(
    fuseml: Cli, operations: MemoryOperations
) -> None:
    operations.run_views["r1"] = run_view("r1", state=RunState.RUNNING)
    item = views.WhyItem(
        step="s", state=StepState.WAITING, reason="waiting for a, b", waits_for=("a", "z"), then="it starts"
    )
    operations.why_views["r1"] = views.WhyView(
        run="r1", workflow="w", state=RunState.RUNNING, headline="run r1 of w: running", items=(item,)
    )

    assert fuseml("why", "r1").stdout.splitlines()[1:3] == ["  s (waiting): waiting for a, b", "    a waits for z"]


def test_text_of_others_cannot_steer_the_terminal(fuseml: Cli, operations: MemoryOperations) -> None:
    evil = "\x1b]0;owned\x07\nsecond line"
    operations.run_views["r1"] = run_view("r1", state=RunState.FAILED, message=evil, outputs={"x": evil})

    for command in ("runs", "get r1", "watch r1"):
        assert "\x1b" not in fuseml(*command.split()).stdout


def test_an_application_that_is_deleted_is_gone(fuseml: Cli, operations: MemoryOperations) -> None:
    operations.application_views = [views.ApplicationView(name="iris", type="predictor", url="http://x")]

    assert fuseml("application", "delete", "iris").stdout == "application iris is deleted\n"
    assert fuseml("application", "delete", "iris").returncode == 3


def test_what_was_deleted_is_told_to_programs_as_it_goes(fuseml: Cli, operations: MemoryOperations) -> None:
    operations.application_views = [
        views.ApplicationView(name=name, type="predictor", url="http://x", copies=("s3://m/iris",))
        for name in ("one", "two", "three")
    ]

    done = fuseml("application", "delete", "one", "two", "four", "-o", "json")
    orphaned = fuseml("application", "delete", "--orphan", "three", "-o", "yaml")

    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"name": "one", "left": []},
        {"name": "two", "left": []},
    ]
    assert done.returncode == 3
    assert yaml.safe_load(orphaned.stdout) == {"name": "three", "left": ["s3://m/iris"]}


def test_an_application_whose_cluster_is_gone_is_deleted_by_leaving_what_is_there(
    fuseml: Cli, operations: MemoryOperations
) -> None:
    left = views.ObjectView(name="iris", kind="InferenceService")
    made = views.ApplicationView(
        name="iris", type="predictor", url="http://x", k8s_resources=(left,), copies=("s3://m/iris",)
    )
    operations.application_views = [made]

    said = fuseml("application", "delete", "--orphan", "iris").stdout

    assert (
        said
        == "application iris is deleted\nleft where it is: InferenceService/iris\nleft where it is: s3://m/iris\n"
    )
    assert operations.orphaned == ["iris"]


def test_lint_needs_no_daemon_and_names_file_line_and_column(fuseml: Cli, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: w\nsteps:\n  - name: a\n    image: x\n    colour: red\n")

    done = fuseml("lint", str(bad), FUSEMLD_SOCKET="/nonexistent")

    assert done.returncode == 1
    assert done.stdout.startswith(f"{bad}:5:5: ")
    assert "colour" in done.stdout
    assert done.stderr == "1 file checked: 1 error, 0 warnings\n"


def test_lint_reads_of_a_folder_what_a_daemon_would(fuseml: Cli, tmp_path: Path) -> None:
    for name in ("w.yaml", "sub/x.yml", ".git/hook.yaml", ".#w.yaml", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(
            "name: w\nsteps: [{name: a, image: x}]\n" if name in ("w.yaml", "sub/x.yml") else "{"
        )

    done = fuseml("lint", str(tmp_path))

    assert done.stderr.startswith("2 files checked: ")


@pytest.mark.parametrize("named", ["pipe.yaml", "."])
def test_lint_does_not_wait_for_what_is_no_file(fuseml: Cli, tmp_path: Path, named: str) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")

    done = fuseml("lint", str(tmp_path / named))

    assert done.returncode == 1
    assert done.stdout == f"{tmp_path / 'pipe.yaml'}:1:1: cannot read this file: it is not a regular file\n"


def test_lint_reads_what_the_shell_has_opened_for_it(environment: dict[str, str]) -> None:
    line = f"{BIN / 'fuseml'} lint <(echo '{{')"

    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, check=False)

    assert done.stdout.startswith("/dev/fd/")
    assert "regular" not in done.stdout


def test_lint_finds_credentials_where_they_would_be_seen_if_it_has_the_records(
    fuseml: Cli, tmp_path: Path
) -> None:
    workflow, record = tmp_path / "a.yaml", tmp_path / "b.yaml"
    workflow.write_text(
        "name: w\nsteps:\n  - name: a\n    image: host\n"
        "    command: [echo, '{{ extensions.v.cfg.TOKEN }}']\n    extensions: [{name: v, product: vault}]\n"
    )
    record.write_text(
        "id: vault\nproduct: vault\nservices: [{id: s, credentials: [{id: c, configuration: {TOKEN: x}}]}]\n"
    )

    alone, together = fuseml("lint", str(workflow)), fuseml("lint", str(tmp_path))

    assert alone.returncode == 0
    assert together.returncode == 1
    assert together.stdout.startswith(f"{workflow}:5:")
    assert "extensions.v.cfg.TOKEN comes from credentials and would be seen in command" in together.stdout


def test_lint_of_a_good_file_is_silent_on_standard_output(fuseml: Cli) -> None:
    done = fuseml("lint", "-", stdin="name: w\nsteps:\n  - name: a\n    image: x\n")

    assert (done.returncode, done.stdout) == (0, "")


def test_lint_of_a_file_that_is_not_there_is_a_problem_of_that_file(fuseml: Cli, tmp_path: Path) -> None:
    done = fuseml("lint", str(tmp_path / "none.yaml"))

    assert done.returncode == 1
    assert "none.yaml:1:1: cannot read this file: No such file or directory" in done.stdout


def test_the_version_is_shown_with_and_without_a_daemon(fuseml: Cli, tmp_path: Path) -> None:
    with_daemon = json.loads(fuseml("version", "-o", "json").stdout)
    without = fuseml("version", "--socket", str(tmp_path / "none"))

    assert with_daemon["client"] == with_daemon["daemon"]["version"]
    assert without.returncode == 0
    assert "cannot reach the daemon" in without.stdout


def test_the_version_of_the_client_is_an_option_too(fuseml: Cli) -> None:
    assert fuseml("--version").stdout.strip() == json.loads(fuseml("version", "-o", "json").stdout)["client"]


def test_help_lists_every_command_without_importing_it(fuseml: Cli) -> None:
    from fusemld.cli.fuseml import cli

    shown = fuseml("--help").stdout

    assert all(f"\n  {name}  " in shown for name in cli.list_commands(None))  # type: ignore[arg-type]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_completion_script_is_printed(fuseml: Cli, shell: str) -> None:
    assert "_FUSEML_COMPLETE" in fuseml("completion", shell).stdout


def test_runs_are_completed_from_the_daemon(fuseml: Cli, operations: MemoryOperations) -> None:
    operations.run_views["r1"] = finished()

    done = fuseml(_FUSEML_COMPLETE="bash_complete", COMP_WORDS="fuseml get r", COMP_CWORD="2")

    assert "plain,r1" in done.stdout
