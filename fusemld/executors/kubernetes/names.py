"""What things in the cluster are called, and how they are found again.

Names are readable and end in a hash of everything they stand for. Labels are for finding; the whole truth is in
annotations, which take any text.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence

import msgspec

from fusemld.hooks.clusters import INSTANCE, MANAGED_BY, MANAGER, Json
from fusemld.model.run import AttemptKey

RUN = "fusemld.io/run"
STEP = "fusemld.io/step"
ATTEMPT = "fusemld.io/attempt"
WORKFLOW = "fusemld.io/workflow"
OUTPUTS = "fusemld.io/outputs"
"""Annotation: the declared outputs as a JSON list."""
CODESET = "fusemld.io/codeset"
"""Label on the ConfigMaps of a codeset: the name they share."""

_LABEL_LENGTH = 63
_HASH_LENGTH = 10
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_HASHED_LABEL = re.compile(rf".*_[a-v0-9]{{{_HASH_LENGTH}}}")
_ALPHABET = "0123456789abcdefghijklmnopqrstuv"


@functools.lru_cache(maxsize=4096)
def pod_name(key: AttemptKey, instance: str) -> str:
    """The name of the attempt's pod, and of its Secret: at most 63 characters, a DNS label, so it is the host name
    too."""
    end = f"{key.attempt}-{_hash(instance, key.run, key.step, str(key.attempt))}"
    run = _slug(key.run, 36)
    step = _slug(key.step, _LABEL_LENGTH - len(run) - len(end) - 2)
    return "-".join(filter(None, (run, step, end)))


def codeset_name(sha256: str, instance: str) -> str:
    """What the ConfigMaps of one packed content share; `-0`, `-1`... make their names."""
    return f"fusemld-codeset-{_hash(instance, sha256)}{sha256[:16]}"


def label_value(text: str) -> str:
    """The text itself where a label can hold it, else a readable part of it and a hash; never the same for two."""
    if not text or (_LABEL.fullmatch(text) and not _HASHED_LABEL.fullmatch(text)):
        return text
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[: _LABEL_LENGTH - _HASH_LENGTH - 1].strip("._-")
    return f"{readable or 'x'}_{_hash(text)}"


def owned(instance: str) -> dict[str, str]:
    """Labels of everything that this daemon makes."""
    return {MANAGED_BY: MANAGER, INSTANCE: label_value(instance)}


def labels(key: AttemptKey, workflow: str, instance: str) -> dict[str, str]:
    """Of an attempt's pod and Secret."""
    more = {RUN: key.run, STEP: key.step, ATTEMPT: str(key.attempt), WORKFLOW: workflow}
    return owned(instance) | {name: label_value(text) for name, text in more.items()}


def notes(key: AttemptKey, workflow: str, outputs: Sequence[str] = ()) -> dict[str, str]:
    """Of an attempt's pod and Secret."""
    found = {RUN: key.run, STEP: key.step, ATTEMPT: str(key.attempt), WORKFLOW: workflow}
    return found | ({OUTPUTS: msgspec.json.encode(outputs).decode()} if outputs else {})


def attempts_selector(instance: str) -> str:
    """Label selector of the pods and Secrets of attempts."""
    return f"{_selector(owned(instance))},{ATTEMPT}"


def attempt_selector(key: AttemptKey, instance: str) -> str:
    """Label selector of the pod and Secret of one attempt."""
    found = {RUN: key.run, STEP: key.step, ATTEMPT: str(key.attempt)}
    return _selector(owned(instance) | {name: label_value(text) for name, text in found.items()})


def codesets_selector(instance: str) -> str:
    """Label selector of the ConfigMaps of codesets."""
    return f"{_selector(owned(instance))},{CODESET}"


def attempt_of(thing: Json) -> AttemptKey | None:
    """The attempt that a pod or Secret says it is of."""
    known = _strings(thing, "annotations")
    run, step, attempt = (known.get(name, "") for name in (RUN, STEP, ATTEMPT))
    if not run or not step or not re.fullmatch(r"[0-9]{1,9}", attempt):
        return None
    return AttemptKey(run, step, int(attempt))


def is_ours(thing: Json, key: AttemptKey, instance: str) -> bool:
    """Whether it is this daemon's pod or Secret of this attempt, and not one that somebody gave the same name."""
    found = _strings(thing, "labels")
    return attempt_of(thing) == key and all(found.get(name) == text for name, text in owned(instance).items())


def outputs_of(pod: Json) -> tuple[str, ...]:
    """The outputs that the attempt of this pod declares."""
    text = _strings(pod, "annotations").get(OUTPUTS, "[]")
    try:
        return msgspec.json.decode(text, type=tuple[str, ...])
    except msgspec.MsgspecError:
        return ()


def _strings(thing: Json, field: str) -> dict[str, str]:
    metadata = thing.get("metadata")
    found = metadata.get(field) if isinstance(metadata, dict) else None
    items = found.items() if isinstance(found, dict) else ()
    return {name: text for name, text in items if isinstance(name, str) and isinstance(text, str)}


def _selector(wanted: Mapping[str, str]) -> str:
    return ",".join(f"{name}={text}" for name, text in wanted.items())


def _slug(text: str, length: int) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:length].strip("-")


def _hash(*parts: str) -> str:
    """50 bits of the parts, in letters that every name may hold."""
    data = "\0".join(parts).encode("utf-8", "surrogateescape")
    number = int.from_bytes(hashlib.sha256(data).digest()[:8]) >> 14
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(45, -1, -5))
