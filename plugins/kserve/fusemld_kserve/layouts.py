"""Models laid out as an engine wants them, by copies that the object store makes itself.

They lie in the model's bucket, below `fusemld-serving/INSTANCE/APPLICATION/`, in a folder named after their
content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from urllib.parse import urlsplit

from fusemld.hooks.stores import ObjectStore, StoredObject
from fusemld_kserve.engines import Layout

ROOT = "fusemld-serving"


def prefix(model: str, instance: str, application: str) -> str:
    """Below it is everything that was laid out for the application."""
    return f"s3://{urlsplit(model).netloc}/{ROOT}/{instance}/{application}"


def relative(model: str, objects: Sequence[StoredObject]) -> dict[str, StoredObject]:
    """The model's files by their names relative to its address."""
    root = urlsplit(model).path.lstrip("/") + "/"
    return {each.key.removeprefix(root): each for each in objects if each.key.startswith(root) and each.size}


async def made(store: ObjectStore, layout: Layout, model: str, files: dict[str, StoredObject], below: str) -> str:
    """The address of the layout `below` a prefix; what is there already is not copied again."""
    lines = [f"{files[source].etag} {files[source].size} {source} {target}" for source, target in layout.copies]
    digest = hashlib.sha256("\n".join([model, *lines]).encode()).hexdigest()[:16]
    address = f"{below}/{digest}"
    root = urlsplit(address).path.lstrip("/") + "/"
    present = {each.key.removeprefix(root): each.size for each in await store.list(f"{address}/")}
    for source, target in layout.copies:
        if present.get(target) != files[source].size:
            await store.copy(f"{model}/{source}", f"{address}/{target}")
    return address


async def delete_others(store: ObjectStore, below: str, kept: str) -> None:
    """Every layout of the application but the one at the address `kept`."""
    root = urlsplit(below).path.lstrip("/") + "/"
    names = {each.key.removeprefix(root).partition("/")[0] for each in await store.list(f"{below}/")}
    for name in sorted(names):
        if f"{below}/{name}" != kept:
            await store.delete(f"{below}/{name}/")
