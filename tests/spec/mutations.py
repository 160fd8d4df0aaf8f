"""Files that people and programs get wrong, made of files that are right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from hypothesis import strategies as st

EXAMPLES: Final = Path(__file__).parents[2] / "examples"

EVERY_FIELD: Final = """\
name: all
description: every field that there is
inputs:
  - {name: code, type: codeset, default: "lab/code@v1", labels: [a]}
  - {name: n, type: int, default: 3}
  - {name: f, type: float, default: 1.5}
  - {name: b, type: bool, default: true}
outputs:
  - {name: url, type: string, value: "{{ steps.two.outputs.url }}"}
order: dag
executor: process
steps:
  - name: one
    image: python:3.11
    inputs:
      - {name: c, codeset: {name: "{{ inputs.code }}", path: /project}}
      - {name: n, value: "{{ inputs.n }}"}
    outputs: [{name: model}]
    needs: []
    timeout: 15m
    retry: {limit: 2, backoff: 5s, max_backoff: 1m}
    resources: {requests: {cpu: 500m}, limits: {memory: 1Gi}}
    command: ["sh", "-c"]
    args: ["echo {{ inputs.code.version }}"]
    env: [{name: A, value: "{{ extensions.store.url }}"}]
    extensions:
      - {name: store, product: mlflow, version: ">=1.0,<2", service_resource: s3, zone: local}
  - name: two
    image: host
    inputs: [{name: m, value: "{{ steps.one.outputs.model }}"}]
    outputs: [{name: url}]
---
id: mlflow
product: mlflow
version: "1.19"
services:
  - id: tracking
    resource: mlflow-tracking
    auth_required: true
    endpoints: [{url: "http://mlflow:5000", type: internal}]
    credentials: [{id: c, scope: project, projects: [lab], configuration: {USER: {from_env: USER}, PASSWORD: x}}]
    configuration: &shared {A: x, B: 1e3}
configuration: {<<: *shared, C: ""}
---
kind: codeset
name: code
project: lab
url: https://example.org/c.git
ref: main
---
workflow: all
codesets: [code, lab/data@v1]
---
workflow: all
inputs: {n: 0x1F, when: 2001-12-14t21:59:43.10-05:00}
"""

SEEDS: Final = (EVERY_FIELD.encode(), *(file.read_bytes() for file in sorted(EXAMPLES.glob("[dw]*/*.yaml"))))

TOKENS: Final = tuple(
    text.encode("utf-8", "surrogatepass")
    for text in (
        "&a ", "*a", "<<: *a\n", "<<: [*a, *a]\n", "&a [*a]", "!!binary ", "!!python/object/apply:os.system ",
        "!!set ", "!!str ", "!!int ", "!!null ''", "!x ", "!<tag:yaml.org,2002:str> ", "%YAML 1.2\n---\n",
        "%TAG ! !x\n", "---\n", "...\n", "? ", "? [a]\n: b\n", ": ", "- ", "- - - ", "|\n", ">-\n", "|9\n",
        "|+2\n", "'", '"', "''", '""', "\\", "#", " #", "@", "`", "{", "}", "[", "]", ",", "{{", "}}",
        "{{ inputs.", "{{ steps.one.outputs.model }}", "{{ extensions.store.cfg.X }}", "{{ {{ }} }}", "0x1F",
        "0o17", "017", "1_000", "1e400", "-.inf", ".nan", "190:20:30", "9" * 400, "2001-12-14", "~", "null",
        "yes", "NO", "=", "<<", "\t", "\r", "\r\n", "\n\n", "\x85", "\u2028", "\u2029", "\ufeff", "\u00a0",
        "\u200b", "\ud800", "\x00", "\x1b", "\x7f", "\\x00", '"\\0"', '"\\ud83d"', '"\\U00110000"', "😀",
        "e\u0301", "a" * 300, "[" * 70, "{a: " * 70, "kind: ", "kind: workflow\n", "name: w\n", "steps: []\n",
        "steps:\n  - \n", "needs: [one, two]", "order: listed\n",
    )
)  # fmt: skip
BROKEN_BYTES: Final = (b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5", b"\x80")

Mutation = Callable[[bytes, st.DrawFn], bytes]


def _at(data: bytes, draw: st.DrawFn) -> int:
    return draw(st.integers(0, len(data)))


def _flip(data: bytes, draw: st.DrawFn) -> bytes:
    at = _at(data, draw)
    return (
        data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :] if at < len(data) else data
    )


def _insert(data: bytes, draw: st.DrawFn) -> bytes:
    at = _at(data, draw)
    return data[:at] + draw(st.sampled_from(TOKENS + BROKEN_BYTES)) + data[at:]


def _cut(data: bytes, draw: st.DrawFn) -> bytes:
    at = _at(data, draw)
    return data[:at] + data[at + draw(st.integers(1, 60)) :]


def _truncate(data: bytes, draw: st.DrawFn) -> bytes:
    return data[: _at(data, draw)]


def _repeat_line(data: bytes, draw: st.DrawFn) -> bytes:
    """Duplicate keys, and steps of the same name."""
    lines = data.splitlines(keepends=True) or [b""]
    at = draw(st.integers(0, len(lines) - 1))
    return b"".join([*lines[:at], lines[at], *lines[at:]])


def _move_line(data: bytes, draw: st.DrawFn) -> bytes:
    lines = data.splitlines(keepends=True) or [b""]
    line = lines.pop(draw(st.integers(0, len(lines) - 1)))
    lines.insert(draw(st.integers(0, len(lines))), line)
    return b"".join(lines)


def _indent_line(data: bytes, draw: st.DrawFn) -> bytes:
    lines = data.splitlines(keepends=True) or [b""]
    at = draw(st.integers(0, len(lines) - 1))
    lines[at] = draw(st.sampled_from([b" ", b"  ", b"\t", b"- "])) + lines[at]
    return b"".join(lines)


def _replace_value(data: bytes, draw: st.DrawFn) -> bytes:
    """Of one line `key: value` the value."""
    lines = data.splitlines(keepends=True) or [b""]
    at = draw(st.integers(0, len(lines) - 1))
    key, colon, _ = lines[at].partition(b": ")
    lines[at] = key + colon + draw(st.sampled_from(TOKENS)) + b"\n"
    return b"".join(lines)


def _splice(data: bytes, draw: st.DrawFn) -> bytes:
    other = draw(st.sampled_from(SEEDS))
    at, start = _at(data, draw), _at(other, draw)
    return data[:at] + other[start : start + draw(st.integers(1, 200))] + data[at:]


def _nest(data: bytes, draw: st.DrawFn) -> bytes:
    levels = draw(st.integers(1, 70))
    return b"".join(b" " * level + b"a:\n" for level in range(levels)) + data.replace(b"\n", b"\n" + b" " * levels)


def _use_other_line_ends(data: bytes, draw: st.DrawFn) -> bytes:
    ends = ("\r\n", "\r", "\x85", "\u2028", "\u2029")
    return data.replace(b"\n", draw(st.sampled_from(ends)).encode(), draw(st.integers(1, 20)))


def _use_other_encoding(data: bytes, draw: st.DrawFn) -> bytes:
    return data.decode("utf-8", "replace").encode(
        draw(st.sampled_from(["utf-16", "utf-32", "latin-1", "utf-7"])), "replace"
    )


MUTATIONS: Final[tuple[Mutation, ...]] = (
    _flip, _insert, _insert, _insert, _cut, _truncate, _repeat_line, _move_line, _indent_line, _replace_value,
    _replace_value,
    _splice, _nest, _use_other_line_ends, _use_other_encoding,
)  # fmt: skip


@st.composite
def mutated_files(draw: st.DrawFn) -> bytes:
    """A file that is right, changed up to six times."""
    data = draw(st.sampled_from(SEEDS))
    for mutation in draw(st.lists(st.sampled_from(MUTATIONS), max_size=6)):
        data = mutation(data, draw)
    return data
