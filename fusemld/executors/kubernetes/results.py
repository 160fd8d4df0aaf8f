"""Outputs on their way out of a pod: what a sidecar says in its log, and what is read from it.

A sidecar waits for SIGTERM, which kubelet sends it once the step's container has terminated, and then prints one
frame per output, in the order of the declaration:

    fusemld results 1
    output 0 307200 <sha256> gzip      index, size in bytes, how the lines below are packed (or `plain`)
    <base64, lines of 76 characters>
    .
    absent 1
    large 2 2097152                    larger than one output may be
    odd 3                              not a plain file
    unreadable 4
    end

So a missing, an empty and a truncated output cannot be mistaken for each other. A step with many outputs has
several sidecars, so that each log stays below the 10 MiB at which kubelets rotate it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from fusemld.executors.masking import HOLDS_CREDENTIAL, holds_any
from fusemld.executors.outputs import ALL_OUTPUTS_LIMIT_BYTES, OUTPUT_LIMIT_BYTES, missing, refused, text, within
from fusemld.model.run import Ending, Outcome

BATCH: Final = 4
"""Outputs of one sidecar. The largest make 8.3 MiB of log, in lines of 76 characters to which a container runtime
adds 42 each."""
MESSAGE_LIMIT_BYTES: Final = 4096
"""What kubelet keeps of a termination message; it keeps the end of a longer one."""
COMPLETE: Final = b"\nend\n"
"""A log that ends so is whole."""

SCRIPT: Final = r"""
cd "$1" || exit 1
limit=$2
shift 2
trap : TERM INT
tail -f /dev/null &
wait "$!"
exec 2>/dev/null
echo 'fusemld results 1'
index=-1
for name in "$@"; do
    index=$((index + 1))
    if [ -L "$name" ]; then
        echo "odd $index"
        continue
    elif [ ! -e "$name" ]; then
        echo "absent $index"
        continue
    elif [ ! -f "$name" ]; then
        echo "odd $index"
        continue
    elif [ ! -r "$name" ]; then
        echo "unreadable $index"
        continue
    fi
    state=$(ls -lnd "./$name")
    set -- $state
    size=$5
    if [ "$size" -gt "$limit" ]; then
        echo "large $index $size"
        continue
    fi
    way=plain
    if [ "$size" -gt 1024 ]; then
        zipped=$(gzip -c <"./$name" | wc -c)
        if [ "$zipped" -lt $((size / 8 * 7)) ]; then
            way=gzip
        fi
    fi
    sum=$(sha256sum <"./$name")
    echo "output $index $size ${sum%% *} $way"
    case $way in
        gzip) gzip -c <"./$name" | base64 ;;
        plain) base64 <"./$name" ;;
    esac
    echo .
done
echo end
"""
"""POSIX sh for busybox and dash, with base64, gzip and sha256sum. Arguments: the folder, the limit, the names."""


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """`refused` holds reasons by name. `damage` says why the rest cannot be known (yet); empty: everything is."""

    values: Mapping[str, bytes] = {}
    missing: tuple[str, ...] = ()
    refused: Mapping[str, str] = {}
    damage: str = ""

    @property
    def is_complete(self) -> bool:
        return not self.damage


def arguments(names: Sequence[str], folder: str) -> list[str]:
    """Of the script."""
    return [folder, str(OUTPUT_LIMIT_BYTES), *names]


def batches(names: Sequence[str]) -> list[tuple[str, ...]]:
    """What each sidecar hands over."""
    return [tuple(names[first : first + BATCH]) for first in range(0, len(names), BATCH)]


def together(parts: Iterable[Results]) -> Results:
    """What several sidecars said, in their order."""
    values: dict[str, bytes] = {}
    absent: list[str] = []
    reasons: dict[str, str] = {}
    damage = ""
    for part in parts:
        values |= part.values
        absent += part.missing
        reasons |= part.refused
        damage = damage or part.damage
    return Results(values=values, missing=tuple(absent), refused=reasons, damage=damage)


def parse(log: bytes, names: Sequence[str]) -> Results:
    """What the sidecar of these outputs said. Any bytes are taken: a log that was cut gives
    `damage`."""
    lines = log.split(b"\n")
    starts = [number for number, line in enumerate(lines) if line == _HEADER]
    if not starts:
        return Results(damage="nothing was handed over")
    values: dict[str, bytes] = {}
    absent: list[str] = []
    reasons: dict[str, str] = {}
    rest = iter(lines[starts[-1] + 1 : -1])
    try:
        for index, name in enumerate(names):
            match _frame(next(rest, b""), index):
                case "output", (size, digest, way):
                    values[name] = _value(rest, int(size), digest, way)
                case "absent", ():
                    absent.append(name)
                case kind, numbers:
                    reasons[name] = _REASONS[kind].format(*numbers)
        if next(rest, b"") != _END:
            raise _DamagedError("what was handed over ends early")
    except _DamagedError as error:
        return Results(damage=str(error))
    return Results(values=values, missing=tuple(absent), refused=reasons)


def from_message(message: str, name: str) -> Results:
    """A small output that came as the step's termination message. Kubelet makes the file beforehand, so an empty
    output and a missing one look the same."""
    data = message.encode("utf-8", "surrogateescape")
    if len(data) >= MESSAGE_LIMIT_BYTES:
        return Results(refused={name: f"it has {MESSAGE_LIMIT_BYTES} bytes or more, and its end alone was kept"})
    if "\ufffd" in message:
        return Results(refused={name: "it is not UTF-8 text"})
    return Results(values={name: data}) if data else Results(missing=(name,))


def conclude(success: Outcome, results: Results, patterns: Iterable[bytes] = ()) -> tuple[Outcome, dict[str, str]]:
    """The outcome of an attempt whose program succeeded, and its outputs where it is a success. `patterns` must
    not be in outputs."""
    if results.damage:
        message = f"its outputs are lost: {results.damage}"
        return msgspec.structs.replace(success, ending=Ending.LOST, message=message), {}
    patterns = tuple(patterns)
    secret = {name: HOLDS_CREDENTIAL for name, value in results.values.items() if holds_any(value, patterns)}
    values, beyond = within(results.values, ALL_OUTPUTS_LIMIT_BYTES)
    if reasons := {**results.refused, **beyond, **secret}:
        return msgspec.structs.replace(success, ending=Ending.OUTPUT_REFUSED, message=refused(reasons)), {}
    if results.missing:
        message = missing(results.missing)
        return msgspec.structs.replace(success, ending=Ending.OUTPUT_MISSING, message=message), {}
    return success, {name: text(value) for name, value in values.items()}


class _DamagedError(Exception):
    pass


_HEADER: Final = b"fusemld results 1"
_END: Final = b"end"
_FRAME: Final = re.compile(
    rb"(output) ([0-9]+) ([0-9]{1,7}) ([0-9a-f]{64}) (gzip|plain)|(absent|odd|unreadable) ([0-9]+)"
    rb"|(large) ([0-9]+) ([0-9]+)"
)
_REASONS: Final = {
    "odd": "it is not a plain file",
    "unreadable": "its rights do not let the sidecar read it",
    "large": f"it has {{}} bytes; at most {OUTPUT_LIMIT_BYTES} are allowed",
}


def _frame(line: bytes, index: int) -> tuple[str, tuple[str, ...]]:
    found = _FRAME.fullmatch(line)
    if found is None:
        raise _DamagedError("what was handed over ends early" if not line else "what was handed over is damaged")
    kind, number, *numbers = (part.decode() for part in found.groups() if part is not None)
    if int(number) != index:
        raise _DamagedError("what was handed over is not what was declared")
    return kind, tuple(numbers)


def _value(lines: Iterator[bytes], size: int, digest: str, way: str) -> bytes:
    packed = b"".join(iter(lambda: next(lines, b"."), b"."))
    try:
        data = base64.b64decode(packed, validate=True)
        if way == "gzip":
            unzip = zlib.decompressobj(wbits=31)
            data = unzip.decompress(data, OUTPUT_LIMIT_BYTES + 1)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise _DamagedError("what was handed over is damaged") from error
    if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
        raise _DamagedError("what was handed over is damaged")
    return data
