from __future__ import annotations

import time
import tracemalloc

import pytest

from activity_plumbing.yaml_document import (
    MAX_ALIASES,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_NODES,
    Document,
    DocumentError,
    Problem,
    read_document,
)


def refusal(text: bytes | str) -> Problem:
    with pytest.raises(DocumentError) as caught:
        read_document(text if isinstance(text, bytes) else text.encode(), "here.yaml")
    (problem,) = caught.value.problems
    assert str(problem).startswith("here.yaml")
    return problem


def place(text: bytes | str) -> tuple[int, int]:
    problem = refusal(text)
    return problem.line, problem.column


def value(text: bytes | str) -> object:
    return read_document(text if isinstance(text, bytes) else text.encode(), "here.yaml").value


def alias_bomb() -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join(lines).encode()


# -- what a document says --


def test_plain_scalars_follow_the_yaml_1_2_core_schema() -> None:
    text = "a: true\nb: FALSE\nc: null\nd: ~\ne:\nf: 12\ng: -3\nh: 1.5\ni: 2e3\nj: word\nk: 2026-01-01\nl: +7\nm: 0\n"
    assert value(text) == {
        "a": True,
        "b": False,
        "c": None,
        "d": None,
        "e": None,
        "f": 12,
        "g": -3,
        "h": 1.5,
        "i": 2000.0,
        "j": "word",
        "k": "2026-01-01",
        "l": 7,
        "m": 0,
    }


def test_quoted_scalars_are_text() -> None:
    assert value("a: \"true\"\nb: '010'\nc: \"12:30\"\nd: 'yes'\ne: ''\nf: \"3\"\n") == {
        "a": "true",
        "b": "010",
        "c": "12:30",
        "d": "yes",
        "e": "",
        "f": "3",
    }


def test_block_scalars_are_text() -> None:
    assert value("a: |\n  010\nb: >-\n  yes\n  no\n") == {"a": "010\n", "b": "yes no"}


def test_keys_are_text_as_written() -> None:
    assert value('75: a\n"on": b\n') == {"75": "a", "on": "b"}


def test_collections_nest_in_flow_and_in_block_style() -> None:
    assert value("a: [x, {b: v}]\nc:\n  - d: u\n  -\n    - w\n") == {
        "a": ["x", {"b": "v"}],
        "c": [{"d": "u"}, ["w"]],
    }


def test_an_alias_gives_the_value_of_its_anchor() -> None:
    assert value("a: &x [p, q]\nb: *x\nc: &y word\nd: *y\n") == {
        "a": ["p", "q"],
        "b": ["p", "q"],
        "c": "word",
        "d": "word",
    }


def test_a_merge_key_is_a_key_like_any_other() -> None:
    assert value("a: &x {p: q}\nb:\n  <<: *x\n") == {"a": {"p": "q"}, "b": {"<<": {"p": "q"}}}


def test_the_places_of_keys_and_values_count_from_one() -> None:
    document = read_document(b"# head\na:\n  b: [x, v]\n", "here.yaml")
    assert document.keys_at[("a",)] == (2, 1)
    assert document.keys_at[("a", "b")] == (3, 3)
    assert document.values_at[("a", "b")] == (3, 6)
    assert document.values_at[("a", "b", 1)] == (3, 10)


def test_a_problem_without_a_place_of_its_own_stands_at_its_nearest_ancestor() -> None:
    document = read_document(b"a:\n  b: x\n", "here.yaml")
    assert str(document.problem(("a", "b", "c"), "wrong")) == "here.yaml:2:6: wrong"
    assert str(document.problem(("a", "b"), "wrong", at_key=True)) == "here.yaml:2:3: wrong"
    assert str(Document("here.yaml").problem(("a",), "wrong")) == "here.yaml:1:1: wrong"


# -- bytes --


def test_a_byte_order_mark_is_read_over() -> None:
    assert value(b"\xef\xbb\xbfa: b\n") == {"a": "b"}


def test_a_byte_order_mark_does_not_shift_columns() -> None:
    assert place(b"\xef\xbb\xbfa: !x b\n") == (1, 4)


def test_carriage_returns_end_lines_like_line_feeds() -> None:
    assert value(b"a: b\r\nc: |\r\n  d\r\n  e\r\n") == {"a": "b", "c": "d\ne\n"}
    assert place(b"a: b\r\nc: d\r\na: e\r\n") == (3, 1)


def test_a_byte_order_mark_and_carriage_returns_are_read_together() -> None:
    assert value(b"\xef\xbb\xbfa: b\r\nc: d\r\n") == {"a": "b", "c": "d"}


def test_text_that_is_not_utf_8_is_refused_at_its_byte() -> None:
    problem = refusal(b"a: b\nc: \xe4\n")
    assert (problem.line, problem.column) == (2, 4)
    assert "0xe4" in problem.message
    assert "UTF-8" in problem.message


def test_utf_16_is_refused() -> None:
    assert "UTF-8" in refusal("a: b\n".encode("utf-16")).message


@pytest.mark.parametrize("character", ["\0", "\x07", "\x1b"])
def test_control_characters_are_refused(character: str) -> None:
    assert "control characters" in refusal(f"a: b{character}\n").message


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "\ufeff", "   \n\n"])
def test_an_empty_file_is_refused(text: str) -> None:
    problem = refusal(text)
    assert (problem.line, problem.column) == (1, 1)
    assert "empty" in problem.message


# -- what is refused, and where --


def test_a_duplicate_key_is_refused_and_the_first_is_named() -> None:
    problem = refusal("a: 'x'\nb:\n  c: 'y'\n  d: 'z'\n  c: 'w'\n")
    assert (problem.line, problem.column) == (5, 3)
    assert "'c' stands twice" in problem.message
    assert "line 3" in problem.message


def test_one_key_may_stand_in_two_mappings() -> None:
    assert value("- a: x\n- a: v\n") == [{"a": "x"}, {"a": "v"}]


def test_a_key_that_is_a_list_is_refused() -> None:
    assert "a key must be plain text" in refusal("? [a]\n: b\n").message


def test_a_key_that_is_an_alias_is_refused() -> None:
    assert place("a: &x b\n*x : c\n") == (2, 1)


def test_a_tab_as_indentation_is_refused_and_spaces_are_named() -> None:
    problem = refusal("a:\n\tb: c\n")
    assert (problem.line, problem.column) == (2, 1)
    assert "spaces, never with tabs" in problem.message


def test_a_tab_below_a_scalar_is_refused() -> None:
    problem = refusal("a: b\n\tc: d\n")
    assert (problem.line, problem.column) == (2, 1)
    assert "tab" in problem.message


def test_a_tab_that_only_separates_is_read() -> None:
    assert value("a:\tb\n") == {"a": "b"}


@pytest.mark.parametrize(
    ("text", "tag", "column"),
    [
        ("a: !!python/object/apply:os.system ['touch /tmp/x']\n", "python/object/apply:os.system", 4),
        ("a: !!python/object:os.path {}\n", "python/object:os.path", 4),
        ("a: !!python/name:os.system ''\n", "python/name:os.system", 4),
        ("a: !!str b\n", "str", 4),
        ("a: !!int 3\n", "int", 4),
        ("a: !!binary aGk=\n", "binary", 4),
        ("a: !!set {b}\n", "set", 4),
        ("a: !mine [b]\n", "!mine", 4),
        ("a: !<tag:example.org,2026:x> b\n", "tag:example.org,2026:x", 4),
        ("!!map {a: b}\n", "map", 1),
        ("!!str a: b\n", "str", 1),
    ],
)
def test_any_tag_is_refused_by_name(text: str, tag: str, column: int) -> None:
    problem = refusal(text)
    assert (problem.line, problem.column) == (1, column)
    assert tag in problem.message
    assert "not allowed" in problem.message


def test_a_second_document_is_refused_where_it_starts() -> None:
    problem = refusal("a: b\n---\nc: d\n")
    assert (problem.line, problem.column) == (2, 1)
    assert "one document per file" in problem.message


def test_explicit_ends_of_the_only_document_are_read() -> None:
    assert value("---\na: b\n...\n") == {"a": "b"}


def test_an_unclosed_list_is_refused_with_its_place() -> None:
    problem = refusal("a: b\nc: [d\n")
    assert problem.line == 3
    assert "not valid YAML" in problem.message


def test_an_alias_without_an_anchor_is_refused() -> None:
    problem = refusal("a: *nowhere\n")
    assert (problem.line, problem.column) == (1, 4)
    assert "*nowhere" in problem.message


def test_a_list_that_contains_itself_is_refused() -> None:
    assert place("a: &x [*x]\n") == (1, 8)


@pytest.mark.parametrize("key", ["on", "off", "yes", "No", "ON", "y", "n"])
def test_a_key_that_older_yaml_reads_as_a_boolean_is_refused(key: str) -> None:
    problem = refusal(f"a: b\n{key}: push\n")
    assert (problem.line, problem.column) == (2, 1)
    assert f'quote it: "{key}"' in problem.message


@pytest.mark.parametrize("text", ["yes", "no", "on", "off", "Yes", "NO", "Off", "y", "N"])
def test_a_value_that_older_yaml_reads_as_a_boolean_is_refused(text: str) -> None:
    problem = refusal(f"a: {text}\n")
    assert (problem.line, problem.column) == (1, 4)
    assert f"{text} is a boolean to YAML 1.1 programs; write true or false" in problem.message
    assert f'"{text}"' in problem.message


@pytest.mark.parametrize("text", ["12:30", "1:2:3", "-12:30", "12:30.5"])
def test_a_value_that_older_yaml_reads_in_base_60_is_refused(text: str) -> None:
    problem = refusal(f"a:\n  - {text}\n")
    assert (problem.line, problem.column) == (2, 5)
    assert f'quote it: "{text}"' in problem.message


@pytest.mark.parametrize("text", ["010", "-010", "08", "0o7", "0x1f", "0b11", "1_000", "1_0.5"])
def test_a_number_that_yaml_versions_read_differently_is_refused(text: str) -> None:
    problem = refusal(f"a: {text}\n")
    assert (problem.line, problem.column) == (1, 4)
    assert f'quote it: "{text}"' in problem.message


def test_a_number_of_many_digits_is_refused() -> None:
    assert "too large" in refusal("a: " + "9" * 5000 + "\n").message


@pytest.mark.parametrize("text", ["127.0.0.1:8000", "1.2.3", "10:60", "12:30pm", "0.1.0", "a:b", "=", "onward"])
def test_text_that_only_resembles_a_number_is_text(text: str) -> None:
    assert value(f"a: {text}\n") == {"a": text}


# -- limits --


def test_the_largest_size_is_read_and_one_byte_more_is_not() -> None:
    text = b"a: b\n"
    assert value(text + b"#" * (MAX_BYTES - len(text))) == {"a": "b"}
    problem = refusal(text + b"#" * (MAX_BYTES - len(text) + 1))
    assert problem.line == 0
    assert "1,048,577 bytes" in problem.message
    assert "1,048,576" in problem.message


def test_the_greatest_depth_is_read_and_one_more_is_not() -> None:
    assert value("[" * MAX_DEPTH + "]" * MAX_DEPTH) is not None
    problem = refusal("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))
    assert (problem.line, problem.column) == (1, MAX_DEPTH + 1)
    assert f"deeper than {MAX_DEPTH}" in problem.message


def test_the_largest_number_of_aliases_is_read_and_one_more_is_not() -> None:
    assert value(f"a: &x b\nc: [{', '.join(['*x'] * MAX_ALIASES)}]\n") is not None
    problem = refusal(f"a: &x b\nc: [{', '.join(['*x'] * (MAX_ALIASES + 1))}]\n")
    assert problem.line == 2
    assert f"more than {MAX_ALIASES} aliases" in problem.message


def test_too_many_values_are_refused() -> None:
    assert f"more than {MAX_NODES:,} values" in refusal("[" + "x," * (MAX_NODES + 1) + "]").message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(alias_bomb(), "aliases expanded", id="alias bomb"),
        pytest.param(b"[" * 20_000, "deeper than 32", id="20,000 lists"),
        pytest.param(b"[" * 20_000 + b"]" * 20_000, "deeper than 32", id="20,000 closed lists"),
        pytest.param(b"{a: " * 20_000, "deeper than 32", id="20,000 mappings"),
        pytest.param(b"- " * 20_000, "deeper than 32", id="20,000 dashes"),
        pytest.param(b"? " * 20_000, "must be plain text", id="20,000 question marks"),
        pytest.param(b"[" * MAX_BYTES, "deeper than 32", id="1 MiB of brackets"),
        pytest.param(b"a" * (100 << 20), "at most 1,048,576", id="100 MB"),
    ],
)
def test_hostile_text_is_refused_quickly_and_in_little_memory(text: bytes, said: str) -> None:
    tracemalloc.start()
    try:
        began = time.monotonic()
        problem = refusal(text)
        took_s = time.monotonic() - began
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert said in problem.message
    assert took_s < 1
    assert peak_bytes < 20 << 20
