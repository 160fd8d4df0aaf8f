"""The tests' own way to the API server, which shares nothing with what is tested."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Json = dict[str, Any]


class ApiError(Exception):
    """What the API server did not want; `code` is the HTTP status."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Api:
    """Synchronous calls with a client certificate. No answer at all raises `OSError`."""

    def __init__(self, server: str, pki: Path, user: str = "admin") -> None:
        self.server = server
        self._tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._tls.load_cert_chain(pki / f"{user}.crt", pki / f"{user}.key")

    def call(
        self, method: str, path: str, body: Json | bytes | None = None, content_type: str = "application/json"
    ) -> bytes:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        with self._open(method, path, data, content_type) as answer:
            text: bytes = answer.read()
            return text

    @contextmanager
    def _open(
        self, method: str, path: str, data: bytes | None, content_type: str, timeout_s: float = 60
    ) -> Iterator[Any]:
        request = urllib.request.Request(
            self.server + path, data=data, method=method, headers={"Content-Type": content_type}
        )
        try:
            with urllib.request.urlopen(request, context=self._tls, timeout=timeout_s) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            with error:
                raise ApiError(error.code, error.read().decode(errors="replace")[:2000]) from None
        except http.client.HTTPException as error:
            raise ConnectionResetError(f"the answer to {method} {path} broke off") from error

    def get(self, path: str) -> Json:
        found: Json = json.loads(self.call("GET", path))
        return found

    def find(self, path: str) -> Json | None:
        try:
            return self.get(path)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def items(self, path: str) -> list[Json]:
        return list(self.get(path)["items"])

    def create(self, path: str, body: Json) -> Json:
        made: Json = json.loads(self.call("POST", path, body))
        return made

    def patch(self, path: str, body: Json) -> Json:
        """Merge patch."""
        patched: Json = json.loads(self.call("PATCH", path, body, "application/merge-patch+json"))
        return patched

    def apply(self, path: str, text: bytes, manager: str = "tests") -> None:
        """Server-side apply of one object as YAML or JSON."""
        query = f"?fieldManager={manager}&force=true"
        self.call("PATCH", path + query, text, "application/apply-patch+yaml")

    def delete(self, path: str, grace_s: int | None = None) -> bool:
        """False where there is nothing."""
        body: Json = {} if grace_s is None else {"gracePeriodSeconds": grace_s}
        try:
            self.call("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1"} | body)
        except ApiError as error:
            if error.code == 404:
                return False
            raise
        return True

    def is_ready(self) -> bool:
        try:
            self.call("GET", "/readyz")
        except (ApiError, OSError):
            return False
        return True

    def watch(self, path: str, since: str, timeout_s: int = 3600) -> Iterator[Json]:
        """The events after the resource version `since` until the server ends the watch."""
        query = urllib.parse.urlencode({"watch": "1", "resourceVersion": since, "timeoutSeconds": timeout_s})
        with self._open("GET", f"{path}?{query}", None, "application/json", timeout_s + 30) as answer:
            for line in answer:
                yield json.loads(line)


class PodHistory:
    """Every pod that has ever been in a namespace since this was made: what was created, by name to uids.

    It lists and watches in a thread of its own and survives the API server's absence; a pod that came and went
    during such an absence it does not see.
    """

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self.pods: dict[str, dict[str, Json]] = {}
        """Name to uid to the last state that was seen."""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"history of {namespace}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                listed = self._api.get(self._path)
                for pod in listed["items"]:
                    self._see(pod)
                for event in self._api.watch(self._path, listed["metadata"]["resourceVersion"], 20):
                    if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                        self._see(event["object"])
                    if self._closing.is_set():
                        return
            except (OSError, ApiError, ValueError):
                self._closing.wait(0.2)

    def _see(self, pod: Json) -> None:
        metadata = pod["metadata"]
        self.pods.setdefault(metadata["name"], {})[metadata["uid"]] = pod
