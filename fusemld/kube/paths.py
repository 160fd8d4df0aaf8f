"""What the path of a request says (https://kubernetes.io/docs/reference/using-api/api-concepts/)."""

from __future__ import annotations


def resource(path: str) -> tuple[str, bool]:
    """The resource of an API path, with its subresource (`pods`, `pods/log`), and whether one object is meant.

    Of a path that belongs to no resource (`/version`) the path itself.
    """
    parts = path.strip("/").split("/")
    match parts[0]:
        case "api":
            rest = parts[2:]
        case "apis":
            rest = parts[3:]
        case _:
            rest = []
    if len(rest) > 2 and rest[0] == "namespaces":
        rest = rest[2:]
    match rest:
        case [kind]:
            return kind, False
        case [kind, _]:
            return kind, True
        case [kind, _, subresource, *_]:
            return f"{kind}/{subresource}", True
        case _:
            return path, True
