"""What a command prints: secrets taken out, head and tail kept, order as read."""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from activity_core.ports import OutputChunk, RolledOut

if TYPE_CHECKING:
    from collections.abc import Iterable

    from activity_core.run import RunId

STDOUT, STDERR = 1, 2
CHUNK_BYTES = 1 << 16
RECENT_BYTES = 512
MOST_PIECES = 8_192
"""Per stream and half: a command that alternates between its streams byte by byte is cut earlier."""
REDACTED = b"[redacted]"
_SHORTEST_LINE = 4


class Redactor:
    """Replaces secrets in a stream of bytes, also where one is split over several reads.

    A multi-line secret is also taken out line by line. What could be the start of a secret is held back
    until the next bytes, or `flush`, tell.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        texts: set[bytes] = set()
        for secret in secrets:
            whole = secret.encode("utf-8", "surrogatepass")
            texts.add(whole)
            texts.update(line for line in whole.splitlines() if len(line) >= _SHORTEST_LINE)
            for is_ascii in (True, False):  # as it stands in JSON, such as the input file
                texts.add(json.dumps(secret, ensure_ascii=is_ascii)[1:-1].encode("utf-8", "surrogatepass"))
        texts.discard(b"")
        self._secrets = sorted(texts, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(re.escape(text) for text in self._secrets)) if texts else None
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What may be shown of everything fed so far."""
        if self._pattern is None:
            return data
        buffer = self._held + data
        safe = len(buffer) - self._uncertain(buffer)
        shown, at = [], 0
        for match in self._pattern.finditer(buffer):
            if match.start() >= safe:
                break
            shown += [buffer[at : match.start()], REDACTED]
            at = match.end()
        safe = max(safe, at)
        shown.append(buffer[at:safe])
        self._held = buffer[safe:]
        return b"".join(shown)

    def flush(self) -> bytes:
        """The rest, when the stream has ended."""
        rest, self._held = self._held, b""
        return self._pattern.sub(REDACTED, rest) if self._pattern else rest

    def value(self, value: object) -> object:
        """A JSON-like value without the secrets, in texts, keys and numbers."""
        if self._pattern is None:
            return value
        match value:
            case str():
                return self.text(value)
            case dict():
                return {self.text(str(key)): self.value(below) for key, below in value.items()}
            case list() | tuple():
                return [self.value(below) for below in value]
            case None | bool():
                return value
            case _:
                shown = str(value)
                return value if self.text(shown) == shown else REDACTED.decode()

    def text(self, text: str) -> str:
        """The text without the secrets, for values that arrive whole."""
        if self._pattern is None:
            return text
        clean = self._pattern.sub(REDACTED, text.encode("utf-8", "surrogatepass"))
        return clean.decode("utf-8", "surrogatepass")

    def _uncertain(self, buffer: bytes) -> int:
        """The length of the longest end of the buffer that is a proper beginning of a secret."""
        longest = 0
        for secret in self._secrets:
            at = max(0, len(buffer) - len(secret) + 1)
            while (at := buffer.find(secret[:1], at)) >= 0 and len(buffer) - at > longest:
                if secret.startswith(buffer[at:]):
                    longest = len(buffer) - at
                    break
                at += 1
        return longest


@dataclass(slots=True)
class _Piece:
    seq: int
    stream: int
    offset: int
    data: bytearray
    is_saved: bool = False

    @property
    def end(self) -> tuple[int, int]:
        """Stream and offset of what would follow without a gap."""
        return self.stream, self.offset + len(self.data)


class Capture:
    """Both streams of one attempt, each capped: its first half and its last half are kept.

    The tail is cut in pieces of at most an eighth of a half. Sizes and offsets are those of what may be shown:
    after secrets were taken out.
    """

    def __init__(self, run_id: RunId, attempt: int, cap_bytes: int, secrets: Iterable[str] = ()) -> None:
        self._run_id = run_id
        self._attempt = attempt
        self._half = max(1, cap_bytes // 2)
        self._piece_bytes = max(1, min(CHUNK_BYTES, self._half // 8))
        secrets = tuple(secrets)
        self._redactors = {STDOUT: Redactor(secrets), STDERR: Redactor(secrets)} if secrets else None
        self._totals = [0, 0, 0]
        self._recent = [b"", b"", b""]
        self._heads: list[_Piece] = []
        self._tails: tuple[deque[_Piece], deque[_Piece], deque[_Piece]] = (deque(), deque(), deque())
        self._tail_bytes = [0, 0, 0]
        self._head_pieces = [0, 0, 0]
        self._is_head_full = [False, False, False]
        self._seq = 0
        self._last: _Piece | None = None
        self._rolled_out: list[RolledOut] = []

    @property
    def stdout_bytes(self) -> int:
        """The size of stdout, kept or not."""
        return self._totals[STDOUT]

    @property
    def stderr_bytes(self) -> int:
        """The size of stderr, kept or not."""
        return self._totals[STDERR]

    def add(self, stream: int, data: bytes) -> None:
        """Takes bytes as they were read."""
        if self._redactors is not None:
            data = self._redactors[stream].feed(data)
        if data:
            self._keep(stream, data)

    def finish(self) -> None:
        """Both streams have ended."""
        if self._redactors is not None:
            for stream, redactor in self._redactors.items():
                rest = redactor.flush()
                if rest:
                    self._keep(stream, rest)

    def unsaved(self) -> tuple[list[OutputChunk], list[RolledOut]]:
        """What was not yet handed out, in reading order, and what has rolled out of the tails since."""
        pieces = [piece for piece in self._heads if not piece.is_saved]
        for tail in self._tails:
            pieces += [piece for piece in tail if not piece.is_saved]
        pieces.sort(key=lambda piece: piece.seq)
        for piece in pieces:
            piece.is_saved = True
        self._heads = []
        self._last = None
        rolled_out, self._rolled_out = self._rolled_out, []
        chunks = [
            OutputChunk(
                run_id=self._run_id,
                attempt=self._attempt,
                seq=piece.seq,
                stream=piece.stream,
                offset=piece.offset,
                data=bytes(piece.data),
            )
            for piece in pieces
        ]
        return chunks, rolled_out

    def tail_text(self, limit: int = 400) -> str:
        """The last lines of stderr, or of stdout where stderr is silent, for a log line."""
        recent = self._recent[STDERR] or self._recent[STDOUT]
        return recent[-limit:].decode("utf-8", "replace").strip()

    def _keep(self, stream: int, data: bytes) -> None:
        offset = self._totals[stream]
        self._totals[stream] += len(data)
        self._recent[stream] = (self._recent[stream] + data[-RECENT_BYTES:])[-RECENT_BYTES:]
        room = self._half - offset
        if room > 0 and not self._is_head_full[stream]:
            head, data = data[:room], data[room:]
            self._append(stream, offset, head, self._heads)
            offset += len(head)
            self._is_head_full[stream] = self._head_pieces[stream] >= MOST_PIECES
        if data:
            surplus = len(data) - self._half  # only the last half can ever be shown
            if surplus > 0:
                data, offset = data[surplus:], offset + surplus
            self._tail_bytes[stream] += len(data)
            self._append(stream, offset, data, self._tails[stream])
            self._trim(stream)

    def _append(self, stream: int, offset: int, data: bytes, place: list[_Piece] | deque[_Piece]) -> None:
        last = self._last
        if last is not None and place and place[-1] is last and last.end == (stream, offset):
            room = self._piece_bytes - len(last.data)
            if room > 0:
                last.data += data[:room]
                data, offset = data[room:], offset + min(room, len(data))
        for start in range(0, len(data), self._piece_bytes):
            piece = bytearray(data[start : start + self._piece_bytes])
            self._last = _Piece(self._seq, stream, offset + start, piece)
            place.append(self._last)
            self._head_pieces[stream] += place is self._heads
            self._seq += 1

    def _trim(self, stream: int) -> None:
        tail = self._tails[stream]
        first = last = -1
        while self._tail_bytes[stream] > self._half or len(tail) > MOST_PIECES:
            piece = tail.popleft()
            self._tail_bytes[stream] -= len(piece.data)
            if piece.is_saved:
                first = piece.seq if first < 0 else first
                last = piece.seq
        if first >= 0:
            self._rolled_out.append(
                RolledOut(run_id=self._run_id, attempt=self._attempt, stream=stream, first_seq=first, last_seq=last)
            )
