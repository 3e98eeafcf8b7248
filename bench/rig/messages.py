"""HTTP/1.1 messages out of a stream of bytes, for both ends of the benchmark.

As little as the benchmark needs: bodies by Content-Length or in chunks, no trailers. It trusts what
it reads, since both ends are ours and the contenders between them are correct.
"""

import re
from collections.abc import Callable
from typing import Final

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


class Messages:
    """Tells of each message in turn: its head, the parts of its body as they come, its end.

    Args:
        head: gets everything before the blank line.
        body: gets each part, never an empty one.
        end: the message is complete; the next one may begin in the same bytes.
    """

    def __init__(
        self,
        head: Callable[[bytes], None],
        body: Callable[[bytes], None],
        end: Callable[[], None],
    ) -> None:
        self._on_head = head
        self._on_body = body
        self._on_end = end
        self._buffer = b""
        self._left = 0
        self._chunked = False
        self._step = self._head

    def feed(self, data: bytes) -> None:
        """Take in what came."""
        self._buffer = self._buffer + data if self._buffer else data
        while self._buffer and self._step():
            pass

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
        length = _LENGTH.search(head)
        self._left = int(length[1]) if length else 0
        self._chunked = not length and _CHUNKED.search(head) is not None
        self._on_head(head)
        if self._chunked:
            self._step = self._size
        elif self._left:
            self._step = self._part
        else:
            self._on_end()
        return True

    def _part(self) -> bool:
        part = self._buffer[: self._left]
        self._buffer = self._buffer[len(part) :]
        self._left -= len(part)
        self._on_body(part)
        if not self._left:
            self._step = self._chunk_end if self._chunked else self._head
            if not self._chunked:
                self._on_end()
        return True

    def _size(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        self._left = int(self._buffer[:end].partition(b";")[0], 16)
        self._buffer = self._buffer[end + 2 :]
        self._step = self._part if self._left else self._last
        return True

    def _chunk_end(self) -> bool:
        return self._skip_line_end(self._size)

    def _last(self) -> bool:
        if not self._skip_line_end(self._head):
            return False
        self._on_end()
        return True

    def _skip_line_end(self, then: Callable[[], bool]) -> bool:
        if len(self._buffer) < 2:
            return False
        self._buffer = self._buffer[2:]
        self._step = then
        return True
