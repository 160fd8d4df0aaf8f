"""A real S3 server that pods can reach, and a program that writes to it from a pod with next to no libraries."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from fusemld_s3.service import ACCESS_KEY, SECRET_KEY, RcloneKind

from fusemld.hooks.building import build_environment
from fusemld.hooks.services import ServiceAddress, ServiceContext
from fusemld.hooks.steps import RuntimeFolders
from tests.acceptance.repositories import await_listener, free_port

ACCESS = "test-access-key-0001"
SECRET = "test-secret-key-0001"

UPLOAD = r'''
"""upload.py FOLDER s3://BUCKET/PREFIX: every file of a folder, signed as Amazon's version 4 wants it."""
import datetime, hashlib, os, pathlib, socket, sys

REGION = "us-east-1"


def hmac(key, text):
    key = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + text.encode()).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).digest()


def put(path, data=b""):
    host, now = os.environ["S3_ENDPOINT"], datetime.datetime.now(datetime.timezone.utc)
    day, moment, body = f"{now:%Y%m%d}", f"{now:%Y%m%dT%H%M%SZ}", hashlib.sha256(data).hexdigest()
    headers = {"host": host, "x-amz-content-sha256": body, "x-amz-date": moment}
    lines, names = "".join(f"{name}:{value}\n" for name, value in headers.items()), ";".join(headers)
    digest = hashlib.sha256(f"PUT\n{path}\n\n{lines}\n{names}\n{body}".encode()).hexdigest()
    scope, key = f"{day}/{REGION}/s3/aws4_request", f"AWS4{os.environ['AWS_SECRET_ACCESS_KEY']}".encode()
    for part in scope.split("/"):
        key = hmac(key, part)
    signature = hmac(key, f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={os.environ['AWS_ACCESS_KEY_ID']}/{scope},"
        f"SignedHeaders={names},Signature={signature}"
    )
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    name, port = host.split(":")
    with socket.create_connection((name, int(port))) as server:
        end = f"content-length: {len(data)}\r\nconnection: close\r\n\r\n"
        server.sendall(f"PUT {path} HTTP/1.1\r\n{head}{end}".encode() + data)
        answer = b"".join(iter(lambda: server.recv(4096), b"")).decode()
    assert " 200 " in answer.splitlines()[0], answer


folder, target = pathlib.Path(sys.argv[1]), sys.argv[2].removeprefix("s3:/")
put("/" + target.split("/")[1])
for file in sorted(folder.iterdir()):
    if file.is_file():
        put(f"{target}/{file.name}", file.read_bytes())
        print("wrote", file.name)
'''


class ObjectStore(msgspec.Struct, frozen=True, kw_only=True):
    """`folder` holds the buckets."""

    folder: Path
    address: str

    @property
    def record(self) -> str:
        """An extension record of it."""
        return f"""\
id: store
product: s3
services:
  - id: s3
    resource: s3
    auth_required: true
    endpoints:
      - url: http://{self.address}
        configuration:
          AWS_ENDPOINT_URL_S3: http://{self.address}
          S3_ENDPOINT: {self.address}
          S3_USE_HTTPS: "0"
    credentials:
      - {{id: one, configuration: {{AWS_ACCESS_KEY_ID: {ACCESS}, AWS_SECRET_ACCESS_KEY: {SECRET}}}}}
"""


def runtime_folders(folder: Path) -> RuntimeFolders:
    """Environments below the folder; what they are built from is kept between sessions."""
    shared = os.environ.get("FUSEMLD_TEST_CACHE")
    return RuntimeFolders(environments=folder / "environments", cache=Path(shared) if shared else folder / "cache")


@contextmanager
def object_store(folder: Path, host: str) -> Iterator[ObjectStore]:
    """The embedded object store's own program, listening where pods can reach it."""
    kind = RcloneKind()
    spec = kind.environment({})
    assert spec is not None
    environment = build_environment(spec, runtime_folders(folder), lambda _: None)
    keys = {ACCESS_KEY: ACCESS, SECRET_KEY: SECRET}
    address = ServiceAddress(name="s3", host=host, port=free_port(host), folder=folder / "s3", credentials=keys)
    context = ServiceContext(
        address=address, private_port=free_port(host), parameters={}, peers={}, environment=environment
    )
    plan = kind.plan(context)
    with (folder / "s3.log").open("wb") as log:
        server = subprocess.Popen(
            plan.argv,
            cwd=address.folder,
            env={"PATH": os.defpath, "HOME": str(folder), **plan.env, **plan.secret_env},
            stdout=log,
            stderr=log,
        )
    try:
        await_listener(host, address.port)
        yield ObjectStore(folder=address.folder / "data", address=f"{host}:{address.port}")
    finally:
        server.kill()
        server.wait()
