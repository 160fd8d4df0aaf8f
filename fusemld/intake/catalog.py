"""What the watched folder declares: names and their holders, generations, and the runs that are due; pure.

Identity. A workflow, extension, codeset or assignment is its kind and name: renaming or moving its file changes
nothing. A run request has no name of its own that counts; it is its place (`run/FILE#INDEX`), but follows its
content: when a scan shows the same request elsewhere in the file, or in a new file while the old one went in that
same scan (a rename), it stays the request it was. A copy is a new request.

Generations. A document's generation grows when its digest changes, and when it comes back after the folder had
stopped declaring it. A file that cannot be understood stops declaring, but is not a removal: the same content
after the repair is no new generation.

Rows that cannot be read. Which generation they had and what they have started is not known, so what claims their
name is in force, and starts nothing; and nothing is written in their place: a later daemon may understand them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping

import msgspec

from fusemld.intake.requests import Request, request_keys
from fusemld.intake.rows import declared_again, digest_of, errors_in, held, row_of
from fusemld.intake.snapshot import FileReport, Scan
from fusemld.intake.triggers import Registered, Start, Verdict, judge, terms
from fusemld.model.codeset import Codeset, CodesetReference, parse_reference
from fusemld.model.document import (
    HELD,
    Assignment,
    Document,
    DocumentRecord,
    DocumentState,
    Kind,
    Restoration,
)

replace = msgspec.structs.replace


class DueRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run to start now. `document` is the key of what asks for it; `version` is what an assignment's codeset was
    seen at, and what the run should be pinned to. `user` is the owner of the file."""

    document: str
    generation: int
    start: Start
    user: str = ""
    version: str = ""
    mark: str = ""

    @property
    def cause(self) -> str:
        """For people, and unique: a second run with the same cause must not be started."""
        suffix = f" {self.start.reference} at {self.version}" if self.start.reference else ""
        return f"{self.document} generation {self.generation}{suffix}"


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """What the store has to learn: rows to write, and keys of rows to delete."""

    records: tuple[DocumentRecord, ...] = ()
    forgotten: tuple[str, ...] = ()


class PolledCodeset(msgspec.Struct, frozen=True, kw_only=True):
    """A codeset that an assignment in force watches."""

    reference: CodesetReference
    codeset: Codeset


class _Claim(msgspec.Struct, kw_only=True):
    """A document of a file that claims `key`. `document` is None until the file is read after a restart."""

    key: str
    file: str
    index: int
    document: Document | None
    owner: str = ""
    restoration: Restoration | None = None
    """Set where the file is older than it."""


class Catalog:
    """Fed with scans, it knows what is in force and what is due. Give it the stored rows after a restart.

    Rows that change are in the `Update` that every feeding method returns; the caller stores them. What a row can
    give back (all but extensions) is in force again at once, before its file was looked at.
    """

    def __init__(
        self,
        records: Iterable[DocumentRecord] = (),
        *,
        unreadable: Mapping[str, str] | None = None,
        restoration: Restoration | None = None,
    ) -> None:
        """`unreadable` are the keys of rows that are stored and cannot be read, and why not."""
        self._restoration = restoration
        self._unreadable = dict(unreadable or {})
        self._doubtful = {file: why for key, why in self._unreadable.items() if (file := _unknown(key).file)}
        """Files that have a request whose row cannot be read."""
        self._rows: dict[str, DocumentRecord] = {}
        self._claims: dict[str, list[_Claim]] = {}
        self._files: dict[str, list[_Claim]] = {}
        self._in_force: dict[str, Document] = {}
        self._by_kind: dict[Kind, dict[str, Document]] = {kind: {} for kind in Kind}
        self._open: dict[str, None] = {}
        self._due: dict[str, tuple[DueRun, ...]] = {}
        self._failed: dict[str, str] = {}
        """Why runs could not be started, by their causes."""
        self._versions: dict[str, tuple[Codeset, str, str]] = {}
        self._changed: dict[str, None] = {}
        self._shadows: dict[str, set[str]] = {}
        self._broken: dict[str, set[str]] = {}
        self.available = True
        self.warning = ""
        self._restore(records)

    # What is in force -------------------------------------------------------------------------------------------

    @property
    def records(self) -> tuple[DocumentRecord, ...]:
        """Every row, ordered by file and place; those with `present` False are history."""
        return tuple(sorted(self._rows.values(), key=lambda row: (row.file, row.index, row.key)))

    def is_unreadable(self, key: str) -> bool:
        return key in self._unreadable

    def record(self, key: str) -> DocumentRecord | None:
        return self._rows.get(key)

    @property
    def files(self) -> tuple[str, ...]:
        """Every file known to exist, relative to the watched folder."""
        return tuple(self._files)

    def registered(self, kind: Kind) -> Mapping[str, Document]:
        """The documents of a kind that are in force, by name."""
        return self._by_kind[kind]

    def due(self) -> tuple[DueRun, ...]:
        """The runs to start now. Each is there until `started` or `failed` confirms it, or it is due no more."""
        return tuple(run for runs in self._due.values() for run in runs)

    def polled(self) -> tuple[PolledCodeset, ...]:
        """The codesets to watch for changes, each once."""
        found: dict[str, PolledCodeset] = {}
        for document in self._by_kind[Kind.ASSIGNMENT].values():
            assert isinstance(document.declared, Assignment)
            for reference in document.declared.codesets:
                codeset = self._codeset(reference)
                if codeset is not None:
                    found.setdefault(str(reference), PolledCodeset(reference=reference, codeset=codeset))
        return tuple(found.values())

    # What changes it --------------------------------------------------------------------------------------------

    def apply(self, scan: Scan) -> Update:
        """Take in what the watcher saw."""
        self.available, self.warning = scan.available, scan.warning
        keys = request_keys(scan, self._requests, self._claimed_outside)
        self._doubt(scan, keys)
        touched: dict[str, None] = {}
        for file in scan.removed:
            touched |= dict.fromkeys(self._replace(file, None))
        for report in scan.files:
            if report.readable:
                claims = [
                    _Claim(
                        key=keys.get((report.file, index)) or f"{document.kind}/{document.name}",
                        file=report.file,
                        index=index,
                        document=document,
                        owner=report.owner,
                        restoration=self._restoration_before(report),
                    )
                    for index, document in enumerate(report.documents)
                ]
                touched |= dict.fromkeys(self._replace(report.file, claims))
            else:
                self._files.setdefault(report.file, [])
            self._note_file(report)
        broken = {report.file for report in scan.files if errors_in(report.problems)}
        for key in touched:
            self._settle(key, broken)
        self._mend(scan, broken)
        self._judge_after(touched)
        return self._update()

    def codeset_seen(self, polled: PolledCodeset, version: str, problem: str = "") -> Update:
        """A poll found `version`, or failed with `problem` (then `version` is empty)."""
        if self._codeset(polled.reference) == polled.codeset:
            self._versions[str(polled.reference)] = (polled.codeset, version, problem)
            self._judge(key for key in tuple(self._open) if key.startswith("assignment/"))
        return self._update()

    def starting(self, due: DueRun, run: str = "") -> DocumentRecord:
        """The row of a document that is started as `run`, for the transaction that creates the run. It counts once
        `started` is told of it."""
        row = self._rows[due.document]
        if due.mark:
            row = replace(row, started_versions={**row.started_versions, due.start.reference: due.mark})
        return replace(row, started_generation=max(row.started_generation, due.generation), run=run)

    def started(self, due: DueRun, row: DocumentRecord) -> None:
        """Take note of it: it is in the store."""
        self._rows[due.document] = row
        self._set_due(due.document, [run for run in self._due.get(due.document, ()) if run.cause != due.cause])
        if not due.mark and row.started_generation >= row.generation:
            self._open.pop(due.document, None)

    def failed(self, due: DueRun, why: str) -> Update:
        """It cannot be started, for a reason that stays. Who comes after this daemon tries again."""
        self._failed[due.cause] = why
        self._judge([due.document])
        return self._update()

    def is_done(self, file: str) -> bool:
        """Whether nothing is to be expected of the file unless it changes: all it declares are run requests that
        have had their run. (Extensions are in no store, whoever waits is judged by what the file says, and what
        workflows may do is decided by those who read them.)"""
        claims = self._files.get(file)
        return bool(claims) and f"file/{file}" not in self._rows and all(map(self._is_run, claims or ()))

    def _is_run(self, claim: _Claim) -> bool:
        row = self._rows.get(claim.key)
        if row is None or row.kind is not Kind.RUN or row.key in self._unreadable:
            return False
        if self._claims[claim.key][0] is not claim:
            return False
        return row.started_generation >= row.generation

    def removed(self) -> tuple[str, ...]:
        """The keys of what the folder has stopped declaring for good. They are remembered for their generations
        only: what is dropped again begins a new one. (What a broken file declared is not removed: once the file is
        good again, the same content must not run again.)"""
        return tuple(
            key for key, row in self._rows.items() if not row.present and row.state is DocumentState.REMOVED
        )

    def forget(self, keys: Iterable[str]) -> Update:
        """Forget the rows of removed documents. One that is dropped again begins with generation 1: nothing may
        remember those that it had."""
        for key in set(self.removed()).intersection(keys):
            self._drop(key)
        return self._update()

    # Who claims what --------------------------------------------------------------------------------------------

    def _replace(self, file: str, claims: list[_Claim] | None) -> list[str]:
        """Put the claims of a file in the place of those it had; None: the file is gone. Returns the keys
        concerned. A name that is claimed again keeps its place among those who claim it."""
        old = self._files.pop(file, [])
        if claims is None:
            self._drop(f"file/{file}")
        else:
            self._files[file] = claims
        left = list(claims or ())
        for claim in old:
            queue = self._claims[claim.key]
            again = next((new for new in left if new.key == claim.key), None)
            place = queue.index(claim)
            if again is None:
                del queue[place]
            else:
                queue[place] = again
                left.remove(again)
        for claim in left:
            self._claims.setdefault(claim.key, []).append(claim)
        return [claim.key for claim in (*old, *(claims or ()))]

    def _restoration_before(self, report: FileReport) -> Restoration | None:
        restoration, state = self._restoration, report.state
        if restoration is None or state is None or state.ctime_ns >= restoration.at * 1e9:
            return None
        return restoration

    def _doubt(self, scan: Scan, keys: Mapping[tuple[str, int], str]) -> None:
        """In a file with a request whose row cannot be read, any request may be that one, but for those that are
        known to be as they were."""
        for (file, index), document in _documents(scan):
            key, why = keys.get((file, index)), self._doubtful.get(file)
            if key is not None and why is not None:
                row = self._rows.get(key)
                if row is None or row.digest != digest_of(document):
                    self._unreadable.setdefault(key, why)

    def _requests(self, file: str) -> list[Request]:
        claims = (claim for claim in self._files.get(file, ()) if claim.key.startswith("run/"))
        return [Request(claim.key, claim.index, self._rows[claim.key].digest) for claim in claims]

    def _claimed_outside(self, key: str, files: Container[str]) -> bool:
        return any(claim.file not in files for claim in self._claims.get(key, ()))

    def _settle(self, key: str, broken: set[str]) -> None:
        """Find the holder of a name and write its row, and those of the documents in its shadow."""
        claims = self._claims.get(key, [])
        row = self._rows.get(key)
        self._write_shadows(key, claims)
        if not claims:
            self._claims.pop(key, None)
            self._forget(key)
            if row is not None and row.present:
                is_broken = row.file in broken
                state = DocumentState.REJECTED if is_broken else DocumentState.REMOVED
                detail = "its file cannot be understood" if is_broken else ""
                versions = row.started_versions if is_broken else {}
                self._put(
                    replace(row, present=False, state=state, detail=detail, problems=(), started_versions=versions)
                )
                if is_broken:
                    self._broken.setdefault(row.file, set()).add(key)
            return
        holder = claims[0]
        if holder.document is None:
            return
        self._put(_row(key, holder, holder.document, row))
        self._enforce(key, holder.document)

    def _write_shadows(self, key: str, claims: list[_Claim]) -> None:
        before = self._shadows.pop(key, set())
        now: set[str] = set()
        for claim in claims[1:]:
            shadow = f"shadowed/{claim.file}#{claim.index}"
            now.add(shadow)
            if claim.document is not None:
                first = f"{claim.document.kind} {claim.document.name!r} is declared by {claims[0].file} already"
                row = replace(_row(shadow, claim, claim.document, None), generation=0, canonical=None)
                self._put(replace(row, state=DocumentState.SHADOWED, detail=first))
        for shadow in before - now:
            old = self._rows.get(shadow)
            if old is not None and f"{old.kind}/{old.name}" == key:
                self._drop(shadow)
        if now:
            self._shadows[key] = now

    def _note_file(self, report: FileReport) -> None:
        """The row of the file itself, for what no document of it can show."""
        key = f"file/{report.file}"
        errors = errors_in(report.problems)
        if report.readable and report.documents and not report.problems:
            self._drop(key)
            return
        state, detail = DocumentState.ACCEPTED, ""
        if not report.readable:
            state, detail = DocumentState.UNAVAILABLE, report.problems[0].message if report.problems else ""
        elif errors:
            state, detail = DocumentState.REJECTED, errors[0].message
        elif not report.documents:
            detail = "declares nothing"
        self._put(
            DocumentRecord(
                key=key, file=report.file, state=state, detail=detail, owner=report.owner, problems=report.problems
            )
        )

    def _mend(self, scan: Scan, broken: set[str]) -> None:
        """What a broken file had declared is removed for good once the file is gone, or good without it."""
        for file in (*scan.removed, *(report.file for report in scan.files if report.readable)):
            if file in broken:
                continue
            for key in self._broken.pop(file, ()):
                row = self._rows[key]
                if not row.present:
                    self._put(replace(row, state=DocumentState.REMOVED, detail="", started_versions={}))

    # What is in force, and due ----------------------------------------------------------------------------------

    def _enforce(self, key: str, document: Document) -> None:
        self._in_force[key] = document
        self._by_kind[document.kind][key if document.kind is Kind.RUN else document.name] = document
        row = self._rows[key]
        if key in self._unreadable:
            return
        if document.kind is Kind.ASSIGNMENT or row.started_generation < row.generation:
            self._open[key] = None

    def _forget(self, key: str) -> None:
        document = self._in_force.pop(key, None)
        if document is not None:
            self._by_kind[document.kind].pop(key if document.kind is Kind.RUN else document.name, None)
        self._open.pop(key, None)
        self._due.pop(key, None)

    def _judge_after(self, touched: Iterable[str]) -> None:
        """Others depend on workflows and codesets only."""
        keys = list(touched)
        if any(key.startswith(("workflow/", "codeset/")) for key in keys):
            keys = list(self._open)
        self._judge(keys)

    def _judge(self, keys: Iterable[str]) -> None:
        registered = Registered(workflows=self._by_kind[Kind.WORKFLOW], codesets=self._by_kind[Kind.CODESET])
        for key in keys:
            if key not in self._open:
                continue
            document = self._in_force[key]
            verdict = judge(document, registered)
            row = self._rows[key]
            if isinstance(document.declared, Assignment):
                runs, verdict = self._assigned(row, document.declared, verdict)
            else:
                runs = [_due(row, start) for start in verdict.starts]
            runs, verdict = self._possible(runs, verdict)
            self._set_due(key, runs)
            problems = (*document.problems, *verdict.problems)
            row = self._rows[key]
            self._put(replace(row, state=verdict.state, detail=verdict.detail, problems=problems))

    def _assigned(
        self, row: DocumentRecord, assignment: Assignment, verdict: Verdict
    ) -> tuple[list[DueRun], Verdict]:
        """The runs of an assignment: one for each codeset whose version it has not run for."""
        runs: list[DueRun] = []
        waits = [verdict.detail] if verdict.detail else []
        for start in verdict.starts:
            codeset, version, problem = self._versions.get(start.reference, (None, "", ""))
            if codeset is None or codeset != self._codeset(parse_reference(start.reference)):
                waits.append(f"waiting for the version of codeset {start.reference}")
                continue
            if problem:
                waits.append(problem)
            if not version:
                continue
            mark = f"{terms(assignment)}@{version}"
            if row.started_versions.get(start.reference) == HELD:
                row = replace(row, started_versions={**row.started_versions, start.reference: mark})
                self._put(row)
            if row.started_versions.get(start.reference) != mark:
                runs.append(replace(_due(row, start), version=version, mark=mark))
        if waits and verdict.state is not DocumentState.REJECTED:
            verdict = replace(verdict, state=DocumentState.WAITING, detail="; ".join(waits))
        return runs, verdict

    def _possible(self, runs: list[DueRun], verdict: Verdict) -> tuple[list[DueRun], Verdict]:
        """Those that have not failed to start; why others have is shown."""
        whys = [self._failed[run.cause] for run in runs if run.cause in self._failed]
        if whys:
            told = [verdict.detail] if verdict.detail else []
            verdict = replace(verdict, state=DocumentState.WAITING, detail="; ".join([*told, *whys]))
        return [run for run in runs if run.cause not in self._failed], verdict

    def _codeset(self, reference: CodesetReference) -> Codeset | None:
        found = self._by_kind[Kind.CODESET].get(f"{reference.project}/{reference.name}")
        return found.declared if found is not None and isinstance(found.declared, Codeset) else None

    def _set_due(self, key: str, runs: Iterable[DueRun]) -> None:
        due = tuple(runs)
        if due:
            self._due[key] = due
        else:
            self._due.pop(key, None)

    # Rows -------------------------------------------------------------------------------------------------------

    def _put(self, row: DocumentRecord) -> None:
        if (why := self._unreadable.get(row.key)) is not None:
            self._rows[row.key] = _set_aside(row, why)
            return
        if self._rows.get(row.key) != row:
            self._rows[row.key] = row
            self._changed[row.key] = None

    def _drop(self, key: str) -> None:
        if self._rows.pop(key, None) is not None:
            self._changed[key] = None

    def _update(self) -> Update:
        keys, self._changed = self._changed, {}
        return Update(
            records=tuple(self._rows[key] for key in keys if key in self._rows),
            forgotten=tuple(key for key in keys if key not in self._rows),
        )

    def _restore(self, records: Iterable[DocumentRecord]) -> None:
        shadows_last = sorted(records, key=lambda row: (row.state is DocumentState.SHADOWED, row.file, row.index))
        for row in shadows_last:
            self._rows[row.key] = row
            if not row.present:
                if row.state is DocumentState.REJECTED:
                    self._broken.setdefault(row.file, set()).add(row.key)
                continue
            claims = self._files.setdefault(row.file, [])
            if row.kind is None:
                continue
            shadowed = row.state is DocumentState.SHADOWED
            key = f"{row.kind}/{row.name}" if shadowed else row.key
            document = None if shadowed else declared_again(row)
            claim = _Claim(key=key, file=row.file, index=row.index, document=document, owner=row.owner)
            claims.append(claim)
            self._claims.setdefault(key, []).append(claim)
            if shadowed:
                self._shadows.setdefault(key, set()).add(row.key)
            elif document is not None:
                self._enforce(key, document)
        for key in self._unreadable:
            self._put(_unknown(key))
        self._judge(list(self._open))
        self._changed.clear()


def _row(key: str, claim: _Claim, document: Document, before: DocumentRecord | None) -> DocumentRecord:
    row = row_of(key, claim.file, claim.index, claim.owner, document, before)
    is_new = before is None or before.generation != row.generation
    return held(row, document, claim.restoration) if is_new and claim.restoration is not None else row


def _documents(scan: Scan) -> Iterator[tuple[tuple[str, int], Document]]:
    for report in scan.files:
        if report.readable:
            yield from (((report.file, index), document) for index, document in enumerate(report.documents))


def _unknown(key: str) -> DocumentRecord:
    """The place of a row that cannot be read, until its file says more."""
    kind, _, name = key.partition("/")
    if kind == Kind.RUN:
        return DocumentRecord(key=key, file=name.rpartition("#")[0], kind=Kind.RUN, present=False)
    return DocumentRecord(
        key=key, file="", kind=Kind(kind) if kind in set(Kind) else None, name=name, present=False
    )


def _set_aside(row: DocumentRecord, why: str) -> DocumentRecord:
    """The row as it is shown, while the stored one cannot be read. It never counts as removed."""
    state = DocumentState.WAITING if row.present else DocumentState.REJECTED
    return replace(row, generation=0, started_generation=0, state=state, detail=f"starts no run: {why}")


def _due(row: DocumentRecord, start: Start) -> DueRun:
    return DueRun(document=row.key, generation=row.generation, start=start, user=row.owner)
