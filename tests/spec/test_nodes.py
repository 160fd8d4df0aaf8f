from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemld.spec.nodes import MAX_BYTES, MAX_DEPTH, MAX_NODES, MappingNode, Place, ScalarNode, SequenceNode, parse


def _only(data: bytes) -> str:
    nodes, problems = parse(data)
    assert nodes == []
    (problem,) = problems
    return problem.at("f")


def _mapping(data: bytes) -> MappingNode:
    (node,), problems = parse(data)
    assert problems == []
    assert isinstance(node, MappingNode)
    return node


def _bomb(levels: int) -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        pytest.param(
            b"a:\n\tb: 1\n", "f:2:1: a tab character is used for indentation: use spaces instead", id="tab"
        ),
        pytest.param(
            b"steps:\n  - name: a\n  \timage: b\n",
            "f:3:3: a tab character is used for indentation: use spaces instead",
            id="tab after spaces",
        ),
        pytest.param(
            b"a: ok\nb: caf\xe9\n", "f:2:7: invalid UTF-8 (byte 0xe9): save the file as UTF-8", id="invalid UTF-8"
        ),
        pytest.param(
            "a: \N{SNOWMAN}\nb: x\0y\n".encode(),
            "f:2:5: NUL byte: remove it, YAML text holds printable characters only",
            id="NUL",
        ),
        pytest.param(
            b"a: x\x07\n",
            "f:1:5: control character U+0007: remove it, YAML text holds printable characters only",
            id="control character",
        ),
        pytest.param(
            "a: 1\n".encode("utf-16"),
            "f:1:1: the file is not UTF-8 (its byte order mark says UTF-16 or UTF-32): save it as UTF-8",
            id="UTF-16",
        ),
        pytest.param(
            b'a: "x\\0"\n', "f:1:4: this text holds an escaped NUL character: remove it", id="escaped NUL"
        ),
        pytest.param(
            b"a: !!python/object:os.system x\n",
            "f:1:4: this YAML tag is not allowed: remove it, or put text that starts with '!' in quotes",
            id="unsafe tag",
        ),
        pytest.param(
            b"a: *nowhere\n",
            "f:1:4: this alias names no anchor above it: put text that starts with '*' in quotes",
            id="unknown alias",
        ),
        pytest.param(
            b"a: &x [1, *x]\n",
            "f:1:11: this alias stands inside of what it names: a value cannot contain itself",
            id="alias of itself",
        ),
        pytest.param(
            b"a: b: c\n", "f:1:5: not valid YAML: mapping values are not allowed in this context", id="syntax"
        ),
        pytest.param(
            b"a: 1\nb: 2\na: 3\n", "f:3:1: 'a' is given twice (first in line 1): remove one", id="duplicate key"
        ),
        pytest.param(
            b"a: {{ inputs.x }}\n",
            'f:1:5: braces start a mapping in YAML: put an expression in quotes, as in "{{ inputs.x }}"',
            id="expression without quotes",
        ),
    ],
)
def test_what_is_no_acceptable_yaml_gets_one_message_with_its_place_and_remedy(data: bytes, finding: str) -> None:
    nodes, problems = parse(data)

    assert [problem.at("f") for problem in problems] == [finding]
    assert nodes == [] or "twice" in finding or "braces" in finding


def test_a_file_above_the_size_budget_is_refused_unread() -> None:
    assert parse(b"#" * MAX_BYTES) == ([], [])
    assert _only(b"\xff" * (2 * MAX_BYTES)) == (
        "f:1:1: the file has 2,097,152 bytes, more than the 1,048,576 allowed: split it into several files"
    )


def test_an_alias_bomb_is_counted_and_never_expanded() -> None:
    started = time.perf_counter()

    finding = _only(_bomb(60))

    assert "more than 200,000 values once aliases are expanded" in finding
    assert time.perf_counter() - started < 5


def test_aliases_within_the_budget_are_accepted() -> None:
    nodes, problems = parse(_bomb(4))

    assert problems == []
    assert len(nodes) == 1


def test_the_node_budget_counts_all_documents_of_a_file() -> None:
    half = b"[" + b"x," * (MAX_NODES // 2) + b"]\n"

    assert parse(half)[1] == []
    assert "more than 200,000 values" in _only(half + b"---\n" + half)


def test_nesting_is_allowed_to_the_depth_budget_and_no_further() -> None:
    assert parse(b"[" * (MAX_DEPTH - 1) + b"x" + b"]" * (MAX_DEPTH - 1))[1] == []
    assert "nested more than 64 levels deep" in _only(b"[" * 100_000)


def test_nesting_through_aliases_counts_as_nesting() -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 70))]

    assert "nested more than 64 levels deep" in _only("\n".join(lines).encode())


def test_merge_keys_fill_in_what_a_mapping_does_not_say_itself() -> None:
    node = _mapping(b"base: &b {x: 1, y: 2}\nmine: {<<: *b, y: 3}\n")

    mine = node.entries["mine"][1]
    assert isinstance(mine, MappingNode)
    assert {key: value.text for key, (_, value) in mine.entries.items() if isinstance(value, ScalarNode)} == {
        "x": "1",
        "y": "3",
    }


def test_scalars_are_the_text_that_the_user_wrote() -> None:
    node = _mapping(b"a: [0x1F, 1.50, yes, ~, 'null', 2020-01-01, !!str 7]\n")

    listing = node.entries["a"][1]
    assert isinstance(listing, SequenceNode)
    scalars = [item for item in listing.items if isinstance(item, ScalarNode)]
    assert [scalar.text for scalar in scalars] == ["0x1F", "1.50", "yes", "~", "null", "2020-01-01", "7"]
    assert [scalar.is_null for scalar in scalars] == [False, False, False, True, False, False, False]


def test_a_utf8_byte_order_mark_is_dropped() -> None:
    assert list(_mapping(b"\xef\xbb\xbfa: 1\n").entries) == ["a"]


def test_characters_of_a_scalar_know_their_column() -> None:
    node = _mapping(b"plain: abc\nquoted: 'abc'\nescaped: \"a\\nc\"\n")

    places = [value.place_at(1) for _, value in node.entries.values() if isinstance(value, ScalarNode)]
    assert places == [Place(line=1, column=9), Place(line=2, column=11), Place(line=3, column=10)]


@pytest.mark.parametrize(
    "value", ["!hunter2", "*hunter2", "&hunter2 &x", "@hunter2", "`hunter2", "'hunter2", "hunter2: x: y"]
)
def test_messages_about_syntax_never_quote_values(value: str) -> None:
    _, problems = parse(f"password: {value}\n".encode())

    assert problems
    assert not any("hunter2" in problem.message for problem in problems)


@given(st.binary(max_size=400))
def test_random_bytes_are_nodes_or_problems(data: bytes) -> None:
    nodes, problems = parse(data)

    assert all(problem.line >= 1 and problem.column >= 1 for problem in problems)
    assert problems or all(isinstance(node, ScalarNode | SequenceNode | MappingNode) for node in nodes)


@given(st.text(alphabet="ab:-[]{}&*!|>'\"%@#,? \t\n<~\\", max_size=60))
def test_random_text_in_yamls_own_alphabet_is_nodes_or_problems(text: str) -> None:
    nodes, problems = parse(text.encode())

    assert problems or all(isinstance(node, ScalarNode | SequenceNode | MappingNode) for node in nodes)


@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\u2029"])
def test_lines_are_counted_as_editors_do_also_where_yaml_knows_other_ends(separator: str) -> None:
    mapping = _mapping(f"a: 1{separator}b: 2\r\nc: 3\rd: 4\n".encode())

    assert {name: place for name, (place, _) in mapping.entries.items()} == {
        "a": Place(line=1, column=1),
        "b": Place(line=1, column=6),
        "c": Place(line=2, column=1),
        "d": Place(line=3, column=1),
    }


@pytest.mark.parametrize("data", [b"name: all\nd", b"a: [1\nb", "a: 1\x85b".encode()])
def test_what_is_wrong_at_the_end_of_a_file_is_in_its_last_line(data: bytes) -> None:
    (problem,) = parse(data)[1]
    lines = data.decode().split("\n")

    assert problem.line == len(lines)
    assert 1 <= problem.column <= len(lines[-1]) + 1
