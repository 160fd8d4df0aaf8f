"""Texts of the user on their way into a pod, and secret ones into its Secret."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final

from fusemld.hooks.clusters import Json
from fusemld.hooks.executors import Launch
from fusemld.model.errors import StartError

_LONGEST_VARIABLE_BYTES: Final = 128 * 1024 - 1
"""`NAME=value` of one variable, a limit of Linux (MAX_ARG_STRLEN)."""
_SECRET_LIMIT_BYTES: Final = 1024 * 1024


def literal(text: str) -> str:
    """The text for a field in which Kubernetes replaces `$(NAME)`; `$$` stands for `$` there."""
    return text.replace("$", "$$")


def from_secret(name: str, secret_name: str, key: str) -> Json:
    """The variable whose value is below `key` in a Secret. Kubernetes replaces nothing in it."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret_name, "key": key}}}


def secret_keys(launch: Launch) -> dict[str, str]:
    """For each secret variable its key in the Secret: names of variables may hold what keys may not."""
    return {name: f"env.{number}" for number, name in enumerate(launch.secret_env)}


def secret_data(launch: Launch, values: Mapping[str, str]) -> dict[str, str]:
    """`values` by key as a Secret holds them. Raises `StartError` where they are too many for one."""
    found = {key: text.encode("utf-8", "surrogateescape") for key, text in values.items()}
    size = sum(len(key) + len(value) for key, value in found.items())
    if size > _SECRET_LIMIT_BYTES:
        raise StartError(
            f"cannot start {launch.key}: its credentials have {size} bytes, and a Secret takes at most "
            f"{_SECRET_LIMIT_BYTES}"
        )
    return {key: base64.b64encode(value).decode() for key, value in found.items()}


def check(launch: Launch, env: Mapping[str, str]) -> None:
    """Raises `StartError` for commands and variables that no pod can have."""
    remedy = "hand such a value over in a codeset or an object store"
    words = {"its command": " ".join((*(launch.command or ()), *(launch.args or ())))}
    values = {f"variable {name}": f"{name}={value}" for name, value in (*env.items(), *launch.secret_env.items())}
    for what, text in (*words.items(), *values.items()):
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise StartError(
                f"cannot start {launch.key}: {what} holds bytes that are not UTF-8, which no pod takes; {remedy}"
            ) from error
        if what in values and size > _LONGEST_VARIABLE_BYTES:
            raise StartError(
                f"cannot start {launch.key}: {what} has {size} bytes, and Linux takes at most "
                f"{_LONGEST_VARIABLE_BYTES} in one; {remedy}"
            )
