from __future__ import annotations

import pytest

from fusemld.hooks.processes import ProcessEnded
from fusemld.services.endings import in_words


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (ProcessEnded(key="k", at=0.0, exit_status=3), "ended with exit status 3"),
        (ProcessEnded(key="k", at=0.0, signal=9), "was killed by signal 9"),
        (ProcessEnded(key="k", at=0.0, lost="the host went down"), "was lost: the host went down"),
        (
            ProcessEnded(key="k", at=0.0, exit_status=127, never_started="No such file"),
            "could not be started: No such file",
        ),
    ],
)
def test_every_end_is_told_apart(ended: ProcessEnded, words: str) -> None:
    assert in_words(ended) == words
