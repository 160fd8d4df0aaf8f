"""Images that are another one and a layer more; only that layer is moved to who has the other one."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OCI = "application/vnd.oci.image"


def write_archive(archive: Path, name: str, base: Path, content: Mapping[str, Path]) -> None:
    """An OCI archive for an image store that has what is in the archive `base`, as podman saves one image.
    `content` maps paths in the image to folders of the host."""
    layer = archive.with_suffix(".layer")
    with tarfile.open(layer, "w") as tar:
        for place, folder in content.items():
            tar.add(folder, place)
    with layer.open("rb") as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    config, layers = _base(base)
    config["rootfs"]["diff_ids"].append(digest)
    config.pop("history", None)
    layers.append(_descriptor("layer.v1.tar", digest, layer.stat().st_size))
    written = json.dumps(config).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": _descriptor("config.v1+json", _digest(written), len(written)),
        "layers": layers,
    }
    listed = json.dumps(manifest).encode()
    annotations = {"annotations": {"io.containerd.image.name": name}}
    described = _descriptor("manifest.v1+json", _digest(listed), len(listed)) | annotations
    index = {"schemaVersion": 2, "manifests": [described]}
    with tarfile.open(archive, "w") as tar:
        tar.add(layer, _blob(digest))
        for path, data in {
            _blob(_digest(written)): written,
            _blob(_digest(listed)): listed,
            "index.json": json.dumps(index).encode(),
            "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        }.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    layer.unlink()


def _base(archive: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Its configuration and the descriptors of its layers."""
    with tarfile.open(archive) as tar:
        (image,) = json.loads(_read(tar, "manifest.json"))
        config = json.loads(_read(tar, image["Config"]))
        sizes = [tar.getmember(layer).size for layer in image["Layers"]]
    digests = config["rootfs"]["diff_ids"]
    return config, [_descriptor("layer.v1.tar", *one) for one in zip(digests, sizes, strict=True)]


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None, f"{name} is no file"
    return file.read()


def _descriptor(kind: str, digest: str, size_bytes: int) -> dict[str, Any]:
    return {"mediaType": f"{OCI}.{kind}", "digest": digest, "size": size_bytes}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"
