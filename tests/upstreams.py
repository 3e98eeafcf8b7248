"""Scripted upstreams: what is said on each connection is written down by whoever tests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from ollama_gate.link import Link
from ollama_gate.ollama import Ollama

LIMIT_S = 5.0

EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

BROKEN = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, TimeoutError)

Play = Callable[["Conversation"], Awaitable[None]]


class Conversation:
    """One connection, as the upstream has it.

    Attributes:
        number: how many connections there were before it.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        self._reader, self._writer = reader, writer
        self.number = number

    async def raw_head(self) -> bytes:
        """The request line and the headers, with the empty line behind them."""
        return await self._reader.readuntil(b"\r\n\r\n")

    async def head(self) -> list[str]:
        """The request line and the headers."""
        return (await self.raw_head()).decode("latin-1").split("\r\n")[:-2]

    async def read(self, count: int) -> bytes:
        return await self._reader.readexactly(count)

    async def line(self) -> bytes:
        return await self._reader.readline()

    async def say(self, *parts: bytes) -> None:
        self._writer.write(b"".join(parts))
        await self._writer.drain()

    async def heard_end(self) -> bool:
        """Whether the other side hangs up."""
        return await self._reader.read() == b""

    async def ended(self) -> None:
        """Wait until the other side hangs up, whatever it says before, and however it does."""
        with contextlib.suppress(ConnectionError):
            await self._reader.read()

    def reset(self) -> None:
        """Hang up at once, so that the other side hears of a failure."""
        self._writer.transport.abort()


class Upstreams:
    """Starts scripted upstreams and their clients; `play` is run on each connection.

    Attributes:
        heard: the heads that `answering` has read.
        connections: how many there were, of all.
    """

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack
        self.heard: list[list[str]] = []
        self.connections = 0
        self._playing: set[asyncio.Task[None]] = set()
        stack.push_async_callback(self._end)

    async def _end(self) -> None:
        for task in self._playing:
            task.cancel()
        if self._playing:
            await asyncio.wait(self._playing)

    async def serve(self, play: Play) -> str:
        """The base URL of a server that plays."""

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            conversation = Conversation(reader, writer, self.connections)
            self.connections += 1
            task = asyncio.current_task()
            assert task is not None
            self._playing.add(task)
            # Whoever tests a broken connection breaks it for the script as well, and at its end
            # a test ends what still plays.
            with contextlib.suppress(*BROKEN):
                async with asyncio.timeout(LIMIT_S):
                    await play(conversation)
            self._playing.discard(task)
            writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self._stack.callback(server.close)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def start(self, play: Play, *, prefix: str = "") -> Ollama:
        return await self.client(await self.serve(play) + prefix)

    async def client(self, url: str) -> Ollama:
        ollama = Ollama(url)
        await ollama.open()
        self._stack.push_async_callback(ollama.close)
        return ollama

    async def link(self, play: Play) -> Link:
        """A connection to a server that plays, with nothing between."""
        return self.linked(await self.serve(play))

    def linked(self, url: str) -> Link:
        link = Link(url)
        self._stack.callback(link.close)
        return link

    async def answering(self, answer: bytes, *, prefix: str = "") -> Ollama:
        """One that reads a request's head and answers so."""

        async def play(conversation: Conversation) -> None:
            self.heard.append(await conversation.head())
            await conversation.say(answer)

        return await self.start(play, prefix=prefix)


@contextlib.asynccontextmanager
async def opened_upstreams() -> AsyncIterator[Upstreams]:
    """Upstreams for the length of a block, which is bounded."""
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(2 * LIMIT_S):
        yield Upstreams(stack)
