"""Pinning real repositories and folders."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import anyio
import pytest

from fusemld.codesets.codesets import Codesets
from fusemld.model.codeset import Codeset
from fusemld.model.errors import (
    ForbiddenError,
    FusemldError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)


class Repository(Protocol):
    folder: Path

    @property
    def url(self) -> str: ...
    def git(self, *arguments: str) -> str: ...
    def commit(self, files: dict[str, str]) -> str: ...


@pytest.fixture
def codesets(tmp_path: Path) -> Codesets:
    return Codesets(tmp_path / "state", (tmp_path / "repositories", tmp_path / "folders"))


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


async def test_a_repository_is_pinned_at_its_default_branch(codesets: Codesets, repository: Repository) -> None:
    commit = repository.commit({"a.txt": "one", "sub/b.txt": "two"})

    pinned = await codesets.pin(Codeset(name="digits", project="lab", url=repository.url))

    assert (pinned.project, pinned.name, pinned.version, pinned.url) == ("lab", "digits", commit, repository.url)
    assert pinned.size_bytes == 6
    assert files(await codesets.source(pinned)) == {"a.txt": "one", "sub/b.txt": "two"}


async def test_a_pin_does_not_move_with_the_branch(codesets: Codesets, repository: Repository) -> None:
    repository.commit({"a.txt": "one"})
    codeset = Codeset(name="digits", url=str(repository.folder))
    before = await codesets.pin(codeset)

    commit = repository.commit({"a.txt": "two"})
    after = await codesets.pin(codeset)

    assert files(await codesets.source(before)) == {"a.txt": "one"}
    assert files(await codesets.source(after)) == {"a.txt": "two"}
    assert after.version == await codesets.version(codeset) == commit


async def test_branches_tags_and_commits_can_be_named(codesets: Codesets, repository: Repository) -> None:
    old = repository.commit({"a.txt": "old"})
    repository.git("tag", "--annotate", "v1", "--message", "first")
    repository.git("tag", "light")
    new = repository.commit({"a.txt": "new"})
    repository.git("branch", "feature/x")
    repository.commit({"a.txt": "newest"})
    codeset = Codeset(name="digits", url=repository.url, ref="v1")

    commits = {ref: (await codesets.pin(codeset, ref)).version for ref in (None, "light", "feature/x", old, new)}

    assert commits == {None: old, "light": old, "feature/x": new, old: old, new: new}
    assert await codesets.version(codeset, "feature/x") == new


async def test_programs_stay_executable_and_links_stay_links(codesets: Codesets, repository: Repository) -> None:
    (repository.folder / "run.sh").write_text("#!/bin/sh\n")
    (repository.folder / "run.sh").chmod(0o755)
    (repository.folder / "link").symlink_to("run.sh")
    repository.commit({"crlf.txt": "a\r\n"})

    source = await codesets.source(await codesets.pin(Codeset(name="digits", url=repository.url)))

    assert os.access(source / "run.sh", os.X_OK)
    assert (source / "link").readlink() == Path("run.sh")
    assert (source / "crlf.txt").read_bytes() == b"a\r\n"
    assert (source / "crlf.txt").stat().st_mode & 0o222 == 0


async def test_an_unknown_ref_names_close_ones(codesets: Codesets, repository: Repository) -> None:
    repository.commit({"a.txt": "one"})
    repository.git("branch", "release")

    with pytest.raises(NotFoundError, match=r"no branch, tag or commit 'relaese'; did you mean 'release'\?"):
        await codesets.pin(Codeset(name="digits", url=repository.url), "relaese")


@pytest.mark.parametrize(
    ("url", "kind", "said"),
    [
        ("ext::sh -c id", InvalidInputError, "cannot use"),
        ("ext://x/y", InvalidInputError, "only https://"),
        ("--upload-pack=id", InvalidInputError, "cannot use"),
        ("ssh://-oProxyCommand=id/x", InvalidInputError, "names no host"),
        ("-oProxyCommand=id:x", InvalidInputError, "cannot use"),
        ("https://ann:secret@example.org/x.git", InvalidInputError, "with a password or a token in it"),
        ("ssh://ann:secret@example.org/x.git", InvalidInputError, "with a password or a token in it"),
        ("https://secret@example.org/x.git", InvalidInputError, "with a password or a token in it"),
        ("HTTP://secret@example.org/x.git", InvalidInputError, "with a password or a token in it"),
        ("file://server/x.git", InvalidInputError, "write file:///PATH"),
        ("file:///etc", ForbiddenError, "codesets.roots"),
        ("/etc", ForbiddenError, "codesets.roots"),
        ("http://127.0.0.1:1/x.git", UnavailableError, "Failed to connect"),
    ],
)
async def test_an_address_that_cannot_be_used_says_why(
    codesets: Codesets, url: str, kind: type[FusemldError], said: str
) -> None:
    with pytest.raises(kind, match=said) as caught:
        await codesets.pin(Codeset(name="digits", url=url))

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("ref", ["-x", "a..b", "x y", "a:b", "+a", "x.lock", "@{u}", "^v1"])
async def test_a_ref_that_git_could_misread_is_refused(
    codesets: Codesets, repository: Repository, ref: str
) -> None:
    repository.commit({"a.txt": "one"})

    with pytest.raises((InvalidInputError, NotFoundError)):
        await codesets.pin(Codeset(name="digits", url=repository.url), ref)


async def test_a_missing_repository_an_empty_one_and_a_missing_commit_say_so(
    codesets: Codesets, repository: Repository, new_repository: Callable[[str], Repository]
) -> None:
    (repository.folder.parent / "plain").mkdir()
    repository.commit({"a.txt": "one"})
    empty = new_repository("empty")

    with pytest.raises(NotFoundError, match="there is no such repository"):
        await codesets.pin(Codeset(name="x", url=f"file://{repository.folder.parent}/plain"))
    with pytest.raises(NotFoundError, match="has no commit yet"):
        await codesets.pin(Codeset(name="x", url=empty.url))
    with pytest.raises(NotFoundError, match="no commit 0000"):
        await codesets.pin(Codeset(name="x", url=repository.url), "0" * 40)


async def test_what_a_repository_configures_is_not_obeyed(codesets: Codesets, repository: Repository) -> None:
    canary = repository.folder.parent / "canary"
    repository.commit({".gitattributes": "* filter=evil\n", "a.txt": "one"})
    repository.git("config", "filter.evil.smudge", f"touch {canary}")
    (repository.folder / ".git/hooks/post-checkout").write_text(f"#!/bin/sh\ntouch {canary}\n")
    (repository.folder / ".git/hooks/post-checkout").chmod(0o755)

    await codesets.pin(Codeset(name="digits", url=repository.url))

    assert not canary.exists()


async def test_a_link_out_of_a_repository_is_refused(codesets: Codesets, repository: Repository) -> None:
    (repository.folder / "bad").symlink_to("/etc/passwd")
    repository.commit({"a.txt": "one"})

    with pytest.raises(InvalidInputError, match=r"its link bad -> /etc/passwd leaves the repository"):
        await codesets.pin(Codeset(name="digits", url=repository.url))


@pytest.mark.parametrize("damage", ["shallow.lock", "HEAD", "config"])
async def test_what_a_killed_git_left_behind_does_no_harm(
    codesets: Codesets, repository: Repository, tmp_path: Path, damage: str
) -> None:
    repository.commit({"a.txt": "one"})
    await codesets.pin(Codeset(name="digits", url=repository.url))
    (mirror,) = (tmp_path / "state/codesets/mirrors").iterdir()
    (mirror / damage).write_text("")

    commit = repository.commit({"a.txt": "two"})

    assert (await codesets.pin(Codeset(name="digits", url=repository.url))).version == commit


async def test_a_repository_over_the_limit_is_refused(tmp_path: Path, repository: Repository) -> None:
    repository.commit({"a.txt": "x" * 100})
    codesets = Codesets(tmp_path / "state", (tmp_path,), limit_bytes=50)

    with pytest.raises(InvalidInputError, match=r"100 bytes, more than the 50 .*codesets\.limit_bytes"):
        await codesets.pin(Codeset(name="digits", url=repository.url))
    with pytest.raises(InvalidInputError, match=r"codesets\.limit_bytes"):
        await codesets.pin(Codeset(name="digits", path=str(repository.folder)))


async def test_many_pins_at_once_agree(codesets: Codesets, repository: Repository) -> None:
    repository.commit({"a.txt": "one"})
    versions: list[str] = []

    async def pin() -> None:
        versions.append((await codesets.pin(Codeset(name="digits", url=repository.url))).version)

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(pin)

    assert len(versions) == 8
    assert len(set(versions)) == 1


async def test_a_folder_is_pinned_as_a_private_copy(codesets: Codesets, tmp_path: Path) -> None:
    folder = tmp_path / "folders/digits"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/a.txt").write_text("one")
    codeset = Codeset(name="digits", path=str(folder))

    pinned = await codesets.pin(codeset)
    (folder / "sub/a.txt").write_text("two")
    later = await codesets.pin(codeset)

    assert pinned.version.startswith("sha256:")
    assert files(await codesets.source(pinned)) == {"sub/a.txt": "one"}
    assert files(await codesets.source(later)) == {"sub/a.txt": "two"}


async def test_a_folder_has_a_version_for_its_content_and_nothing_else(codesets: Codesets, tmp_path: Path) -> None:
    folder = tmp_path / "folders/digits"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    codeset = Codeset(name="digits", path=str(folder))
    version = await codesets.version(codeset)

    os.utime(folder / "a.txt", (1, 1))
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/x.pyc").write_text("x")

    assert await codesets.version(codeset) == version == (await codesets.pin(codeset)).version
    (folder / "a.txt").write_text("two")
    assert await codesets.version(codeset) != version


async def test_a_folder_outside_the_roots_is_refused_also_through_a_link(
    codesets: Codesets, tmp_path: Path
) -> None:
    (tmp_path / "folders").mkdir()
    (tmp_path / "private").mkdir()
    (tmp_path / "folders/link").symlink_to(tmp_path / "private")

    for path in (tmp_path / "private", tmp_path / "folders/link", tmp_path / "folders/../private"):
        with pytest.raises(ForbiddenError, match=r"codesets\.roots"):
            await codesets.pin(Codeset(name="digits", path=str(path)))


async def test_a_folder_has_no_refs_and_must_exist(codesets: Codesets, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no folder"):
        await codesets.pin(Codeset(name="digits", path=str(tmp_path / "folders/missing")))
    with pytest.raises(InvalidInputError, match="a folder has no branches"):
        await codesets.pin(Codeset(name="digits", path=str(tmp_path / "folders")), "main")


async def test_pins_survive_a_restart_and_are_discarded_unless_somebody_has_asked_for_them_lately(
    codesets: Codesets, repository: Repository, tmp_path: Path
) -> None:
    repository.commit({"a.txt": "one"})
    kept = await codesets.pin(Codeset(name="digits", url=repository.url))
    repository.commit({"a.txt": "two"})
    doomed = await codesets.pin(Codeset(name="digits", url=repository.url))
    again = Codesets(tmp_path / "state", (tmp_path,))
    now = time.time()
    os.utime(await again.source(doomed), (now - 7200,) * 2)
    copies = {copy.digest: copy for copy in await again.copies()}

    gone = [await again.discard(copies[pinned.digest], now) for pinned in (kept, doomed)]

    assert gone == [False, True]
    assert files(await again.source(kept)) == {"a.txt": "one"}
    with pytest.raises(NotFoundError, match="start a new run"):
        await again.source(doomed)


async def test_a_repository_is_pinned_without_its_submodules(
    codesets: Codesets, repository: Repository, new_repository: Callable[[str], Repository]
) -> None:
    inner = new_repository("inner")
    inner.commit({"b.txt": "inner"})
    repository.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", inner.url, "inner")
    repository.commit({"a.txt": "one"})

    source = await codesets.source(await codesets.pin(Codeset(name="digits", url=repository.url)))

    assert set(files(source)) == {".gitmodules", "a.txt"}
