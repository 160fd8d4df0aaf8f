"""The kinds of text that a document holds, each with the place where it stands."""

from __future__ import annotations

import re
from typing import ClassVar, Final, Self

from fusemld.spec.durations import parse_duration
from fusemld.spec.nodes import Place, ScalarNode

NAME_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_NAME: Final = re.compile(NAME_PATTERN)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,254}")
_NOWHERE: Final = ScalarNode(place=Place(line=1, column=1), text="")


def shown_name(name: str) -> str:
    """A name as messages list it; what can be none is quoted and cut short."""
    return name if _NAME.fullmatch(name) else repr(name[:60])


def named(noun: str, name: str) -> str:
    """A thing with its name; one whose name is missing, which is reported on its own, is `the step`."""
    return f"{noun} {name!r}" if name else f"the {noun}"


class Text(str):
    """Text as the user wrote it; anything goes. `node` is where it stands."""

    __slots__ = ("node",)
    node: ScalarNode
    what: ClassVar[str] = "text"

    def __new__(cls, node: ScalarNode = _NOWHERE) -> Self:
        text = super().__new__(cls, node.text)
        text.node = node
        return text

    @property
    def place(self) -> Place:
        return self.node.place

    @property
    def text(self) -> str:
        """The same as an ordinary string, which is what msgspec can encode."""
        return str.__str__(self)

    def complaint(self) -> str | None:
        """What is wrong with it, and the remedy."""
        return None


class Literal(Text):
    """Text in which no expression is allowed."""

    __slots__ = ()

    def complaint(self) -> str | None:
        if "{{" in self:
            return "no expression is allowed here: write the text itself"
        return None


class Name(Literal):
    """Names of documents and of what they declare."""

    __slots__ = ()
    what = "a name"

    def complaint(self) -> str | None:
        if (wrong := super().complaint()) is not None:
            return wrong
        if not self:
            return "the name is empty: give it one"
        if _NAME.fullmatch(self) is None:
            return (
                f"{_short(self)} is not a valid name: use up to 100 letters, digits, '.', '_' and '-', "
                "and start with a letter or digit"
            )
        return None


class VariableName(Literal):
    """Names of environment variables."""

    __slots__ = ()
    what = "the name of an environment variable"

    def complaint(self) -> str | None:
        if (wrong := super().complaint()) is not None:
            return wrong
        if _VARIABLE.fullmatch(self) is None:
            return f"{_short(self)} cannot be the name of an environment variable: use letters, digits and '_'"
        return None


class MountPath(Literal):
    """A folder inside a step, absolute."""

    __slots__ = ()
    what = "an absolute path"

    def complaint(self) -> str | None:
        if (wrong := super().complaint()) is not None:
            return wrong
        if not self.startswith("/"):
            return f"{_short(self)} is not an absolute path: start it with '/'"
        parts = self.split("/")
        if ".." in parts or self.strip("/") == "":
            return f"{_short(self)} cannot be mounted at: name a folder of its own such as /project, without '..'"
        return None


class Expression(Text):
    """Text in which `{{ references }}` are allowed."""

    __slots__ = ()
    what = "text, expressions allowed"


class Duration(Literal):
    """`90s`, `15m`, `2h`, `1d`."""

    __slots__ = ()
    what = "a duration such as 90s, 15m, 2h or 1d"

    def complaint(self) -> str | None:
        try:
            parse_duration(self)
        except ValueError as error:
            return str(error)
        return None

    @property
    def seconds(self) -> float:
        """0 where there is a complaint."""
        try:
            return parse_duration(self)
        except ValueError:
            return 0.0


class ReadOnly:
    """What the reference server adds to its answers (`created`, `status`): accepted and ignored."""

    __slots__ = ()


class Later:
    """A field of the language that this version does not support yet."""

    __slots__ = ()


def _short(text: str) -> str:
    return repr(str(text) if len(text) <= 60 else text[:57] + "...")
