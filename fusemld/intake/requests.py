"""Which run request of a scan is which of those that are known: they have no names that count."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable
from typing import NamedTuple

from fusemld.intake.rows import digest_of
from fusemld.intake.snapshot import Scan
from fusemld.model.document import Kind


class Request(NamedTuple):
    """A known run request: its key, where it stands in its file, and the digest of what it asks for."""

    key: str
    position: int
    digest: str


Place = tuple[str, int]
_ByDigest = dict[str, deque[Request]]


def request_keys(
    scan: Scan, known: Callable[[str], list[Request]], is_claimed: Callable[[str, Container[str]], bool]
) -> dict[Place, str]:
    """The key of every run request in the files of a scan, by file and index.

    `known` gives the requests that a file had before; `is_claimed` says whether a key belongs to a file other than
    those given. First each file keeps the requests whose content it still has, wherever they stand in it. Then
    requests go where those of removed files reappear. What is left has changed its content in place, or is new.
    """
    reports = [report for report in scan.files if report.readable]
    digests = {
        (report.file, index): digest_of(document)
        for report in reports
        for index, document in enumerate(report.documents)
        if document.kind is Kind.RUN
    }
    before = {file: known(file) for file in {file for file, _ in digests}}
    keys: dict[Place, str] = {}
    taken: set[str] = set()

    def give(place: Place, candidates: _ByDigest) -> None:
        matching = candidates.get(digests[place])
        while matching:
            request = matching.popleft()
            if request.key not in taken:
                keys[place] = request.key
                taken.add(request.key)
                return

    same_file = {file: _by_digest(requests) for file, requests in before.items()}
    for place in digests:
        give(place, same_file[place[0]])
    gone = _by_digest(request for file in scan.removed for request in known(file))
    for place in sorted(digests.keys() - keys.keys()):
        give(place, gone)
    looked_at = {*scan.removed, *(report.file for report in reports)}
    there = {(file, request.position): request.key for file in before for request in reversed(before[file])}
    for place in sorted(digests.keys() - keys.keys()):
        file, index = place
        stood_here = there.get(place)
        number, key = 1, stood_here if stood_here and stood_here not in taken else f"run/{file}#{index}"
        while key in taken or is_claimed(key, looked_at):
            number += 1
            key = f"run/{file}#{index}~{number}"
        keys[place] = key
        taken.add(key)
    return keys


def _by_digest(requests: Iterable[Request]) -> _ByDigest:
    """A file may hold thousands: each is found at once."""
    found: _ByDigest = {}
    for request in requests:
        found.setdefault(request.digest, deque()).append(request)
    return found
