"""`fuseml gc` and `fuseml backup`."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

import click

from fusemld.api import views
from fusemld.cli import tables
from fusemld.cli.options import Output, argument, connect, output_option, socket_option
from fusemld.model.errors import ConflictError, FusemldError, UnavailableError

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@click.command("gc")
@click.option("--dry-run", is_flag=True, help="Only say what would go")
@output_option
@socket_option
def gc(dry_run: bool, output: Output) -> None:
    """Have the daemon remove what the settings of the group `retention` let go, and say what keeps the rest.

    Where one part of it fails the others are done all the same, and the exit status is that of a failure.
    """
    asked = views.CollectGarbage(dry_run=dry_run)
    done = connect().post("/gc", views.UpkeepView, asked, timeout_s=None)
    headings = ("what", "would go" if dry_run else "removed", "size", "kept", "size", "because")
    tables.emit(output, done, lambda: tables.table(headings, (_row(part) for part in done.parts)))
    if failed := [f"{part.what}: {part.error}" for part in done.parts if part.error]:
        raise UnavailableError(f"cannot {'tell' if dry_run else 'remove'} all that may go: {'; '.join(failed)}")


@click.command("backup")
@argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite FILE")
@output_option
@socket_option
def backup(file: Path, force: bool, output: Output) -> None:
    """Copy the daemon's database, as it is now, to FILE; `fusemld restore FILE` takes it back.

    FILE holds no secrets, but all inputs and outputs: it is readable for you alone. Logs and what services have
    stored are not in it.
    """
    exists = f"cannot write {file}: it exists already; --force overwrites it"
    if os.path.lexists(file) and not force:
        raise ConflictError(exists)
    partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as target:  # noqa: PTH123 - a path has no descriptor
            target.writelines(connect().backup())
            target.flush()
            os.fsync(target.fileno())
        size_bytes = partial.stat().st_size
        if force:
            partial.replace(file)
        else:
            file.hardlink_to(partial)
        _sync(file.absolute().parent)
    except FileExistsError as error:
        raise ConflictError(exists) from error
    except OSError as error:
        raise FusemldError(f"cannot write {file}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
    written = {"file": str(file), "size_bytes": size_bytes}
    tables.emit(output, written, lambda: f"the database is in {file} ({_size(size_bytes)})")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _row(part: views.UpkeepPart) -> tuple[str, ...]:
    because = ", ".join(f"{count} {reason}" for reason, count in part.kept_by.items())
    return (
        part.what,
        str(part.removed),
        _size(part.removed_bytes),
        str(part.kept),
        _size(part.kept_bytes),
        because,
    )


def _size(size_bytes: int) -> str:
    if not size_bytes:
        return ""
    size, unit = float(size_bytes), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"
