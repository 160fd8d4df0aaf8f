"""Rows that a daemon finds in its database and cannot read."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fusemld.intake.catalog import Catalog
from fusemld.intake.snapshot import FileReport, Scan
from fusemld.model.document import DocumentState, Kind
from fusemld.model.problem import Problem
from tests.intake.conftest import report

Text = Callable[..., str]

WHY = "cannot read the entry"
HELLO = "name: hello\nsteps: [{name: one, image: host, command: [TEXT]}]\n"
REQUEST = "{kind: run, workflow: other, inputs: {}}\n"
OTHER = HELLO.replace("hello", "other")


def catalog_without(*unreadable: str, readable: Catalog | None = None) -> Catalog:
    rows = [] if readable is None else [row for row in readable.records if row.key not in unreadable]
    return Catalog(rows, unreadable=dict.fromkeys(unreadable, WHY))


@pytest.mark.parametrize(
    ("key", "texts"),
    [
        ("workflow/hello", {"a.yaml": HELLO}),
        ("run/a.yaml#0", {"a.yaml": REQUEST, "b.yaml": OTHER}),
    ],
)
def test_what_claims_its_key_starts_nothing_and_is_not_written(key: str, texts: dict[str, str]) -> None:
    first = Catalog()
    first.apply(Scan(files=tuple(report(file, text) for file, text in texts.items())))
    for due in first.due():
        first.started(due, first.starting(due))
    second = catalog_without(key, readable=first)

    again = second.apply(Scan(files=tuple(report(file, text) for file, text in texts.items())))
    changed = second.apply(Scan(files=(report("a.yaml", texts["a.yaml"].replace("TEXT", "else")),)))

    assert second.due() == ()
    assert key not in [row.key for row in (*again.records, *changed.records)]
    row = second.record(key)
    assert row is not None
    assert (row.state, row.detail) == (DocumentState.WAITING, f"starts no run: {WHY}")
    assert not second.is_done("a.yaml")


def test_of_equal_requests_in_a_file_none_is_taken_for_new_because_the_row_of_another_cannot_be_read() -> None:
    files = (report("a.yaml", REQUEST + "---\n" + REQUEST), report("b.yaml", OTHER))
    first = Catalog()
    first.apply(Scan(files=files))
    for due in first.due():
        first.started(due, first.starting(due))
    second = catalog_without("run/a.yaml#0", readable=first)

    second.apply(Scan(files=files))
    in_doubt = second.due()
    second.apply(Scan(files=(report("new.yaml", REQUEST),)))

    assert in_doubt == ()
    assert [due.document for due in second.due()] == ["run/new.yaml#0"]


def test_an_assignment_whose_row_cannot_be_read_starts_nothing(train: str, codeset: Text) -> None:
    assignment = "{kind: assignment, name: nightly, workflow: train, codesets: [lab/code]}"
    catalog = catalog_without("assignment/nightly")
    catalog.apply(Scan(files=(report("a.yaml", f"{train}\n---\n{codeset('code')}\n---\n{assignment}"),)))

    (polled,) = catalog.polled()
    catalog.codeset_seen(polled, "v1")

    assert catalog.due() == ()


def test_its_document_is_in_force_for_others() -> None:
    catalog = catalog_without("workflow/other")

    catalog.apply(Scan(files=(report("b.yaml", OTHER), report("a.yaml", REQUEST))))

    assert set(catalog.registered(Kind.WORKFLOW)) == {"other"}
    assert [due.document for due in catalog.due()] == ["run/a.yaml#0"]


def test_it_is_shown_before_its_file_is_read_and_when_that_is_gone() -> None:
    catalog = catalog_without("workflow/hello", "run/x/y.yaml#3")
    before = [(row.key, row.file, row.state) for row in catalog.records]
    catalog.apply(Scan(files=(report("a.yaml", HELLO),)))

    update = catalog.apply(Scan(removed=("a.yaml",)))

    assert before == [
        ("workflow/hello", "", DocumentState.REJECTED),
        ("run/x/y.yaml#3", "x/y.yaml", DocumentState.REJECTED),
    ]
    assert not catalog.registered(Kind.WORKFLOW)
    row = catalog.record("workflow/hello")
    assert row is not None
    assert row.state is DocumentState.REJECTED
    assert not update.records


@pytest.mark.parametrize("is_broken_first", [False, True])
def test_it_never_counts_as_removed(is_broken_first: bool) -> None:
    catalog = catalog_without("workflow/hello")
    catalog.apply(Scan(files=(report("a.yaml", HELLO),)))
    if is_broken_first:
        bad = FileReport(file="a.yaml", problems=(Problem(message="bad"),))
        catalog.apply(Scan(files=(bad,)))

    catalog.apply(Scan(removed=("a.yaml",)))
    update = catalog.forget(["workflow/hello"])
    catalog.apply(Scan(files=(report("a.yaml", HELLO),)))

    assert catalog.removed() == ()
    assert update.forgotten == ()
    assert catalog.due() == ()
