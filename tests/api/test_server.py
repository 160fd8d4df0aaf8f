from __future__ import annotations

import json
import socket
import stat
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import anyio
import msgspec
import pytest
from anyio.from_thread import BlockingPortal
from structlog.testing import capture_logs

from fusemld.api import access, registry_views, views
from fusemld.api.client import Client, url
from fusemld.api.errors import ErrorBody
from fusemld.api.routes import ROUTES
from fusemld.api.server import BODY_LIMIT_BYTES, serve
from fusemld.model.errors import (
    ConflictError,
    ForbiddenError,
    FusemldError,
    InvalidInputError,
    NotFoundError,
    StartError,
    UnavailableError,
    UnreachableError,
)
from fusemld.model.extension import EndpointType, Scope
from fusemld.model.run import RunState, StepState
from tests.api.memory import MemoryOperations, run_view, step_view


class RawAnswer(msgspec.Struct):
    status: int
    head: str
    body: bytes


def raw(path: Path, method: str, target: str, body: bytes = b"") -> RawAnswer:
    """One request as bytes, so that what a foreign client sees is seen."""
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(head.encode() + body)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    header, _, content = received.partition(b"\r\n\r\n")
    return RawAnswer(int(header.split()[1]), header.decode(), content)


def failure(answer: RawAnswer) -> ErrorBody:
    return msgspec.json.decode(answer.body, type=ErrorBody)


@pytest.mark.parametrize("target", ["/applications/iris", "/applications/iris/"])
def test_an_application_is_deleted_with_and_without_the_references_slash(
    socket_path: Path, operations: MemoryOperations, target: str
) -> None:
    operations.application_views = [views.ApplicationView(name="iris", type="predictor", url="http://x")]

    answer = raw(socket_path, "DELETE", target)

    assert (answer.status, answer.body) == (204, b"")
    assert operations.application_views == []


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("target", ["/runnables", "/runnables/trainer"])
def test_runnables_are_gone_and_say_so(socket_path: Path, method: str, target: str) -> None:
    answer = raw(socket_path, method, target)

    assert answer.status == 410
    assert "obsolete" in failure(answer).message


def test_an_unknown_path_is_not_found_in_the_references_error_format(socket_path: Path) -> None:
    answer = raw(socket_path, "GET", "/nonsense")

    assert answer.status == 404
    assert "application/vnd.goa.error" in answer.head
    assert set(json.loads(answer.body)) == {"name", "id", "message", "temporary", "timeout", "fault"}


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", "/runs//why"), ("POST", "/runs//cancel"), ("GET", "/codesets//iris"), ("GET", "/workflows//explain")],
)
def test_a_path_with_an_empty_part_is_refused_as_that(socket_path: Path, method: str, target: str) -> None:
    answer = raw(socket_path, method, target)

    assert answer.status == 400
    assert "a part of the path is empty" in failure(answer).message


def test_a_wrong_method_is_told_the_right_ones(socket_path: Path) -> None:
    answer = raw(socket_path, "PUT", "/runs")

    assert answer.status == 405
    assert "Allow: GET,POST" in answer.head


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "truncated"),
        (b'{"workflow": "w", "input": {}}', "unknown field `input`"),
        (b'{"workflow": 1}', "Expected `str`, got `int` - at `$.workflow`"),
        (b"{}", "missing required field `workflow`"),
        (b"[" * 100_000, "cannot read the request's body"),
    ],
)
def test_a_body_of_the_wrong_shape_is_refused_and_says_where(socket_path: Path, body: bytes, words: str) -> None:
    answer = raw(socket_path, "POST", "/runs", body)

    assert answer.status == 400
    assert words in failure(answer).message


def test_a_body_over_the_limit_is_refused(socket_path: Path) -> None:
    answer = raw(socket_path, "POST", "/runs", b" " * (BODY_LIMIT_BYTES + 1))

    assert answer.status == 413


def test_an_unknown_parameter_is_refused_with_the_nearest_name(socket_path: Path) -> None:
    answer = raw(socket_path, "GET", "/runs?workflw=x")

    assert answer.status == 400
    assert "did you mean 'workflow'?" in failure(answer).message


@pytest.mark.parametrize("target", ["/runs?limit=0", "/runs?limit=1e3", "/runs?state=odd", "/runs?limit=-1"])
def test_a_parameter_with_a_wrong_value_is_refused(socket_path: Path, target: str) -> None:
    assert raw(socket_path, "GET", target).status == 400


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidInputError("cannot a"), 400),
        (NotFoundError("cannot b"), 404),
        (ConflictError("cannot c"), 409),
        (ForbiddenError("cannot d"), 403),
        (UnavailableError("cannot e"), 503),
        (StartError("cannot f"), 422),
    ],
)
def test_every_error_of_the_family_keeps_its_text_and_class_through_the_wire(
    socket_path: Path, client: Client, operations: MemoryOperations, error: FusemldError, status: int
) -> None:
    operations.raises = error

    assert raw(socket_path, "GET", "/health").status == status
    with pytest.raises(type(error), match=str(error)):
        client.get("/health", views.HealthView)


def test_a_bug_shows_an_id_and_neither_text_nor_trace(socket_path: Path, operations: MemoryOperations) -> None:
    operations.raises = RuntimeError("canary")

    answer = raw(socket_path, "GET", "/health")

    assert answer.status == 500
    assert b"canary" not in answer.body
    assert b"Traceback" not in answer.body
    assert failure(answer).fault


def test_a_run_is_started_for_the_user_at_the_other_end(client: Client, operations: MemoryOperations) -> None:
    wanted = views.StartRun(workflow="w", inputs={"a": "1"}, executor="process")

    run = client.post("/runs", views.RunView, wanted)

    assert operations.asked == [("start", "w", "{'a': '1'}", "'process'", access.user_name(0))]
    assert run == operations.run_views[run.id]


def test_runs_of_the_reference_have_its_fields_and_status(socket_path: Path, operations: MemoryOperations) -> None:
    step = views.WorkflowStepView(name="s", image="i")
    entry = views.WorkflowInputView(name="codeset", type="codeset", default="x")
    operations.workflow_views = [views.WorkflowView(name="w", inputs=(entry,), steps=(step,))]
    operations.run_views["r1"] = run_view("r1", workflow="w", state=RunState.SUCCEEDED, inputs={"codeset": "a/b"})
    operations.run_views["r2"] = run_view("r2", workflow="w")

    answer = raw(socket_path, "GET", "/workflows/runs?name=w&status=Succeeded")

    (found,) = json.loads(answer.body)
    assert found == {
        "name": "r1",
        "workflowRef": "w",
        "startTime": "2026-09-21T14:13:20Z",
        "completionTime": "2026-09-21T14:13:45Z",
        "status": "Succeeded",
        "inputs": [{"input": {"name": "codeset", "type": "codeset", "default": "x"}, "value": "a/b"}],
        "outputs": [],
    }


def test_codesets_are_filtered_by_project_and_label(client: Client, operations: MemoryOperations) -> None:
    operations.codeset_views = [
        views.CodesetView(project="a", name="one", labels=("x",)),
        views.CodesetView(project="a", name="two"),
        views.CodesetView(project="b", name="three", labels=("x",)),
    ]

    found = client.get("/codesets", tuple[views.CodesetView, ...], project="a", label="x")

    assert [each.name for each in found] == ["one"]


def test_extensions_are_selected_by_the_references_body(socket_path: Path, operations: MemoryOperations) -> None:
    s3 = registry_views.ExtensionServiceView(
        id="s3",
        resource="s3",
        endpoints=(registry_views.EndpointView(url="http://x", type=EndpointType.INTERNAL),),
        credentials=(
            registry_views.CredentialsView(id="c", scope=Scope.GLOBAL, configuration={"key": views.HIDDEN}),
        ),
    )
    operations.extension_views = [
        registry_views.ExtensionView(id="store", product="minio", services=(s3,)),
        registry_views.ExtensionView(id="other", product="minio"),
    ]

    answer = raw(socket_path, "GET", "/extensions", b'{"product": "minio", "service_resource": "s3"}')

    (found,) = json.loads(answer.body)
    assert found["id"] == "store"
    assert found["services"][0]["credentials"][0]["configuration"] == {"key": "***"}


def test_names_with_odd_characters_travel_in_paths(client: Client, operations: MemoryOperations) -> None:
    with pytest.raises(NotFoundError, match=r"codeset a b/c\?d:"):
        client.get(url("codesets", "a b", "c?d"), views.CodesetView)


def test_every_path_of_the_table_is_answered_to_a_user_who_may(socket_path: Path) -> None:
    for route in ROUTES:
        target = route.path.replace("{", "").replace("}", "")

        answer = (
            raw(socket_path, route.method, target, b"{}" if route.body else b"") if not route.changes else None
        )

        assert answer is None or answer.status not in (403, 405, 500), target


def test_somebody_else_is_refused(
    socket_path: Path, operations: MemoryOperations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "peer_of", lambda connection, rules: access.Peer(uid=12345))

    answer = raw(socket_path, "GET", "/version")

    assert answer.status == 403
    assert "neither the daemon's user nor in its group" in failure(answer).message


@pytest.mark.parametrize(("method", "path"), [("POST", "/stop"), ("POST", "/gc"), ("GET", "/backup")])
def test_an_operator_may_neither_stop_the_daemon_nor_remove_or_copy_its_data(
    socket_path: Path, operations: MemoryOperations, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    monkeypatch.setattr(access, "access_of", lambda peer, rules: access.Access.OPERATE)

    assert raw(socket_path, "GET", "/version").status == 200
    assert raw(socket_path, method, path, b"{}").status == 403
    assert operations.asked == []


def test_changes_are_told_until_the_run_is_over(
    client: Client, operations: MemoryOperations, portal: BlockingPortal
) -> None:
    portal.call(operations.put, run_view("r1"))
    told: list[RunState] = []

    for now in client.changes("r1"):
        told.append(now.state)
        portal.call(operations.put, run_view("r1", state=RunState.SUCCEEDED))

    assert told == [RunState.RUNNING, RunState.SUCCEEDED]


def test_changes_of_an_unknown_run_are_an_error_and_no_stream(client: Client) -> None:
    with pytest.raises(NotFoundError):
        next(client.changes("zzz"))


def test_a_stream_is_broken_off_at_shutdown_and_the_reader_can_tell(
    socket_folder: Path, operations: MemoryOperations, portal: BlockingPortal
) -> None:
    path = socket_folder / "s.sock"
    future, _ = portal.start_task(serve, operations, path)
    portal.call(operations.put, run_view("r1"))
    changes: Iterator[views.RunView] = Client(path).changes("r1")
    next(changes)

    threading.Thread(target=future.cancel).start()

    with pytest.raises(UnreachableError, match="lost the daemon"):
        next(changes)


def test_a_stream_that_cannot_go_on_is_broken_off_with_one_line_in_the_log(
    client: Client, operations: MemoryOperations, portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal.call(operations.put, run_view("r1"))

    async def changes(_: str | None) -> AsyncGenerator[views.RunView]:
        yield run_view("r1")
        raise UnavailableError("cannot tell every run that has ended")

    monkeypatch.setattr(operations, "changes", changes)

    with capture_logs() as logs:
        told = client.changes(None)
        assert next(told).id == "r1"
        with pytest.raises(UnreachableError, match="lost the daemon"):
            next(told)

    assert [(entry["event"], entry["log_level"], entry["error"]) for entry in logs] == [
        ("api.stream.broken_off", "warning", "cannot tell every run that has ended")
    ]


def log_file(folder: Path, step: str, attempt: int = 1, *, finished: bool = True, text: str = "") -> views.LogFile:
    path = folder / f"{step}-{attempt}.log"
    if text:
        path.write_text(text)
    return views.LogFile(step=step, attempt=attempt, path=path, finished=finished)


def read(client: Client, *args: object) -> bytes:
    return b"".join(client.logs(*args))  # type: ignore[arg-type]


def test_the_log_of_one_step_is_given_byte_for_byte(
    client: Client, operations: MemoryOperations, tmp_path: Path
) -> None:
    operations.run_views["r1"] = run_view("r1")
    text = "one\r\n\x1b[1mtwo\n" * 20_000
    files = (log_file(tmp_path, "train", text=text), log_file(tmp_path, "other", text="x\n"))
    operations.log_views["r1"] = views.LogFiles(files=files, complete=True)

    assert read(client, "r1", "train", None, False) == text.encode()


def test_the_logs_of_a_run_name_the_step_in_every_line_and_further_attempts(
    client: Client, operations: MemoryOperations, tmp_path: Path
) -> None:
    operations.run_views["r1"] = run_view("r1")
    files = (
        log_file(tmp_path, "build", text="a\nb"),
        log_file(tmp_path, "train-it", text="c\n"),
        log_file(tmp_path, "train-it", 2, text="d\n"),
    )
    operations.log_views["r1"] = views.LogFiles(files=files, complete=True)

    assert read(client, "r1", None, None, True).decode().splitlines() == [
        "build    | a",
        "build    | b",
        "train-it | c",
        "train-it | --- attempt 2 ---",
        "train-it | d",
    ]


def test_the_lines_of_logs_come_one_by_one_with_step_and_attempt(
    client: Client, operations: MemoryOperations, tmp_path: Path
) -> None:
    operations.run_views["r1"] = run_view("r1")
    files = (log_file(tmp_path, "build", text="a\n"), log_file(tmp_path, "build", 2, text="b | \n\nc"))
    files[0].path.write_bytes(b"\xff\n")
    operations.log_views["r1"] = views.LogFiles(files=files, complete=True)

    found = [(line.step, line.attempt, line.line) for line in client.log_lines("r1", None, None, True)]

    assert found == [("build", 1, "\ufffd"), ("build", 2, "b | "), ("build", 2, ""), ("build", 2, "c")]
    assert list(client.log_lines("r1", "build", None, False)) == list(client.log_lines("r1", None, None, True))


def test_a_log_is_followed_while_it_grows_and_into_the_next_attempt(
    client: Client, operations: MemoryOperations, tmp_path: Path
) -> None:
    operations.run_views["r1"] = run_view("r1")
    growing = log_file(tmp_path, "train", finished=False)
    operations.log_views["r1"] = views.LogFiles(files=(growing,), complete=False)
    chunks = client.logs("r1", "train", None, follow=True)

    growing.path.write_bytes(b"first\n")
    first = next(chunks)
    with growing.path.open("ab") as file:
        file.write(b"second\n")
    second = next(chunks)
    done = msgspec.structs.replace(growing, finished=True)
    again = log_file(tmp_path, "train", 2, text="third")
    operations.log_views["r1"] = views.LogFiles(files=(done, again), complete=True)

    assert (first, second) == (b"first\n", b"second\n")
    assert b"".join(chunks) == b"--- attempt 2 ---\nthird\n"


def test_without_follow_a_log_that_grows_is_given_as_far_as_it_is(
    client: Client, operations: MemoryOperations, tmp_path: Path
) -> None:
    operations.run_views["r1"] = run_view("r1")
    growing = log_file(tmp_path, "train", finished=False, text="so far")
    operations.log_views["r1"] = views.LogFiles(files=(growing,), complete=False)

    assert read(client, "r1", "train", None, False) == b"so far"


def test_logs_of_an_unknown_run_are_an_error_and_no_stream(client: Client) -> None:
    with pytest.raises(NotFoundError):
        read(client, "zzz", None, None, True)


def test_the_socket_is_private_and_so_is_the_folder_that_was_made_for_it(socket_path: Path) -> None:
    assert stat.S_IMODE(socket_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(socket_path.parent.stat().st_mode) == 0o700


def test_a_run_with_its_steps_travels_unchanged(client: Client, operations: MemoryOperations) -> None:
    attempt = views.AttemptView(
        number=1, reason="first", launched_at=views.moment(1.5), exit_status=3, tail="x\ny"
    )
    step = step_view("train", StepState.FAILED, duration_s=1.25, attempts=(attempt,))
    operations.run_views["r1"] = run_view("r1", steps=(step,), outputs={"a": "ü\x00"})

    assert client.get(url("runs", "latest"), views.RunView) == operations.run_views["r1"]


async def test_nothing_is_left_behind_when_the_server_is_cancelled(socket_folder: Path) -> None:
    path = socket_folder / "s.sock"

    async with anyio.create_task_group() as tasks:
        await tasks.start(serve, MemoryOperations(), path)
        assert path.exists()
        tasks.cancel_scope.cancel()

    assert not path.exists()
