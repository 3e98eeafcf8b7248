"""Work that may hang, on a thread that nobody waits for when the program ends.

It knows nothing of cards, and ends nothing: a thread that hangs in a driver cannot be ended.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def on_a_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """What `work` returns or raises; cancelled, its thread goes on and nobody hears of it.

    Needs a running event loop.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if future.done():  # Nobody waits for it any more.
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # without an error it is a T

    def run() -> None:
        result: T | None = None
        error: Exception | None = None
        try:
            result = work()
        except Exception as raised:  # noqa: BLE001  it is raised again where it is waited for
            error = raised
        # The loop may have ended in the meantime.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
