"""Strings with `{{ references }}`: parsed once when a document is read, rendered once when a step starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from fusemld.model.errors import InvalidInputError


class Reference(msgspec.Struct, frozen=True):
    """One `{{ reference }}`, split at its dots and normalised.

    The path is one of ``("inputs", NAME)``, ``("inputs", NAME, FIELD)``, ``("steps", STEP, "outputs", NAME)``,
    ``("extensions", NAME, FIELD)``, ``("extensions", NAME, "cfg", KEY)``, ``("workflow", "name")`` and
    ``("run", "id")``; `extension.` has become `extensions.`. Names may contain dots: they are kept whole.
    """

    path: tuple[str, ...]

    def __str__(self) -> str:
        return "{{ " + ".".join(self.path) + " }}"


class Template(msgspec.Struct, frozen=True):
    """Literal text and references in the order of the string. No two literals are adjacent, none is empty."""

    parts: tuple[str | Reference, ...] = ()

    @property
    def references(self) -> tuple[Reference, ...]:
        return tuple(part for part in self.parts if isinstance(part, Reference))

    def __str__(self) -> str:
        """The string as the user could have written it."""
        return "".join(str(part) for part in self.parts)


class Value(msgspec.Struct, frozen=True):
    """What a reference stands for. A secret one makes every string that takes it in secret as a whole."""

    text: str
    secret: bool = False


Lookup = Callable[[Reference], Value]

NAME_LENGTH = 4096
"""In characters, of what names something: an image, a codeset, a selector. What is longer was put together by
mistake, or to do harm."""


def literal(text: str) -> Template:
    return Template((text,)) if text else Template()


def render(template: Template, lookup: Lookup) -> Value:
    """Substitute once; what comes out is never looked at again. `lookup` raises for what it does not know."""
    values = list(_values(template, lookup))
    return Value("".join(value.text for value in values), any(value.secret for value in values))


def limited(lookup: Lookup, length: int) -> Lookup:
    """All that is looked up together has at most that many characters: `InvalidInputError` for what has more."""
    left = length

    def counting(reference: Reference) -> Value:
        nonlocal left
        value = lookup(reference)
        left -= len(value.text)
        if left < 0:
            raise InvalidInputError(
                f"cannot render {reference}: with it, the values have more than the {length:,} characters "
                "together that are allowed"
            )
        return value

    return counting


def _values(template: Template, lookup: Lookup) -> Iterator[Value]:
    for part in template.parts:
        yield lookup(part) if isinstance(part, Reference) else Value(part)
