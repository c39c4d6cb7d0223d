"""What is kept of a command's output, and what is taken out of it."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_core.run import RunId
from activity_core.shell.capture import CHUNK_BYTES, RECENT_BYTES, REDACTED, STDERR, STDOUT, Capture, Redactor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from activity_core.ports import OutputChunk, RolledOut

RUN = RunId(7)
CAP = 4 * CHUNK_BYTES
HALF = CAP // 2
_PATTERN = bytes((index * 7 + index // 251) % 256 for index in range(65_521))  # no short period


def stream_of(length: int, shift: int = 0) -> bytes:
    """Bytes that differ from place to place, so that a wrong offset shows."""
    return (_PATTERN * (1 + (length + shift) // len(_PATTERN)))[shift : shift + length]


class Stored:
    """What a ledger would hold: chunks by seq, without those that rolled out."""

    def __init__(self) -> None:
        self.chunks: dict[int, OutputChunk] = {}

    def apply(self, answer: tuple[list[OutputChunk], list[RolledOut]]) -> None:
        chunks, rolled_out = answer
        for chunk in chunks:
            assert chunk.seq not in self.chunks
            self.chunks[chunk.seq] = chunk
        for gone in rolled_out:
            for seq, chunk in tuple(self.chunks.items()):
                if chunk.stream == gone.stream and gone.first_seq <= seq <= gone.last_seq:
                    del self.chunks[seq]

    def of(self, stream: int) -> list[OutputChunk]:
        return [chunk for _, chunk in sorted(self.chunks.items()) if chunk.stream == stream]

    def total(self, stream: int) -> int:
        return sum(len(chunk.data) for chunk in self.of(stream))

    def head_and_tail(self, stream: int) -> tuple[bytes, bytes]:
        """What is kept without a gap from the start, and what follows the gap."""
        parts = [b"", b""]
        at = 0
        for chunk in self.of(stream):
            if chunk.offset != at:
                assert chunk.offset > at
                assert not parts[1], "more than one gap"
                parts[1] += chunk.data
            else:
                parts[1 if parts[1] else 0] += chunk.data
            at = chunk.offset + len(chunk.data)
        return parts[0], parts[1]


def captured(pieces: Iterable[tuple[int, bytes]], *, cap: int = CAP, secrets: Iterable[str] = ()) -> Stored:
    capture = Capture(RUN, 1, cap, secrets)
    for stream, data in pieces:
        capture.add(stream, data)
    capture.finish()
    stored = Stored()
    stored.apply(capture.unsaved())
    return stored


sizes = st.one_of(st.integers(1, 200), st.integers(1, CHUNK_BYTES), st.just(CHUNK_BYTES))
feeds = st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), sizes, st.booleans()), max_size=40)


@settings(deadline=None, max_examples=150)
@given(feeds)
def test_what_is_kept_of_any_sequence_of_chunks_is_the_stream_at_those_offsets(
    feed: list[tuple[int, int, bool]],
) -> None:
    capture = Capture(RUN, 1, CAP)
    totals = {STDOUT: 0, STDERR: 0}
    lengths = {stream: sum(size for each, size, _ in feed if each == stream) for stream in totals}
    streams = {stream: stream_of(length, stream) for stream, length in lengths.items()}
    stored = Stored()
    for stream, size, save in feed:
        capture.add(stream, streams[stream][totals[stream] : totals[stream] + size])
        totals[stream] += size
        if save:
            stored.apply(capture.unsaved())
            assert all(stored.total(each) <= CAP for each in totals)
    capture.finish()
    stored.apply(capture.unsaved())

    assert (capture.stdout_bytes, capture.stderr_bytes) == (totals[STDOUT], totals[STDERR])
    for stream, true in streams.items():
        for chunk in stored.of(stream):
            assert (chunk.run_id, chunk.attempt) == (RUN, 1)
            assert chunk.data == true[chunk.offset : chunk.offset + len(chunk.data)]
        assert stored.total(stream) <= CAP
        head, tail = stored.head_and_tail(stream)
        if len(true) <= CAP:
            assert head + tail == true
        else:
            assert head + tail == true[: len(head)] + true[len(true) - len(tail) :]
            assert len(head) >= HALF
            assert len(head) + len(tail) > CAP - CHUNK_BYTES  # the tail is cut in whole pieces


@settings(deadline=None)
@given(feeds)
def test_saving_at_any_moment_stores_the_same_output_as_saving_once_as_long_as_all_of_it_fits(
    feed: list[tuple[int, int, bool]],
) -> None:
    cap = 2 * CHUNK_BYTES * 41  # each half holds everything
    often, once, stored = Capture(RUN, 1, cap), Capture(RUN, 1, cap), Stored()
    for number, (stream, size, save) in enumerate(feed):
        data = stream_of(size, number)
        often.add(stream, data)
        once.add(stream, data)
        if save:
            stored.apply(often.unsaved())
    stored.apply(often.unsaved())
    at_the_end = Stored()
    at_the_end.apply(once.unsaved())

    for each in (STDOUT, STDERR):
        assert stored.head_and_tail(each) == at_the_end.head_and_tail(each)


@settings(deadline=None, max_examples=60)
@given(feeds.filter(lambda feed: len(feed) > 8))
def test_saving_at_any_moment_keeps_the_head_that_saving_once_keeps_and_ends_at_the_same_byte(
    feed: list[tuple[int, int, bool]],
) -> None:
    often, once, stored = Capture(RUN, 1, CAP), Capture(RUN, 1, CAP), Stored()
    for number, (stream, size, save) in enumerate(feed):
        data = stream_of(size, number)
        often.add(stream, data)
        once.add(stream, data)
        if save:
            stored.apply(often.unsaved())
    stored.apply(often.unsaved())
    at_the_end = Stored()
    at_the_end.apply(once.unsaved())

    for each, total in ((STDOUT, once.stdout_bytes), (STDERR, once.stderr_bytes)):
        mine, theirs = (b"".join(chunk.data for chunk in some.of(each)) for some in (stored, at_the_end))
        assert mine[:HALF] == theirs[:HALF]
        if total:
            assert stored.of(each)[-1].offset + len(stored.of(each)[-1].data) == total
        shared = min(len(mine), len(theirs)) - HALF
        if shared > 0:
            assert mine[-shared:] == theirs[-shared:]


@given(st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(min_size=1, max_size=9)), max_size=60))
def test_chunks_of_both_streams_come_back_in_the_order_they_were_read(feed: list[tuple[int, bytes]]) -> None:
    stored = captured(feed)

    read = [(stream, bytes([byte])) for stream, data in feed for byte in data]
    kept = [(chunk.stream, bytes([byte])) for _, chunk in sorted(stored.chunks.items()) for byte in chunk.data]
    assert kept == read


@given(st.binary(max_size=2000), st.integers(1, 50))
def test_bytes_that_are_not_utf_8_are_kept_as_they_are(data: bytes, step: int) -> None:
    stored = captured((STDOUT, data[start : start + step]) for start in range(0, len(data), step))

    assert b"".join(chunk.data for chunk in stored.of(STDOUT)) == data


def test_a_stream_of_exactly_the_cap_is_kept_whole_and_a_longer_one_loses_its_middle() -> None:
    whole, longer = stream_of(CAP), stream_of(3 * CAP)

    assert captured([(STDOUT, whole)]).head_and_tail(STDOUT) == (whole, b"")
    assert captured([(STDOUT, longer)]).head_and_tail(STDOUT) == (longer[:HALF], longer[-HALF:])


def test_each_stream_has_a_cap_of_its_own() -> None:
    noisy, quiet = stream_of(3 * CAP), b"one line\n"

    stored = captured([(STDERR, quiet), (STDOUT, noisy), (STDERR, quiet)])

    assert stored.total(STDOUT) == CAP
    assert b"".join(chunk.data for chunk in stored.of(STDERR)) == quiet * 2


def test_nothing_is_handed_out_twice() -> None:
    capture = Capture(RUN, 1, CAP)
    capture.add(STDOUT, b"once")

    assert [chunk.data for chunk in capture.unsaved()[0]] == [b"once"]
    assert capture.unsaved() == ([], [])


def test_two_hundred_megabytes_of_output_leave_memory_flat() -> None:
    cap = 1 << 20
    chunk = stream_of(CHUNK_BYTES)
    capture, stored = Capture(RUN, 1, cap), Stored()
    rounds = 3200
    tracemalloc.start()
    try:
        for number in range(rounds):
            capture.add(STDOUT if number % 2 else STDERR, chunk)
            if number % 100 == 99:
                stored.apply(capture.unsaved())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert capture.stdout_bytes + capture.stderr_bytes == rounds * CHUNK_BYTES
    assert stored.total(STDOUT) <= cap
    assert stored.total(STDERR) <= cap
    # both streams in the capture, once more in what is stored, and the pieces on their way
    assert peak < 10 * cap


def test_the_log_line_is_the_end_of_stderr_or_of_stdout_where_stderr_is_silent() -> None:
    capture = Capture(RUN, 1, CAP)
    assert capture.tail_text() == ""
    capture.add(STDOUT, b"x" * RECENT_BYTES + b"all done\n")
    assert capture.tail_text(9) == "all done"
    capture.add(STDERR, b"bro")
    capture.add(STDERR, b"ken \xff\n")
    assert capture.tail_text() == "broken \ufffd"


# Secrets are made of letters that the replacement has not, else the replacement itself could complete one.
secret_texts = st.lists(st.text("xyz", min_size=1, max_size=6), min_size=1, max_size=4)
lines = st.lists(st.text("xyz\n", min_size=1, max_size=12), min_size=1, max_size=3)
parts = st.lists(st.text("xyz\n", max_size=8), max_size=12)


def fed(redactor: Redactor, pieces: Iterable[bytes]) -> bytes:
    return b"".join([*(redactor.feed(piece) for piece in pieces), redactor.flush()])


@settings(max_examples=400)
@given(st.one_of(secret_texts, lines), parts)
def test_redacting_in_any_pieces_equals_redacting_the_whole(secrets: list[str], texts: list[str]) -> None:
    pieces = [text.encode() for text in texts]

    whole = fed(Redactor(secrets), [b"".join(pieces)])

    assert fed(Redactor(secrets), pieces) == whole
    assert fed(Redactor(secrets), [bytes([byte]) for byte in b"".join(pieces)]) == whole
    assert Redactor(secrets).text("".join(texts)).encode() == whole


@settings(max_examples=400)
@given(st.one_of(secret_texts, lines), parts)
def test_no_secret_is_left_in_what_is_shown_at_any_moment(secrets: list[str], texts: list[str]) -> None:
    redactor = Redactor(secrets)
    shown = b""
    for text in texts:
        shown += redactor.feed(text.encode())
        assert not any(secret.encode() in shown for secret in secrets)
    shown += redactor.flush()
    assert not any(secret.encode() in shown for secret in secrets)


@settings(max_examples=200)
@given(parts)
def test_text_without_a_secret_passes_unchanged(texts: list[str]) -> None:
    pieces = [text.encode() for text in texts]

    assert fed(Redactor(["hunter2"]), pieces) == b"".join(pieces)
    assert fed(Redactor([]), pieces) == b"".join(pieces)
    assert fed(Redactor([""]), pieces) == b"".join(pieces)


@pytest.mark.parametrize("first", [["pass", "password"], ["password", "pass"]])
def test_of_two_secrets_that_begin_alike_the_longer_is_taken_out_whole(first: list[str]) -> None:
    assert fed(Redactor(first), [b"my pass", b"word, my pass", b"!"]) == b"my [redacted], my [redacted]!"


def test_of_two_secrets_that_overlap_neither_is_shown() -> None:
    shown = fed(Redactor(["alpha-beta", "beta-gamma"]), [b"<alpha-be", b"ta-gam", b"ma>"])

    assert shown == b"<[redacted]-gamma>"


def test_a_secret_of_several_lines_is_taken_out_whole_and_line_by_line() -> None:
    key = "-----BEGIN-----\nMIIBVgIBADAN\nz\n-----END-----\n"

    assert fed(Redactor([key]), [key.encode()]) == REDACTED
    assert fed(Redactor([key]), [b"> MIIBVgI", b"BADAN\n> z\n"]) == b"> [redacted]\n> z\n"


def test_a_secret_split_over_reads_of_the_pipe_is_not_stored_and_streams_do_not_mix() -> None:
    stored = captured(
        [(STDOUT, b"token=s3"), (STDERR, b"cret"), (STDOUT, b"cret;"), (STDERR, b" s3cre")], secrets=["s3cret"]
    )

    assert b"".join(chunk.data for chunk in stored.of(STDOUT)) == b"token=[redacted];"
    assert b"".join(chunk.data for chunk in stored.of(STDERR)) == b"cret s3cre"


def test_a_secret_that_is_not_ascii_is_taken_out_as_utf_8() -> None:
    assert fed(Redactor(["pässwörd"]), ["das pässw".encode(), "örd".encode()]) == b"das [redacted]"


def test_a_secret_is_taken_out_of_values_before_they_become_json() -> None:
    redactor = Redactor(['pa"ss\\wörd', "12345"])
    value = {"n": 12345, "deep": [{'x pa"ss\\wörd y': 'pa"ss\\wörd'}], "other": 1234, "on": True, "none": None}
    assert redactor.value(value) == {
        "n": "[redacted]",
        "deep": [{"x [redacted] y": "[redacted]"}],
        "other": 1234,
        "on": True,
        "none": None,
    }


def test_a_secret_is_taken_out_of_output_that_shows_it_as_json() -> None:
    redactor = Redactor(['pa"ss\\wörd'])
    for shown in (b'{"t": "pa\\"ss\\\\w\\u00f6rd"}', '{"t": "pa\\"ss\\\\wörd"}'.encode()):
        assert redactor.feed(shown) + redactor.flush() == b'{"t": "[redacted]"}'
