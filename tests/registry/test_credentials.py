from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusemld.model.errors import StartError
from fusemld.model.extension import (
    Credentials,
    Endpoint,
    Extension,
    ResolvedService,
    SecretReference,
    Selectors,
    Service,
    ServiceAccess,
)
from fusemld.model.template import Reference, Template, literal
from fusemld.model.workflow import Requirement
from fusemld.registry.credentials import (
    AllowedSources,
    MergedConfiguration,
    access_to,
    merge_configurations,
    secret_keys,
)
from fusemld.registry.matching import match

NOTHING = AllowedSources()


def _record(secret: str | SecretReference, product: str = "mlflow", key: str = "SECRET") -> Extension:
    return Extension(
        id=f"{product}-1",
        product=product,
        configuration={"A": "extension", "B": "extension", "C": "extension", key: "extension"},
        services=(
            Service(
                id="s",
                resource="s3",
                configuration={"B": "service", "C": "service"},
                endpoints=(Endpoint(url="http://x", configuration={"C": "endpoint"}),),
                credentials=(Credentials(id="c", configuration={key: secret}),),
            ),
        ),
    )


def _access(secret: str | SecretReference, allowed: AllowedSources = NOTHING) -> ServiceAccess:
    found = match(Selectors(name="e", service_resource="s3"), [_record(secret)], zone="", project="p", user="u")
    assert found.chosen is not None
    return access_to(found.chosen, "e", allowed, {})


def test_configuration_is_merged_from_the_general_to_the_particular() -> None:
    access = _access("hunter2")

    assert access.configuration == {"A": "extension", "B": "service", "C": "endpoint", "SECRET": "hunter2"}
    assert access.secret_keys == {"SECRET"}
    assert access.service == ResolvedService(
        requirement="e",
        extension_id="mlflow-1",
        service_id="s",
        url="http://x",
        credentials_id="c",
        product="mlflow",
        service_resource="s3",
    )
    assert "hunter2" not in repr(access)


def test_a_secret_is_taken_from_an_allowed_variable_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "hunter2")
    reference = SecretReference(from_env="THE_KEY")

    assert (
        _access(reference, AllowedSources(variables=frozenset({"THE_KEY"}))).configuration["SECRET"] == "hunter2"
    )
    with pytest.raises(StartError, match="the settings do not allow records to read the variable 'THE_KEY'"):
        _access(reference, AllowedSources(variables=frozenset({"OTHER"})))


def test_an_allowed_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THE_KEY", raising=False)

    with pytest.raises(StartError, match="'SECRET' of mlflow-1/s/c: the daemon's environment has no variable"):
        _access(SecretReference(from_env="THE_KEY"), AllowedSources(variables=frozenset({"THE_KEY"})))


def test_a_secret_is_taken_from_a_file_below_an_allowed_folder(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    file = tmp_path / "secrets" / "key"
    file.write_text("hunter2\n")

    access = _access(SecretReference(from_file=str(file)), AllowedSources(folders=(tmp_path / "secrets",)))

    assert access.configuration["SECRET"] == "hunter2"


@pytest.mark.parametrize(
    "name", ["key", "secrets/../key", "secrets/link", "secrets/folder/key", "secrets-too/key"]
)
def test_files_elsewhere_are_refused_by_whatever_name(tmp_path: Path, name: str) -> None:
    for folder in ("secrets", "secrets-too"):
        (tmp_path / folder).mkdir()
    for file in ("key", "secrets-too/key"):
        (tmp_path / file).write_text("hunter2")
    (tmp_path / "secrets" / "link").symlink_to(tmp_path / "key")
    (tmp_path / "secrets" / "folder").symlink_to(tmp_path)

    with pytest.raises(StartError, match="the settings do not allow records to read"):
        _access(SecretReference(from_file=str(tmp_path / name)), AllowedSources(folders=(tmp_path / "secrets",)))


def test_what_is_no_small_text_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_bytes(b"x" * (1024 * 1024 + 1))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    allowed = AllowedSources(folders=(tmp_path,))

    for name, reason in [
        ("pipe", "is not a file that may be read"),
        ("folder", "is not a file that may be read|Is a directory"),
        ("large", "is larger than 1 MiB"),
        ("binary", "is not UTF-8 text"),
        ("absent", "No such file"),
    ]:
        with pytest.raises(StartError, match=reason):
            _access(SecretReference(from_file=str(tmp_path / name)), allowed)


def _of(requirement: str, configuration: dict[str, str], *secrets: str) -> ServiceAccess:
    return ServiceAccess(
        service=ResolvedService(requirement=requirement, extension_id="x", service_id="s"),
        configuration=configuration,
        secret_keys=frozenset(secrets),
    )


def test_of_two_requirements_that_set_a_key_differently_the_later_wins_with_a_warning() -> None:
    merged = merge_configurations(
        [
            _of("first", {"SAME": "1", "URL": "a", "KEY": "hunter1"}, "KEY"),
            _of("second", {"SAME": "1", "URL": "b", "KEY": "hunter2"}, "KEY"),
        ]
    )

    assert merged == MergedConfiguration(
        plain={"SAME": "1", "URL": "b"},
        secret={"KEY": "hunter2"},
        warnings=(
            "extensions 'first' and 'second' set 'URL' differently: 'second' wins",
            "extensions 'first' and 'second' set 'KEY' differently: 'second' wins",
        ),
    )
    assert "hunter" not in repr(merged)


def test_a_value_that_is_secret_in_one_requirement_stays_secret() -> None:
    merged = merge_configurations([_of("a", {"KEY": "hunter2"}, "KEY"), _of("b", {"KEY": "hunter2"})])

    assert merged.secret == {"KEY": "hunter2"}
    assert merged.plain == {}


def test_keys_that_any_possibly_matching_record_holds_under_credentials_may_be_secret() -> None:
    records = [_record("x", "mlflow", "M"), _record("x", "minio", "K")]
    open_product = Template((Reference(("inputs", "product")),))

    assert secret_keys(Selectors(name="e", product="mlflow"), records) == {"M"}
    assert secret_keys(Requirement(name="e", product=literal("minio")), records) == {"K"}
    assert secret_keys(Requirement(name="e", product=open_product), records) == {"M", "K"}
    assert secret_keys(Requirement(name="e", service_resource=literal("gcs")), records) == frozenset()
