from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from fusemld.executors.kubernetes.names import (
    attempt_of,
    attempts_selector,
    codesets_selector,
    is_ours,
    label_value,
    labels,
    notes,
    outputs_of,
    owned,
    pod_name,
)
from fusemld.hooks.clusters import Json
from fusemld.model.run import AttemptKey

HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True)
KEYS = st.builds(AttemptKey, NAMES, NAMES, st.integers(1, 10**9 - 1))
KEY = AttemptKey("mlflow-e2e-261123-081502-fgk3f9x2", "trainer", 2)


def thing(key: AttemptKey, instance: str = "one", **more: object) -> Json:
    return {
        "metadata": {
            "labels": labels(key, "mlflow-e2e", instance),
            "annotations": notes(key, "mlflow-e2e", ("a",)),
            **more,
        }
    }


@given(KEYS, st.text(max_size=40))
def test_a_pod_name_is_a_host_name(key: AttemptKey, instance: str) -> None:
    assert HOST_NAME.fullmatch(pod_name(key, instance))


@given(KEYS, KEYS)
def test_pod_names_of_different_attempts_differ(one: AttemptKey, other: AttemptKey) -> None:
    assert (pod_name(one, "i") == pod_name(other, "i")) == (one == other)


def test_a_pod_name_says_what_it_is_of_and_is_another_in_another_instance() -> None:
    assert pod_name(KEY, "one").startswith("mlflow-e2e-261123-081502-fgk3f9x2-trainer-2-")
    assert pod_name(KEY, "one") == pod_name(KEY, "one")
    assert pod_name(KEY, "one") != pod_name(KEY, "other")


@given(st.text(max_size=120))
@example("ends-oddly-")
@example("x" * 63)
@example("x" * 64)
def test_any_text_has_a_label_value(text: str) -> None:
    assert LABEL.fullmatch(label_value(text))


@given(st.text(max_size=5) | NAMES, st.text(max_size=5) | NAMES)
def test_label_values_of_different_texts_differ(one: str, other: str) -> None:
    assert (label_value(one) == label_value(other)) == (one == other)


def test_a_text_that_looks_like_a_shortened_one_is_no_exception() -> None:
    shortened = label_value("ends-oddly-")

    assert label_value(shortened) != shortened


@given(KEYS)
def test_a_pod_tells_its_attempt(key: AttemptKey) -> None:
    assert attempt_of(thing(key)) == key
    assert is_ours(thing(key), key, "one")
    assert outputs_of(thing(key)) == ("a",)


def test_things_of_others_are_not_ours() -> None:
    other_step = AttemptKey(KEY.run, "other", KEY.attempt)

    assert not is_ours(thing(KEY, "two"), KEY, "one")
    assert not is_ours(thing(other_step), KEY, "one")
    assert not is_ours({"metadata": {"name": pod_name(KEY, "one")}}, KEY, "one")
    assert not is_ours(thing(KEY, labels={}), KEY, "one")


def test_what_has_no_proper_annotations_is_of_no_attempt() -> None:
    broken: list[Json] = [
        {},
        {"metadata": None},
        {"metadata": {"annotations": []}},
        thing(KEY, annotations={"x": 1}),
    ]
    broken.append(thing(KEY, annotations=notes(KEY, "w") | {"fusemld.io/attempt": "1²"}))

    assert [attempt_of(one) for one in broken] == [None] * len(broken)
    assert outputs_of(thing(KEY, annotations={"fusemld.io/outputs": "[1"})) == ()


def test_selectors_find_what_is_owned() -> None:
    assert all(f"{name}={value}" in attempts_selector("one") for name, value in owned("one").items())
    assert attempts_selector("one") != codesets_selector("one")
