"""What is remembered of documents that are no more, and of those that a restored database does not know."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from fusemld.intake.catalog import Catalog
from fusemld.intake.snapshot import FileState, Scan
from fusemld.model.document import HELD, DocumentState, Restoration
from tests.intake.conftest import Inbox, report

Text = Callable[..., str]

RESTORATION = Restoration(at=100.0, why="the database was restored")


def scanned(inbox: Inbox, changed_at: float, **files: str) -> list[str]:
    """A scan of files (`name.yaml`) that were changed at that time."""
    reports = []
    for name, text in files.items():
        state = FileState(file=f"{name}.yaml", inode=1, size_bytes=1, mtime_ns=0, ctime_ns=int(changed_at * 1e9))
        reports.append(msgspec.structs.replace(report(f"{name}.yaml", text), state=state))
    return inbox.take(Scan(files=tuple(reports)))


def forgetful(inbox: Inbox) -> list[str]:
    """All that may be forgotten is."""
    keys = inbox.catalog.removed()
    for key in inbox.catalog.forget(keys).forgotten:
        del inbox.rows[key]
    return sorted(keys)


def test_a_removed_document_can_be_forgotten_and_runs_again_when_it_is_dropped_again(
    inbox: Inbox, workflow: Text
) -> None:
    inbox.scan(write={"a.yaml": workflow(), "b.yaml": workflow("stays")})
    inbox.scan(remove=("a.yaml",))

    assert forgetful(inbox) == ["workflow/hello"]
    assert sorted(inbox.rows) == ["workflow/stays"]
    assert inbox.scan(write={"a.yaml": workflow()}) == ["workflow/hello"]
    assert inbox.rows["workflow/hello"].generation == 1


def test_what_a_broken_file_declared_is_not_forgotten_so_its_repair_runs_nothing_again(
    inbox: Inbox, workflow: Text
) -> None:
    inbox.scan(write={"a.yaml": workflow()})
    inbox.scan(write={"a.yaml": "steps: ["})

    assert forgetful(inbox) == []
    assert inbox.scan(write={"a.yaml": workflow()}) == []


def test_nothing_that_is_there_is_forgotten(inbox: Inbox, workflow: Text) -> None:
    inbox.scan(write={"a.yaml": workflow()})

    update = inbox.catalog.forget(["workflow/hello"])

    assert (update.forgotten, update.records) == ((), ())
    assert inbox.catalog.record("workflow/hello") is not None


def test_a_file_is_done_once_all_of_it_are_requests_that_have_had_their_run(
    inbox: Inbox, workflow: Text, request_for: Text
) -> None:
    requests = f"{request_for('hello', '{}')}\n---\n{request_for('later', '{}')}"
    inbox.scan(write={"w.yaml": workflow(), "one.yaml": request_for("hello", "{}"), "two.yaml": requests})

    done = [file for file in ("w.yaml", "one.yaml", "two.yaml", "none.yaml") if inbox.catalog.is_done(file)]
    inbox.scan(write={"later.yaml": workflow("later")})

    assert done == ["one.yaml"]
    assert inbox.catalog.is_done("two.yaml")


def test_a_file_with_a_problem_is_never_done(inbox: Inbox, workflow: Text, request_for: Text) -> None:
    inbox.scan(write={"w.yaml": workflow(), "one.yaml": request_for("hello", "{}")})
    inbox.scan(write={"one.yaml": "{kind: run, workflow: hello, nonsense: 1}"})

    assert not inbox.catalog.is_done("one.yaml")


def test_what_an_older_file_asks_for_is_not_run_after_a_restoration(
    inbox: Inbox, workflow: Text, train: str, codeset: Text, request_for: Text
) -> None:
    inbox.catalog = Catalog(restoration=RESTORATION)

    started = scanned(
        inbox, 99.0, w=workflow(), t=train, c=codeset(), old=request_for(inputs="{code: lab/digits}")
    )
    later = scanned(inbox, 101.0, new=request_for(inputs="{code: lab/digits}"))

    assert started == []
    assert later == ["run/new.yaml#0"]
    assert inbox.rows["workflow/hello"].state is DocumentState.WAITING
    assert "not run: the database was restored" in inbox.state("run/old.yaml#0")
    assert inbox.rows["workflow/train"].state is DocumentState.ACCEPTED


def test_what_was_not_run_stays_so_whatever_is_restarted_until_it_is_dropped_again(
    inbox: Inbox, workflow: Text
) -> None:
    inbox.catalog = Catalog(restoration=RESTORATION)
    scanned(inbox, 99.0, w=workflow())

    inbox.catalog = Catalog(inbox.rows.values(), restoration=RESTORATION)
    again = scanned(inbox, 99.0, w=workflow())
    inbox.take(Scan(removed=("w.yaml",)))
    dropped = scanned(inbox, 101.0, w=workflow())

    assert again == []
    assert dropped == ["workflow/hello"]


def test_an_assignment_takes_the_first_version_after_a_restoration_as_run(
    inbox: Inbox, train: str, codeset: Text, assignment: Text
) -> None:
    inbox.catalog = Catalog(restoration=RESTORATION)
    scanned(inbox, 99.0, t=train, c=codeset(), a=assignment())
    assert inbox.rows["assignment/nightly"].started_versions == {"lab/digits": HELD}

    first = inbox.seen("lab/digits", "1111111")
    second = inbox.seen("lab/digits", "2222222")

    assert first == []
    assert second == ["assignment/nightly"]


def test_an_assignment_that_asks_for_something_else_is_run_at_once(
    inbox: Inbox, train: str, codeset: Text, assignment: Text
) -> None:
    inbox.catalog = Catalog(restoration=RESTORATION)
    scanned(inbox, 99.0, t=train, c=codeset(), a=assignment())

    scanned(inbox, 101.0, a=assignment(inputs="{rounds: 9}"))

    assert inbox.seen("lab/digits", "1111111") == ["assignment/nightly"]
