from __future__ import annotations

from pathlib import Path

import pytest

from fusemld.model.errors import StartError
from fusemld.services.credentials import FILE, ensure_credentials, read_credentials


def test_values_are_generated_once_and_kept(tmp_path: Path) -> None:
    first = ensure_credentials(tmp_path / "s3", ("access", "secret"))
    second = ensure_credentials(tmp_path / "s3", ("access", "secret", "another"))

    assert second.items() > first.items()
    assert len(set(second.values())) == 3
    assert read_credentials(tmp_path / "s3") == second
    assert (tmp_path / "s3" / FILE).stat().st_mode & 0o777 == 0o600


def test_a_service_without_credentials_has_no_file(tmp_path: Path) -> None:
    assert ensure_credentials(tmp_path, ()) == {}
    assert not (tmp_path / FILE).exists()


def test_a_file_that_cannot_be_read_is_an_error_without_its_content(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"secret": canary')

    with pytest.raises(StartError, match="cannot read") as caught:
        read_credentials(tmp_path)

    assert "canary" not in str(caught.value)
