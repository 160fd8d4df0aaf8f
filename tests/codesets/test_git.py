"""Passwords: a repository behind HTTP basic authentication, served by git itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from fusemld.codesets.codesets import Codesets
from fusemld.codesets.git import Address, address, credentials_of
from fusemld.model.codeset import Codeset
from fusemld.model.errors import ForbiddenError, FusemldError, NotFoundError
from fusemld.model.extension import ResolvedService, ServiceAccess
from tests.codesets.git_server import CANARY, serving


class Repository(Protocol):
    folder: Path

    def git(self, *arguments: str) -> str: ...
    def commit(self, files: dict[str, str]) -> str: ...


@pytest.fixture
def server(repository: Repository) -> Iterator[str]:
    """The base address of a server for the repositories, which asks for ann's password."""
    with serving(repository.folder.parent) as url:
        yield url


@pytest.fixture
def codesets(tmp_path: Path) -> Codesets:
    return Codesets(tmp_path / "state", ())


def access(**configuration: str) -> ServiceAccess:
    service = ResolvedService(requirement="codeset", extension_id="forge", service_id="git")
    return ServiceAccess(service=service, configuration=configuration, secret_keys=frozenset(configuration))


@pytest.mark.parametrize("keys", [("GIT_USERNAME", "GIT_PASSWORD"), ("username", "token"), ("USER", "PASSWORD")])
async def test_a_password_opens_the_repository_and_is_written_nowhere(
    codesets: Codesets, repository: Repository, server: str, tmp_path: Path, keys: tuple[str, str]
) -> None:
    commit = repository.commit({"a.txt": "one"})
    codeset = Codeset(name="digits", url=f"{server}/digits/.git")

    pinned = await codesets.pin(codeset, None, access(**{keys[0]: "ann", keys[1]: CANARY}))

    assert pinned.version == commit
    assert (await codesets.source(pinned) / "a.txt").read_text() == "one"
    kept = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if CANARY.encode() in path.read_bytes()]


async def test_without_a_password_the_error_names_the_remedy(
    codesets: Codesets, repository: Repository, server: str
) -> None:
    repository.commit({"a.txt": "one"})

    with pytest.raises(ForbiddenError, match="access refused; name an extension with credentials"):
        await codesets.pin(Codeset(name="digits", url=f"{server}/digits/.git"))


async def test_a_wrong_password_is_told_with_git_s_words_and_not_repeated(
    codesets: Codesets, repository: Repository, server: str
) -> None:
    repository.commit({"a.txt": "one"})
    codeset = Codeset(name="digits", url=f"{server}/digits/.git")

    words = r"cannot use codeset default/digits: .*check the credentials.*fatal: Authentication failed"
    with pytest.raises(ForbiddenError, match=words) as caught:
        await codesets.pin(codeset, None, access(username="ann", password="wr0ng"))
    assert "wr0ng" not in str(caught.value)


async def test_a_redirect_to_another_host_does_not_get_the_password(
    codesets: Codesets, repository: Repository, server: str
) -> None:
    repository.commit({"a.txt": "one"})
    codeset = Codeset(name="digits", url=f"{server}/moved/digits/.git")

    with pytest.raises(ForbiddenError):
        await codesets.pin(codeset, None, access(username="ann", password=CANARY))


async def test_a_repository_the_server_does_not_have_is_not_found(codesets: Codesets, server: str) -> None:
    codeset = Codeset(name="digits", url=f"{server}/none.git")

    with pytest.raises(NotFoundError, match="no such repository"):
        await codesets.pin(codeset, None, access(username="ann", password=CANARY))


def test_credentials_are_hidden_when_shown() -> None:
    assert CANARY not in repr(credentials_of(access(password=CANARY)))


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("https://example.org/a.git", "example.org", None),
        ("https://example.org:8443/a.git", "example.org:8443", None),
        ("git@example.org:group/a.git", "example.org", None),
        ("ssh://git@example.org/a.git", "example.org", None),
        ("https://example.org/@ann/a.git", "example.org", None),
        ("file:///srv/a.git", "", "/srv/a.git"),
        ("/srv/a.git", "", "/srv/a.git"),
    ],
)
def test_all_usual_addresses_are_understood(url: str, host: str, path: str | None) -> None:
    assert address(url) == Address(url=url, host=host, path=path)


async def test_an_ssh_key_reaches_ssh_in_a_private_file_that_is_gone_afterwards(
    codesets: Codesets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "note"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text(
        f'#!/bin/sh\nwhile [ "$1" != -i ]; do shift; done\nstat -c %a "$2" > {note}\ncat "$2" >> {note}\nexit 1\n'
    )
    (tmp_path / "bin/ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    codeset = Codeset(name="digits", url="git@example.org:a.git")

    with pytest.raises(FusemldError, match="cannot read"):
        await codesets.version(codeset, None, access(GIT_SSH_KEY="THE KEY"))

    assert note.read_text() == "600\nTHE KEY\n"
    assert list((tmp_path / "state/codesets/tmp").iterdir()) == []
