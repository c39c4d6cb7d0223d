"""uvicorn's HTTP protocol with an end to how much a request may send before its body."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10


class BoundedHttpProtocol(HttpToolsProtocol):
    """Answers 400 and hangs up once a request's line and headers are over the limit.

    Neither uvicorn nor its parser has one: whoever reaches the port, token or not, could fill the memory.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._is_in_head = True
        self._head_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Counts what came while no head was complete. More than the limit is held for one read of the socket only."""
        super().data_received(data)
        if not self._is_in_head:
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The request line and headers have more than {MAX_HEAD_BYTES:,} bytes.")

    def on_message_begin(self) -> None:
        """A request starts."""
        self._is_in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is complete."""
        self._is_in_head = False
        super().on_headers_complete()
