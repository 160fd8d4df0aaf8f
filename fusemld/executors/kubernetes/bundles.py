"""Codesets that travel as ConfigMaps: packed content, cut into immutable pieces that are named after it.

Runs share them: the same content has the same names. `.fuseml/_org` and `.fuseml/_project`, which differ between
codesets of the same content, are written by the init container.
"""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from fusemld.executors.kubernetes.names import CODESET, codeset_name, owned
from fusemld.hooks.clusters import Json

CHUNK_BYTES: Final = 768 * 1024
"""In one ConfigMap, which may hold 1 MiB; as base64 it is 1 MiB, below the 1.5 MiB of etcd's requests."""
_MTIME: Final = 946684800
"""2000-01-01: zip files, and so wheels, cannot hold times before 1980."""
_KEY: Final = "part"

UNPACK: Final = r"""
set -eu
umask 0
while [ "$#" -gt 0 ]; do
    parts=$1 sum=$2 target=$3 project=$4 name=$5
    shift 5
    found=$(cat "$parts"/* | sha256sum)
    if [ "${found%% *}" != "$sum" ]; then
        echo "cannot unpack codeset $project/$name: its ConfigMaps do not hold what was packed" >&2
        exit 1
    fi
    cat "$parts"/* | gzip -dc | tar -xof - -C "$target"
    mkdir -p "$target/.fuseml"
    printf %s "$project" >"$target/.fuseml/_org"
    printf %s "$name" >"$target/.fuseml/_project"
done
"""
"""POSIX sh for busybox and dash, with tar, gzip and sha256sum. Five arguments for each codeset: the folder of
the pieces, the digest of the packed content, the target, project and name. What is unpacked is writable for every
user: the step's image may run as another one than this."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a tree: a file with `content`, a link with `target`, else a folder. `path` is relative. Content
    may stay in another file until it is packed."""

    path: str
    content: bytes | Path | None = None
    target: str | None = None
    is_executable: bool = False


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """A packed codeset in the cluster. `sha256` is that of the packed content, `names` are its ConfigMaps in
    order."""

    sha256: str
    names: tuple[str, ...]
    size_bytes: int


def pack(entries: Iterable[Entry], limit_bytes: int) -> bytes | None:
    """A tar archive, gzipped: the same entries in the same order give the same bytes. None as soon as it would
    be larger than `limit_bytes`: then the rest is not read, and never is a file in memory as a whole. Folders come
    before what is in them. Raises OSError where a file cannot be read."""
    sink = _Sink(limit_bytes)
    try:
        with tarfile.open(
            fileobj=sink, mode="w|", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape"
        ) as archive:
            for entry in entries:
                header = _header(entry)
                if entry.content is None:
                    archive.addfile(header)
                    continue
                with _opened(entry.content) as content:
                    header.size = content.seek(0, io.SEEK_END)
                    content.seek(0)
                    archive.addfile(header, content)
        return sink.finish()
    except _FullError:
        return None


def bundle(packed: bytes, instance: str) -> Bundle:
    """What the packed content is called in the cluster of this daemon."""
    sha256 = hashlib.sha256(packed).hexdigest()
    count = -(-len(packed) // CHUNK_BYTES)
    name = codeset_name(sha256, instance)
    return Bundle(sha256=sha256, names=tuple(f"{name}-{n}" for n in range(count)), size_bytes=len(packed))


def config_maps(packed: bytes, instance: str, namespace: str) -> tuple[Json, ...]:
    """The ConfigMaps of `bundle(packed, instance)`. Where one exists already under its name (409), it is the
    same."""
    known = bundle(packed, instance)
    labels = {**owned(instance), CODESET: codeset_name(known.sha256, instance)}
    return tuple(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "immutable": True,
            "binaryData": {
                _KEY: base64.b64encode(packed[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]).decode()
            },
        }
        for number, name in enumerate(known.names)
    )


def sources(known: Bundle, folder: str) -> list[Json]:
    """Of a projected volume: the pieces as `folder/00000`, `folder/00001`..."""
    return [
        {"configMap": {"name": name, "items": [{"key": _KEY, "path": f"{folder}/{number:05}"}]}}
        for number, name in enumerate(known.names)
    ]


class _FullError(Exception):
    pass


class _Sink(io.RawIOBase):
    """Gzip without the time and name of its making."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._zip = zlib.compressobj(6, zlib.DEFLATED, 31)
        self._packed = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override] # tarfile writes bytes only
        self._add(self._zip.compress(data))
        return len(data)

    def finish(self) -> bytes:
        self._add(self._zip.flush())
        return bytes(self._packed)

    def _add(self, packed: bytes) -> None:
        self._packed += packed
        if len(self._packed) > self._limit_bytes:
            raise _FullError


def _header(entry: Entry) -> tarfile.TarInfo:
    """Without the size."""
    header = tarfile.TarInfo(entry.path)
    header.mtime = _MTIME
    if entry.target is not None:
        header.type, header.linkname, header.mode = tarfile.SYMTYPE, entry.target, 0o777
    elif entry.content is None:
        header.type, header.mode = tarfile.DIRTYPE, 0o777
    else:
        header.mode = 0o777 if entry.is_executable else 0o666
    return header


def _opened(content: bytes | Path) -> BinaryIO:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
