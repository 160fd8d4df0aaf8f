"""Files that ask as much of the reader as their size allows, and what they cost."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from fusemld.spec.documents import read
from fusemld.spec.nodes import MAX_BYTES

SIZE_BYTES: Final = MAX_BYTES // 4
"""Large enough to show what grows faster than a file."""


class Cost(NamedTuple):
    """`memory_bytes` is by how much the peak of the process grew: 0 where an earlier file took as much."""

    size_bytes: int
    processor_s: float
    memory_bytes: int


def measure(case: str) -> Cost:
    """Read the file in this process."""
    data = WORST_CASES[case]()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    read(data, file="/w/f.yaml")
    processor_s = time.process_time() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    return Cost(len(data), processor_s, grown * 1024)


def _lines(head: str, line: str) -> Callable[[], bytes]:
    """As many lines as there is room for; `#` in a line is its number."""

    def made() -> bytes:
        parts, left, number = [head], SIZE_BYTES - len(head), 0
        while (left := left - len(text := line.replace("#", str(number)))) >= 0:
            parts.append(text)
            number += 1
        return "".join(parts).encode()

    return made


def _filled(head: str, unit: str, tail: str = "") -> Callable[[], bytes]:
    """The unit as often as there is room for it."""

    def made() -> bytes:
        times = (SIZE_BYTES - len(head) - len(tail)) // len(unit.encode())
        return (head + unit * times + tail).encode()

    return made


def _chain() -> bytes:
    """Every step references the one before it."""
    text = "name: w\nsteps:\n- {name: s0, image: i, outputs: [{name: o}]}\n"
    step = '- {name: s#, image: "{{ steps.s@.outputs.o }}", outputs: [{name: o}]}\n'
    return text.encode() + b"".join(
        step.replace("#", str(number)).replace("@", str(number - 1)).encode()
        for number in range(1, SIZE_BYTES // (len(step) + 8))
    )


_STEP = "name: w\nsteps:\n- {name: a, image: i, "

WORST_CASES: Final[Mapping[str, Callable[[], bytes]]] = {
    "steps": _lines("name: w\nsteps:\n", "- {name: s#, image: i}\n"),
    "side by side": _lines("name: w\nsteps:\n", "- {name: s#, image: i, needs: []}\n"),
    "same names": _filled("name: w\nsteps:\n", "- {name: s, image: i}\n"),
    "chain": _chain,
    "needs": _lines("name: w\nsteps:\n- {name: a, image: i}\n- name: b\n  image: i\n  needs:\n", "  - x#\n"),
    "references": _filled(_STEP + 'command: ["', "{{ workflow.name }}", '"]}'),
    "open references": _filled(_STEP + 'command: ["', "{{ ", '"]}'),
    "blanks in a reference": _filled(_STEP + 'command: ["{{', " ", '"]}'),
    "unknown references": _lines("name: w\nsteps:\n", '- {name: s#, image: "{{ inputs.n# }}"}\n'),
    "version": _filled(_STEP + 'extensions: [{name: e, version: "', ">=1.0,", '"}]}'),
    "duration": _filled(_STEP + 'timeout: "', "1", 's"}'),
    "inputs": _lines("workflow: w\ninputs:\n", "  k#: 1\n"),
    "codesets": _filled("workflow: w\ncodesets: [", "a/b@c,", "a]"),
    "services": _lines("id: x\nservices:\n", '- {id: s#, endpoints: [{url: "http://x"}]}\n'),
    "url": _filled('name: c\nurl: "https://', "a@", '"'),
    "documents": _filled("", "kind: run\nworkflow: w\n---\n"),
    "unknown fields": _lines("kind: workflow\n", "k#: 1\n"),
    "same keys": _filled("", "a: 1\n"),
    "aliases": _lines("a: &a [1]\n", "k#: *a\n"),
    "anchors": _lines("", "k#: &a# x\n"),
    "merges": _lines("a: &a {b: 1, c: 2, d: 3}\n", "k#: {<<: *a}\n"),
    "brackets": _filled("", "["),
    "question marks": _filled("", "? "),
    "quotes": _filled("", '"'),
    "escapes": _filled('name: "', "\\x41", '"'),
    "next lines": _filled("", "\x85"),
    "tags": _lines("", "k#: !!str x\n"),
}
