"""A simulated Ollama on a port of its own, with a handle to its cards, faults and counters."""

import asyncio
import contextlib
import socket
import time
from typing import Self

from aiohttp import web

from ollama_gate.simulator.cards import Card
from ollama_gate.simulator.catalog import Catalog, Model
from ollama_gate.simulator.clock import Clock
from ollama_gate.simulator.faults import Counters, Faults
from ollama_gate.simulator.foreign import Schedule, play
from ollama_gate.simulator.layers import Blobs
from ollama_gate.simulator.library import LIBRARY, select
from ollama_gate.simulator.refs import parse_name
from ollama_gate.simulator.routes import make_server
from ollama_gate.simulator.runner import Runner
from ollama_gate.simulator.scheduler import Scheduler
from ollama_gate.simulator.settings import Settings
from ollama_gate.simulator.world import World


class SimulatedOllama:
    """One simulated machine; serves between `start` and `close`.

    Args:
        models: what is on disk in place of the library's models that the settings name.
    """

    def __init__(self, settings: Settings | None = None, *, models: tuple[Model, ...] = ()) -> None:
        self.settings = settings or Settings()
        self.clock = Clock(self.settings.speed)
        self._cards = tuple(Card(total) for total in self.settings.cards)
        self.counters = Counters(self._cards)
        self.faults = Faults(self._kill)
        self._catalog = Catalog(models or select(self.settings.models))
        self._registry = {model.full_name: model for model in (*LIBRARY, *models)}
        self._blobs = Blobs()
        self._started_ns = time.time_ns()
        self._scheduler = self._new_scheduler()
        self._runner: web.ServerRunner | None = None
        self._address = ("127.0.0.1", 0)
        self._listening: socket.socket | None = None
        self._foreign: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Start on a free port."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    @property
    def url(self) -> str:
        """Where it listens; known once it has been started."""
        host, port = self._address
        return f"http://{host}:{port}"

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; port 0 takes a free one.

        Returns:
            The base URL.

        Raises:
            OSError: if the port is taken.
        """
        self._address = (host, port)
        await self.come_back()
        return self.url

    async def close(self) -> None:
        """End it and all its runners, and the other programs on its cards."""
        for task in self._foreign:
            task.cancel()
        await self.go_down()

    async def go_down(self) -> None:
        """Die: connections break, new ones are refused, runners and their memory go."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        if self._listening is not None:
            # Whom asyncio has accepted and not handed over yet would be lost in the closing.
            asyncio.get_running_loop().remove_reader(self._listening)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        for site in list(runner.sites):
            await site.stop()
        if runner.server is not None:
            for connection in list(runner.server.connections):
                if connection.transport is not None:
                    connection.transport.abort()
        await self._scheduler.stop()
        await runner.cleanup()

    async def come_back(self) -> None:
        """Be there again on the same port, with nothing loaded."""
        if self._runner is not None:
            return
        self._listening = listener = self._listener()
        self._scheduler = self._new_scheduler()
        runner = web.ServerRunner(make_server(self._world()), shutdown_timeout=0)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        self._scheduler.start()
        self._runner = runner

    async def restart(self) -> None:
        """Go down and be back at once, with nothing loaded."""
        await self.go_down()
        await self.come_back()

    def drop_all(self) -> None:
        """Let every model go as soon as it is idle, as when memory ran out in an answer."""
        self._scheduler.expire_all_for_oom("out of memory")

    def run_foreign(self, schedule: Schedule, *, card: int = 0) -> None:
        """Let other programs use a card from now on as it is written."""
        task = asyncio.create_task(play(schedule, self._cards[card], self.clock))
        self._foreign.add(task)
        task.add_done_callback(self._foreign.discard)

    def publish(self, model: Model) -> None:
        """Put a model, or another file for one, where `pull` finds it."""
        self._registry[model.full_name] = model

    def card(self, index: int) -> Card:
        """One of the cards."""
        return self._cards[index]

    def loaded(self) -> list[str]:
        """Short names of what is resident, in the order it came."""
        return [r.model.full_name.shortest() for r in self._scheduler.loaded.values()]

    def loading(self) -> str | None:
        """The model that is being loaded now."""
        model = self._scheduler.loading
        return None if model is None else model.full_name.shortest()

    def running(self) -> int:
        """How many answers are being given, or stand still."""
        return sum(runner.running for runner in self._scheduler.loaded.values())

    def waiting(self) -> int:
        """How many requests stand in Ollama's queue."""
        return self._scheduler.waiting

    async def changed(self) -> None:
        """Wait until a model comes or goes, or an answer begins."""
        await self._scheduler.changed()

    def _world(self) -> World:
        return World(
            settings=self.settings,
            clock=self.clock,
            catalog=self._catalog,
            scheduler=self._scheduler,
            faults=self.faults,
            counters=self.counters,
            started_ns=self._started_ns,
            registry=self._registry,
            blobs=self._blobs,
        )

    def _new_scheduler(self) -> Scheduler:
        return Scheduler(self.settings, self.clock, self._cards, self.faults, self.counters)

    def _listener(self) -> socket.socket:
        listener = socket.socket()
        with contextlib.ExitStack() as undo:
            undo.callback(listener.close)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(self._address)
            self._address = listener.getsockname()
            undo.pop_all()
        return listener

    def _kill(self, full_name: str, text: str) -> None:
        for runner in list(self._scheduler.loaded.values()):
            if self._goes_by(runner, full_name):
                runner.die(text)

    def _goes_by(self, runner: Runner, full_name: str) -> bool:
        model = self._catalog.find(self._catalog.existing(parse_name(full_name)))
        return model is not None and model.blob_path == runner.key
