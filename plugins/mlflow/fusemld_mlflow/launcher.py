"""Starts the tracking server once its bucket exists: `launcher.py BUCKET SERVER-OPTION...`.

A program of its own: it runs in the server's environment, which has boto3 and mlflow but not this project.
"""

from __future__ import annotations

import os
import sys


def ensure_bucket(bucket: str) -> None:
    import boto3  # type: ignore[import-not-found]
    from botocore.config import Config  # type: ignore[import-untyped]

    client = boto3.client("s3", config=Config(s3={"addressing_style": "path"}, connect_timeout=5, read_timeout=10))
    if bucket not in {entry["Name"] for entry in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=bucket)


def main() -> None:
    ensure_bucket(sys.argv[1])
    # with PYTHONDONTWRITEBYTECODE every start would compile some thousand modules anew
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "mlflow", "server", *sys.argv[2:]])  # noqa: S606


if __name__ == "__main__":
    main()
