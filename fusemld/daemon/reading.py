"""How this daemon reads a file of its watched folder: as everybody does, and with what its settings say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from fusemld.model.codeset import Codeset
from fusemld.model.document import Document
from fusemld.model.problem import Severity
from fusemld.spec.documents import Parsed, read


class DocumentReader:
    """`refusal` says why no run could use a codeset, empty where one could. Blocking: for worker threads."""

    def __init__(self, folder: Path, refusal: Callable[[Codeset], str]) -> None:
        self._folder = folder
        self._refusal = refusal

    def __call__(self, data: bytes, file: Path) -> Parsed:
        """`file` is relative to the watched folder."""
        parsed = read(data, file=self._folder / file, root=self._folder)
        return replace(parsed, documents=tuple(map(self._warned, parsed.documents)))

    def _warned(self, document: Document) -> Document:
        """A codeset that is refused is a warning only: the settings may be mended without touching the file."""
        if not isinstance(document.declared, Codeset) or not (refusal := self._refusal(document.declared)):
            return document
        place = "path" if document.declared.path is not None else "url"
        warning = replace(document.problem(f"no run can use this: {refusal}", place), severity=Severity.WARNING)
        return replace(document, problems=(*document.problems, warning))
