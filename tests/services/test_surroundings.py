from __future__ import annotations

from pathlib import Path

from fusemld.services.surroundings import minimal_environment

FOLDER = Path("/state/services/s3")


def test_only_what_is_listed_is_passed_on() -> None:
    host = {"PATH": "/bin", "SSL_CERT_FILE": "/ca", "UV_INDEX_URL": "https://u:p@i", "AWS_SECRET_ACCESS_KEY": "x"}

    assert minimal_environment(FOLDER, host) == {
        "PATH": "/bin",
        "LANG": "C.UTF-8",
        "HOME": "/state/services/s3",
        "TMPDIR": "/state/services/s3/tmp",
        "SSL_CERT_FILE": "/ca",
        "NO_PROXY": "127.0.0.1,localhost,::1",
        "no_proxy": "127.0.0.1,localhost,::1",
    }


def test_loopback_is_added_to_what_the_host_excepts_from_its_proxy() -> None:
    env = minimal_environment(FOLDER, {"https_proxy": "http://proxy:3128", "no_proxy": "example.org,localhost"})

    assert env["https_proxy"] == "http://proxy:3128"
    assert env["no_proxy"] == "example.org,localhost,127.0.0.1,::1"
