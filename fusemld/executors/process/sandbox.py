"""The view of a step in a bubblewrap sandbox.

The host's folders are there, read-only but for the home and temporary ones; the daemon's state and socket are
not; codesets and results are at the paths that the documents name. Processes outside cannot be seen, and
everything inside ends with the step. The network is the host's.

It costs about 3 ms. So in the setting `auto` only steps with something to hide or to place pay for it: those with
codesets, outputs or credentials. With `bwrap` all do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from fusemld.model.errors import StartError

RESULTS = Path("/tekton/results")
_NOT_BOUND = frozenset({Path("/proc"), Path("/dev")})
_PROBE = ("--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc", "--dev-bind", "/dev", "/dev", "true")


def find_bwrap(required: bool) -> str | None:
    """The program, if it is installed and this host lets it work.

    Raises `StartError` where it is required and not to be had, saying why.
    """
    program = shutil.which("bwrap")
    problem = "bubblewrap (bwrap) is not installed"
    if program is not None:
        result = subprocess.run([program, *_PROBE], capture_output=True, check=False, timeout=20)
        if result.returncode == 0:
            return program
        problem = result.stderr.decode(errors="replace").strip()
    if required:
        raise StartError(f"cannot run steps in a sandbox, as process.sandbox = 'bwrap' demands: {problem}")
    return None


def view(
    *,
    places: Mapping[Path, Path],
    reachable: Iterable[Path],
    hidden: Iterable[Path],
    state: Path,
    home: Path,
) -> list[str]:
    """Arguments of bwrap that make this view: `places` maps the path in the sandbox to the folder of the host,
    `reachable` are writable where they are, also below what is `hidden`."""
    arguments = ["--unshare-pid"]
    arguments += _host(Path("/"), [path for path in places if not path.exists()])
    arguments += ["--proc", "/proc", "--dev-bind", "/dev", "/dev"]
    for folder in (home, Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - the host's own
        if folder.is_dir() and folder != Path("/"):
            arguments += ["--bind", str(folder), str(folder)]
    for folder in (state, *hidden):
        if folder.is_dir():
            arguments += ["--tmpfs", str(folder)]
    for folder in sorted(_together(reachable, state)):
        if folder.exists():
            arguments += ["--bind", str(folder), str(folder)]
    for path in sorted(places):
        arguments += ["--bind", str(places[path]), str(path)]
    return arguments


def _host(folder: Path, holes: list[Path]) -> Iterator[str]:
    """Bind the host's folder entry by entry as far down as something is to be placed in it."""
    for entry in sorted(folder.iterdir()):
        if entry in _NOT_BOUND:
            continue
        if entry.is_symlink():
            yield from ("--symlink", str(entry.readlink()), str(entry))
        elif any(entry in hole.parents for hole in holes):
            yield from ("--dir", str(entry))
            yield from _host(entry, holes)
        elif os.access(entry, os.R_OK):
            yield from ("--ro-bind", str(entry), str(entry))


def _together(folders: Iterable[Path], state: Path) -> set[Path]:
    """Neighbours in a folder of their own below the state are bound as one: uv makes hard links from its cache
    to environments, which two mounts would not allow."""
    found = set(folders)
    parents = [folder.parent for folder in found]
    shared = {parent for parent in parents if parents.count(parent) > 1 and state in parent.parents}
    return {folder.parent if folder.parent in shared else folder for folder in found}
