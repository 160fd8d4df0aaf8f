"""The private folder of an attempt, and the writable copies of codesets in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import msgspec

from fusemld.hooks.executors import MountedCodeset
from fusemld.model.errors import may_pass
from fusemld.model.run import AttemptKey

_FICLONE = 0x40049409
_COPY_BYTES = 1024 * 1024 * 1024
_NOTE = "attempt.json"
_AS_MADE = stat.S_IFDIR | 0o700


class AttemptNote(msgspec.Struct, frozen=True, kw_only=True):
    """What a later daemon needs to judge the end of the attempt."""

    outputs: tuple[str, ...] = ()
    is_sandboxed: bool = False


class AttemptFolder(msgspec.Struct, frozen=True):
    """`tmp` is `STATE/attempts/RUN.STEP.ATTEMPT`, the attempt's own. What the step does not own (`codesets/N`,
    `results`, what to remember) is beside it in `parts`, which exists only where it is needed and never
    without `tmp`: making and removing folders costs more than everything else about a short step. So is
    its path text, until somebody needs more."""

    path: str

    @property
    def tmp(self) -> Path:
        return Path(self.path)

    @property
    def parts(self) -> Path:
        return Path(f"{self.path}.parts")

    @property
    def results(self) -> Path:
        return Path(self.results_path)

    @property
    def results_path(self) -> str:
        return f"{self.path}.parts/results"

    def codeset(self, index: int) -> Path:
        return Path(f"{self.path}.parts/codesets/{index}")

    def remember(self, note: AttemptNote) -> None:
        self.parts.mkdir(mode=0o700, exist_ok=True)
        (self.parts / _NOTE).write_bytes(msgspec.json.encode(note))

    def note(self) -> AttemptNote:
        """What was remembered, else the note of an attempt that had nothing to remember."""
        try:
            return msgspec.json.decode((self.parts / _NOTE).read_bytes(), type=AttemptNote)
        except (FileNotFoundError, msgspec.MsgspecError):
            return AttemptNote()

    def prepare(self, codesets: Iterable[MountedCodeset], has_outputs: bool) -> None:
        """Make everything anew: what an earlier, interrupted preparation left is removed."""
        try:
            os.mkdir(self.path, 0o700)  # noqa: PTH102
        except FileNotFoundError:
            self.tmp.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            self.remove()
            self.tmp.mkdir(mode=0o700)
        if has_outputs:
            self.results.mkdir(mode=0o700, parents=True)
        for index, codeset in enumerate(codesets):
            copy = self.codeset(index)
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            copy_tree(codeset.source, copy)
            identity = copy / ".fuseml"
            identity.mkdir(exist_ok=True)
            (identity / "_org").write_text(codeset.project)
            (identity / "_project").write_text(codeset.name)

    def is_as_made(self) -> bool:
        """Nothing is in it, nothing beside it, and nobody changed its rights."""
        if os.path.exists(f"{self.path}.parts"):  # noqa: PTH110
            return False
        try:
            state = os.stat(self.path)  # noqa: PTH116
            is_ours = state.st_mode == _AS_MADE and state.st_uid == os.geteuid()
            return is_ours and not os.listdir(self.path)  # noqa: PTH208
        except OSError:
            return False

    def become(self, other: AttemptFolder) -> bool:
        """Be the one that `other` was, which is as it was made. False, and nothing happened, where that fails, or
        where something is in its place that is not an empty folder."""
        try:
            os.rename(other.path, self.path)  # noqa: PTH104
        except OSError:
            return False
        return True

    def remove_if_empty(self) -> bool:
        """The cheap end of an attempt that had nothing and left nothing."""
        if os.path.exists(f"{self.path}.parts"):  # noqa: PTH110
            return False
        try:
            os.rmdir(self.path)  # noqa: PTH106
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def remove(self) -> None:
        """Whatever is left of it; a step may have taken rights away from its own folders. Raises OSError where it
        may work later."""
        for top in (self.parts, self.tmp):
            for folder, _folders, _files in os.walk(top):
                with contextlib.suppress(OSError):
                    Path(folder).chmod(0o700)
            shutil.rmtree(top, onerror=_unless_it_may_pass)


def _unless_it_may_pass(
    _function: Callable[..., object], _path: str, raised: tuple[type[BaseException], BaseException, object]
) -> None:
    error = raised[1]
    if isinstance(error, OSError) and may_pass(error):
        raise error


def attempt_folder(state: Path, key: AttemptKey) -> AttemptFolder:
    return AttemptFolder(f"{state}/attempts/{key.run}.{key.step}.{key.attempt}")


def remove_all(state: Path, keys: Iterable[AttemptKey]) -> dict[AttemptKey, OSError]:
    """Remove the folders of these attempts; those that may be removed later, and why not now."""
    stay = {}
    for key in keys:
        folder = attempt_folder(state, key)
        try:
            if not folder.remove_if_empty():
                folder.remove()
        except OSError as error:
            stay[key] = error
    return stay


def remove_all_but(state: Path, keys: Iterable[AttemptKey], spared: Collection[str] = ()) -> None:
    """Remove the folders of all other attempts, but for those of the runs in `spared`."""
    kept = {Path(attempt_folder(state, key).path).name for key in keys}
    beginnings = tuple(f"{run}." for run in spared)
    for folder in (state / "attempts").glob("*/"):
        if folder.name.removesuffix(".parts") not in kept and not folder.name.startswith(beginnings):
            AttemptFolder(str(folder).removesuffix(".parts")).remove()


def copy_tree(source: Path, target: Path) -> None:
    """A writable copy that shares blocks with the source where the file system can (copy on write).

    Hard links would not do: a step that writes into a file would change it for all.
    """
    target.mkdir(mode=0o700)
    with os.scandir(source) as entries:
        for entry in entries:
            copy = target / entry.name
            if entry.is_symlink():
                copy.symlink_to(Path(entry.path).readlink())
            elif entry.is_dir():
                copy_tree(Path(entry.path), copy)
            elif entry.is_file():
                _copy_file(entry.path, copy)


def _copy_file(source: str, target: Path) -> None:
    reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        state = os.fstat(reader)
        mode = stat.S_IMODE(state.st_mode) | stat.S_IRUSR | stat.S_IWUSR
        writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            if state.st_size:
                _copy_content(reader, writer)
            os.utime(writer, ns=(state.st_atime_ns, state.st_mtime_ns))
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_content(reader: int, writer: int) -> None:
    try:
        fcntl.ioctl(writer, _FICLONE, reader)
    except OSError:
        pass
    else:
        return
    try:
        while os.copy_file_range(reader, writer, _COPY_BYTES):
            pass
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        while os.sendfile(writer, reader, None, _COPY_BYTES):
            pass
