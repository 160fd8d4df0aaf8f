"""The catalog: names, generations, waiting, and what survives a restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from fusemld.intake.catalog import Catalog, DueRun
from fusemld.intake.snapshot import FileReport, Scan
from fusemld.model.document import DocumentRecord, Kind
from fusemld.model.problem import Problem

Text = Callable[..., str]


class Inbox(Protocol):
    rows: dict[str, DocumentRecord]
    files: dict[str, str]
    started: list[DueRun]
    catalog: Catalog
    refused: Callable[[DueRun], bool]

    def scan(self, *, write: dict[str, str] | None = None, remove: tuple[str, ...] = ()) -> list[str]: ...
    def take(self, scan: Scan) -> list[str]: ...
    def seen(self, name: str, version: str, problem: str = "") -> list[str]: ...
    def restart(self) -> list[str]: ...
    def state(self, key: str) -> str: ...


def test_a_workflow_whose_inputs_have_values_runs_once(inbox: Inbox, workflow: Text) -> None:
    first = inbox.scan(write={"a.yaml": workflow()})
    again = inbox.scan(write={"a.yaml": workflow()})

    assert (first, again) == (["workflow/hello"], [])
    assert inbox.started[0].user == "ann"


def test_another_layout_is_no_news_and_other_content_is(inbox: Inbox, workflow: Text) -> None:
    inbox.scan(write={"a.yaml": workflow()})

    assert inbox.scan(write={"a.yaml": "# a comment\n" + workflow()}) == []
    assert inbox.scan(write={"a.yaml": workflow(text="new")}) == ["workflow/hello"]
    assert inbox.rows["workflow/hello"].generation == 2


def test_a_document_that_comes_back_runs_again(inbox: Inbox, workflow: Text) -> None:
    inbox.scan(write={"a.yaml": workflow()})

    inbox.scan(remove=("a.yaml",))

    assert not inbox.catalog.registered(Kind.WORKFLOW)
    assert not inbox.rows["workflow/hello"].present
    assert inbox.scan(write={"b.yaml": workflow()}) == ["workflow/hello"]


def test_a_restart_starts_nothing(
    inbox: Inbox, workflow: Text, train: str, codeset: Text, request_for: Text
) -> None:
    inbox.scan(write={"a.yaml": workflow(), "b.yaml": f"{train}\n---\n{codeset()}\n---\n{request_for()}"})
    rows = dict(inbox.rows)

    assert inbox.restart() == []
    assert inbox.rows == rows


def test_what_was_due_before_a_kill_starts_after_the_restart(inbox: Inbox, workflow: Text) -> None:
    inbox.scan(write={"a.yaml": workflow()})
    row = inbox.rows["workflow/hello"]

    catalog = Catalog([msgspec.structs.replace(row, started_generation=0)])

    assert [run.document for run in catalog.due()] == ["workflow/hello"]


def test_what_went_while_the_daemon_was_down_is_unregistered(inbox: Inbox, workflow: Text) -> None:
    inbox.scan(write={"a.yaml": workflow(), "b.yaml": workflow("other")})
    del inbox.files["a.yaml"]

    assert inbox.restart() == []
    assert set(inbox.catalog.registered(Kind.WORKFLOW)) == {"other"}


def test_what_a_restart_remembers_is_in_force_before_its_file_is_read(
    inbox: Inbox, train: str, codeset: Text
) -> None:
    inbox.scan(write={"a.yaml": f"{train}\n---\n{codeset()}"})

    catalog = Catalog(inbox.rows.values())

    assert set(catalog.registered(Kind.WORKFLOW)) == {"train"}
    assert (
        catalog.registered(Kind.WORKFLOW)["train"].declared
        == inbox.catalog.registered(Kind.WORKFLOW)["train"].declared
    )
    assert set(catalog.registered(Kind.CODESET)) == {"lab/digits"}
    assert catalog.files == ("a.yaml",)


def test_the_first_of_two_that_declare_a_name_stays_and_the_second_takes_over(
    inbox: Inbox, workflow: Text
) -> None:
    inbox.scan(write={"b.yaml": workflow()})

    assert inbox.scan(write={"a.yaml": workflow(text="mine")}) == []
    assert inbox.state("shadowed/a.yaml#0") == "shadowed: workflow 'hello' is declared by b.yaml already"
    assert inbox.restart() == []
    assert inbox.rows["workflow/hello"].file == "b.yaml"
    assert inbox.scan(remove=("b.yaml",)) == ["workflow/hello"]
    assert "shadowed/a.yaml#0" not in inbox.rows
    assert inbox.rows["workflow/hello"].file == "a.yaml"


def test_an_equal_copy_that_takes_over_does_not_run_again(inbox: Inbox, workflow: Text) -> None:
    inbox.scan(write={"a.yaml": workflow()})
    inbox.scan(write={"b.yaml": workflow()})

    assert inbox.scan(remove=("a.yaml",)) == []


def test_renaming_a_file_starts_nothing(
    inbox: Inbox, workflow: Text, train: str, codeset: Text, request_for: Text
) -> None:
    text = f"{train}\n---\n{codeset()}\n---\n{request_for()}\n---\n{workflow()}"
    inbox.scan(write={"a.yaml": text})

    assert inbox.scan(write={"b.yaml": text}, remove=("a.yaml",)) == []


def test_a_copied_run_request_is_another_request(
    inbox: Inbox, train: str, codeset: Text, request_for: Text
) -> None:
    inbox.scan(write={"w.yaml": f"{train}\n---\n{codeset()}", "a.yaml": request_for()})

    assert inbox.scan(write={"b.yaml": request_for()}) == ["run/b.yaml#0"]


def test_a_request_put_before_others_does_not_run_them_again(
    inbox: Inbox, train: str, codeset: Text, request_for: Text
) -> None:
    one, two = (
        request_for(inputs="{code: lab/digits, rounds: 1}"),
        request_for(inputs="{code: lab/digits, rounds: 2}"),
    )
    inbox.scan(write={"w.yaml": f"{train}\n---\n{codeset()}", "a.yaml": one})

    assert inbox.scan(write={"a.yaml": f"{two}\n---\n{one}"}) == ["run/a.yaml#0~2"]
    assert inbox.scan(write={"a.yaml": one}) == []
    assert inbox.restart() == []


def test_a_changed_request_runs_again(inbox: Inbox, train: str, codeset: Text, request_for: Text) -> None:
    inbox.scan(write={"w.yaml": f"{train}\n---\n{codeset()}", "a.yaml": request_for()})

    again = inbox.scan(write={"a.yaml": request_for(inputs="{code: lab/digits, rounds: 9}")})

    assert again == ["run/a.yaml#0"]
    assert inbox.started[-1].generation == 2
    assert inbox.started[-1].start.inputs == {"code": "lab/digits", "rounds": "9"}


def test_a_request_waits_for_its_workflow_and_then_its_codeset(
    inbox: Inbox, train: str, codeset: Text, request_for: Text
) -> None:
    inbox.scan(write={"a.yaml": request_for()})
    assert inbox.state("run/a.yaml#0") == "waiting: waiting for workflow train"

    inbox.scan(write={"w.yaml": train})
    assert inbox.state("run/a.yaml#0") == "waiting: waiting for codeset lab/digits"

    assert inbox.scan(write={"c.yaml": codeset()}) == ["run/a.yaml#0"]
    assert inbox.state("run/a.yaml#0") == "accepted"
    assert inbox.started[0].start.project == "lab"


def test_a_request_that_can_never_run_says_all_that_is_wrong(inbox: Inbox, train: str, request_for: Text) -> None:
    inbox.scan(write={"w.yaml": train, "a.yaml": "\n\n" + request_for(inputs="{round: 2, rounds: many}")})

    row = inbox.rows["run/a.yaml#0"]
    assert [problem.at(row.file) for problem in row.problems] == [
        "a.yaml:3:39: workflow 'train' has no input 'round': did you mean 'rounds'?",
        "a.yaml:3:49: input 'rounds': 'many' is not an int: write a whole number such as 10",
        "a.yaml:3:1: workflow 'train' needs a value for its input 'code' (codeset)",
    ]


def test_a_broken_file_stops_declaring_and_its_repair_starts_nothing(inbox: Inbox, workflow: Text) -> None:
    inbox.scan(write={"a.yaml": workflow()})

    inbox.scan(write={"a.yaml": workflow() + "nonsense: 1\n"})
    assert not inbox.catalog.registered(Kind.WORKFLOW)
    assert inbox.rows["file/a.yaml"].problems

    assert inbox.restart() == []
    assert inbox.scan(write={"a.yaml": workflow()}) == []
    assert "file/a.yaml" not in inbox.rows
    assert set(inbox.catalog.registered(Kind.WORKFLOW)) == {"hello"}


def test_a_broken_file_that_is_removed_and_comes_back_whole_runs_again(inbox: Inbox, workflow: Text) -> None:
    inbox.scan(write={"a.yaml": workflow()})
    inbox.scan(write={"a.yaml": "nonsense"})

    inbox.scan(remove=("a.yaml",))

    assert inbox.scan(write={"a.yaml": workflow()}) == ["workflow/hello"]


def test_a_file_that_cannot_be_read_keeps_what_it_declared(inbox: Inbox, workflow: Text) -> None:
    inbox.scan(write={"a.yaml": workflow()})

    problem = Problem(message="cannot read the file: Permission denied")
    inbox.take(Scan(files=(FileReport(file="a.yaml", problems=(problem,), readable=False),)))

    assert inbox.state("file/a.yaml") == "unavailable: cannot read the file: Permission denied"
    assert set(inbox.catalog.registered(Kind.WORKFLOW)) == {"hello"}
    assert inbox.scan(write={"a.yaml": workflow()}) == []
    assert "file/a.yaml" not in inbox.rows


def test_a_folder_that_vanishes_changes_nothing(inbox: Inbox, workflow: Text) -> None:
    inbox.scan(write={"a.yaml": workflow()})
    rows = dict(inbox.rows)

    inbox.take(Scan(available=False, warning="cannot look"))

    assert inbox.rows == rows
    assert not inbox.catalog.available


def test_an_assignment_runs_once_for_each_version_of_each_codeset(
    inbox: Inbox, train: str, codeset: Text, assignment: Text
) -> None:
    inbox.scan(write={"w.yaml": f"{train}\n---\n{codeset()}\n---\n{codeset('faces')}"})
    inbox.scan(write={"a.yaml": assignment("[lab/digits, lab/faces]")})
    assert inbox.state("assignment/nightly").startswith("waiting: waiting for the version of codeset lab/digits")

    assert inbox.seen("lab/digits", "c1") == ["assignment/nightly"]
    assert inbox.seen("lab/digits", "c1") == []
    assert inbox.seen("lab/faces", "f1") == ["assignment/nightly"]
    assert inbox.seen("lab/digits", "c2") == ["assignment/nightly"]
    assert [(run.start.reference, run.version) for run in inbox.started] == [
        ("lab/digits", "c1"),
        ("lab/faces", "f1"),
        ("lab/digits", "c2"),
    ]
    assert len({run.cause for run in inbox.started}) == 3
    inbox.restart()
    assert inbox.seen("lab/digits", "c2") == []
    assert inbox.state("assignment/nightly").endswith("version of codeset lab/faces")


def test_of_two_codesets_one_can_fail_to_start(inbox: Inbox, train: str, codeset: Text, assignment: Text) -> None:
    """The row of the other says nothing about it."""
    inbox.scan(write={"w.yaml": f"{train}\n---\n{codeset()}\n---\n{codeset('faces')}"})
    inbox.refused = lambda run: run.start.reference == "lab/digits"
    inbox.scan(write={"a.yaml": assignment("[lab/digits, lab/faces]")})

    assert inbox.seen("lab/digits", "c1") == []
    assert inbox.state("assignment/nightly").endswith("a bug")
    assert inbox.seen("lab/faces", "f1") == ["assignment/nightly"]
    assert inbox.seen("lab/digits", "c1") == []
    inbox.refused = _nothing
    inbox.restart()
    assert inbox.seen("lab/faces", "f1") == []
    assert inbox.seen("lab/digits", "c1") == ["assignment/nightly"]
    assert inbox.state("assignment/nightly") == "accepted"


def test_naming_one_more_codeset_does_not_run_the_others_again_but_other_inputs_do(
    inbox: Inbox, train: str, codeset: Text, assignment: Text
) -> None:
    inbox.scan(write={"w.yaml": f"{train}\n---\n{codeset()}\n---\n{codeset('faces')}", "a.yaml": assignment()})
    inbox.seen("lab/digits", "c1")

    assert inbox.scan(write={"a.yaml": assignment("[lab/digits, lab/faces]")}) == []
    assert inbox.scan(write={"a.yaml": assignment(inputs="{rounds: 5}")}) == ["assignment/nightly"]


def test_a_codeset_that_cannot_be_polled_says_so(
    inbox: Inbox, train: str, codeset: Text, assignment: Text
) -> None:
    inbox.scan(write={"w.yaml": f"{train}\n---\n{codeset()}", "a.yaml": assignment()})

    inbox.seen("lab/digits", "", "cannot read it: no route")

    assert inbox.state("assignment/nightly") == "waiting: cannot read it: no route"


STEPS = "steps: [{name: s, image: host, command: ['true']}]\n"
ASKS_ONE = "kind: run\nworkflow: one\ninputs: {}\n"

names = st.sampled_from(["a.yaml", "b.yaml", "sub/c.yaml"])
texts = st.sampled_from(
    [
        f"name: one\n{STEPS}",
        f"name: one\ndescription: other\n{STEPS}",
        f"name: two\n{STEPS}",
        ASKS_ONE,
        "kind: run\nworkflow: two\ninputs: {}\n",
        f"{ASKS_ONE}---\n{ASKS_ONE}---\nname: one\n{STEPS}",
        "name: [broken",
        "",
    ]
)
actions = st.one_of(
    st.tuples(st.just("write"), names, texts),
    st.tuples(st.just("remove"), names),
    st.tuples(st.just("restart")),
    st.tuples(st.just("rename"), names, names),
)


def _everything(_: DueRun) -> bool:
    return True


def _nothing(_: DueRun) -> bool:
    return False


def act(inbox: Inbox, action: tuple[str, ...]) -> None:
    match action:
        case ("write", file, text):
            inbox.scan(write={file: text})
        case ("remove", file) if file in inbox.files:
            inbox.scan(remove=(file,))
        case ("rename", old, new) if old in inbox.files and new not in inbox.files:
            inbox.scan(write={new: inbox.files[old]}, remove=(old,))
        case ("restart",):
            inbox.restart()
        case _:
            pass


@settings(max_examples=150, deadline=None)
@given(st.lists(actions, max_size=25))
def test_whatever_happens_no_generation_starts_twice_and_rows_tell_the_truth(
    new_inbox: Callable[[], Inbox], story: list[tuple[str, ...]]
) -> None:
    inbox = new_inbox()

    for action in story:
        before = len(inbox.started)
        act(inbox, action)
        assert action != ("restart",) or len(inbox.started) == before

    starts = [(run.document, run.generation) for run in inbox.started]
    assert len(starts) == len(set(starts))
    assert {row.key: row for row in inbox.catalog.records} == inbox.rows
    present = [row for row in inbox.rows.values() if row.present]
    assert {row.file for row in present} == set(inbox.files)
    holders = [row.name for row in present if row.key.startswith("workflow/")]
    assert sorted(holders) == sorted(inbox.catalog.registered(Kind.WORKFLOW))


@settings(max_examples=150, deadline=None)
@given(st.lists(actions | st.tuples(st.just("bug")), max_size=25))
def test_what_could_not_be_started_is_by_the_next_daemon_whatever_happens_meanwhile(
    new_inbox: Callable[[], Inbox], story: list[tuple[str, ...]]
) -> None:
    """From one `bug` to the next nothing can be started."""
    inbox, sane = new_inbox(), new_inbox()

    has_bug = False
    for action in story:
        if action == ("bug",):
            has_bug = not has_bug
            inbox.refused = _everything if has_bug else _nothing
        act(inbox, action)
        act(sane, action)
    inbox.refused = _nothing
    inbox.restart()

    had_their_run = [
        {row.key for row in each.rows.values() if row.present and 0 < row.generation <= row.started_generation}
        for each in (inbox, sane)
    ]
    assert had_their_run[0] == had_their_run[1]
    starts = [(run.document, run.generation) for run in inbox.started]
    assert len(starts) == len(set(starts))


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(4)), st.booleans())
def test_the_order_of_arrival_does_not_matter(
    new_inbox: Callable[[], Inbox],
    order: list[int],
    with_restarts: bool,
) -> None:
    files = [
        "name: w\ninputs: [{name: c, type: codeset}]\nsteps: [{name: s, image: host, args: ['{{ inputs.c }}']}]\n",
        "{kind: codeset, name: digits, url: 'https://example.org/x.git'}",
        "{kind: run, workflow: w, inputs: {c: digits}}",
        "{kind: run, workflow: v, inputs: {}}\n---\nname: v\nsteps: [{name: s, image: host, command: ['true']}]\n",
    ]
    inbox = new_inbox()

    for number in order:
        inbox.scan(write={f"{number}.yaml": files[number]})
        if with_restarts:
            inbox.restart()

    assert sorted(run.document for run in inbox.started) == ["run/2.yaml#0", "run/3.yaml#0", "workflow/v"]
