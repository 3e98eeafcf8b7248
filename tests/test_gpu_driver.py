"""The real binding on a driver library of our own: what only shows where C and Python meet."""

from pathlib import Path
from typing import Any

import pytest

from tests.nvml import GIB, Library

A = f"card GPU-a {24 * GIB} {20 * GIB} {GIB // 2} 0 Stub A"
B = f"card GPU-b {48 * GIB} {40 * GIB} 0 0 Stub B"


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path)


READ = r"""
import json, os, pathlib
from ollama_gate import config
from ollama_gate.errors import CardError
from ollama_gate.gpu import Driver, NvmlCard, find_cards

script = pathlib.Path(os.environ["STUB_NVML"])
told = []
at_s = 0.0

def clock():
    return at_s

def says(*lines):
    script.write_text("\n".join(lines) + "\n")

def read(card):
    try:
        reading = card.read()
    except CardError as error:
        told.append(str(error))
    else:
        told.append([reading.total_bytes, reading.used_bytes, reading.device, reading.processes])

def finish():
    print(json.dumps(told))
"""


def play(library: Library, story: str, *lines: str) -> Any:
    """Run a story; `{lines[0]}` and so on in it are lines of what the driver says."""
    texts = "".join(f"L{place} = {line!r}\n" for place, line in enumerate(lines))
    return library.play(f"{READ}\n{texts}\n{story}\nfinish()")


def test_every_card_is_found_and_read(library: Library) -> None:
    story = """
says(L0, L1)
found = find_cards("auto", upstream_is_local=True)
told.append([found.planned, found.cpu, found.advice])
for each in found.listed:
    read(each.card)
read(NvmlCard(0))
read(NvmlCard("GPU-b"))
read(NvmlCard("GPU-none"))
read(NvmlCard(2))
"""
    how, a, b, by_index, by_uuid, unknown, beyond = play(library, story, A, B)
    assert how == [1, False, ""]
    # What the driver keeps is told by the second version of the question alone.
    assert a == by_index == [24 * GIB - GIB // 2, 4 * GIB - GIB // 2, "Stub A (GPU-a)", {}]
    assert b == by_uuid == [48 * GIB, 8 * GIB, "Stub B (GPU-b)", {}]
    there = "there is: 0 Stub A (GPU-a), 1 Stub B (GPU-b)"
    assert unknown == f"no card GPU-none; {there}"
    assert beyond == f"no card 2; {there}"


def test_a_card_is_lost_and_found(library: Library) -> None:
    story = """
says(L0)
card = NvmlCard(0, driver=Driver(), now=clock)
read(card)
says(L1)
read(card)
read(card)
at_s = 1.0
read(card)
says(L0)
at_s = 2.0
read(card)
at_s = 3.0
read(card)
"""
    lost = A.replace(" 0 Stub", " 15 Stub")
    first, loss, pause, still, pause_again, back = play(library, story, A, lost)
    assert loss == "the card has fallen off its bus (GPU is lost)"
    assert pause == f"{loss}; tried again in 1 s"
    assert still == loss
    assert pause_again == f"{loss}; tried again in 1 s"
    assert back == first


def test_a_driver_goes_away_and_comes_back(library: Library) -> None:
    story = """
says(L0)
card = NvmlCard("GPU-a", driver=Driver(), now=clock)
read(card)
for text in ("init 18", "init 9", "nothing"):
    says(text)
    read(card)
    at_s += 100
says(L0)
read(card)
"""
    first, gone, unloaded, no_card, back = play(library, story, A)
    assert "fallen off" in gone
    assert "driver is not loaded" in unloaded
    assert no_card == "no card GPU-a; there is: none"
    assert back == first


def test_a_library_that_does_not_match_is_said_to(library: Library) -> None:
    story = """
says("init 18")
read(find_cards("auto", upstream_is_local=True).card)
"""
    (mismatch,) = play(library, story)
    assert "updated under a running system; restart the gate" in mismatch


def test_the_parts_of_a_split_card_are_cards(library: Library) -> None:
    story = """
says(L0, L1, L2)
found = find_cards("auto", upstream_is_local=True)
for each in found.listed:
    read(each.card)
read(NvmlCard("MIG-y"))
read(NvmlCard(0))
told.append(found.advice)
"""
    parts = (f"part 0 MIG-x {10 * GIB} {9 * GIB}", f"part 0 MIG-y {20 * GIB} {20 * GIB}")
    x, y, by_uuid, whole, advice = play(library, story, A, *parts)
    assert x == [10 * GIB, GIB, "a part (MIG-x)", {}]
    assert y == by_uuid == [20 * GIB, 0, "a part (MIG-y)", {}]
    assert "name one of its parts: a part (MIG-x), a part (MIG-y)" in whole
    assert "MIG" in advice


def test_each_process_is_told(library: Library) -> None:
    story = """
says(L0, L1, L2, L3)
read(NvmlCard("GPU-a"))
says(L0, "process GPU-a 11 -1")
read(NvmlCard("GPU-a"))
"""
    lines = ("process GPU-a 11 1000", "process GPU-b 12 2000", "process GPU-a 13 3000")
    told, hidden = play(library, story, A, *lines)
    assert told[3] == {"11": 1000, "13": 3000}
    assert hidden[3] is None


def test_a_card_that_shares_memory_does_not_tell_its_own(library: Library) -> None:
    story = """
says(L0)
read(find_cards("auto", upstream_is_local=True).card)
says(L1)
read(find_cards("auto", upstream_is_local=True).card)
"""
    shared, broken = (f"card GPU-a 0 0 0 0 {name}" for name in ("NVIDIA GB10", "NVIDIA X"))
    unified, refused = play(library, story, shared, broken)
    assert unified[0] > unified[1] > 0
    assert unified[2] == "NVIDIA GB10 (GPU-a)"
    assert "configure its vram" in refused


SITE = r"""
import asyncio, json, logging, os, pathlib
import aiohttp
from msgspec import structs
from ollama_gate.config import Config, Listen
from ollama_gate.errors import CardError
from ollama_gate.gpu import meters, poller
from ollama_gate.site import Site

script = pathlib.Path(os.environ["STUB_NVML"])
meters.Poller = lambda *args, **given: poller.Poller(*args, idle_s=0.02, stale_s=0.5, **given)

class Notices(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = asyncio.Queue()

    def emit(self, record):
        self.lines.put_nowait((record.levelname, record.getMessage()))

    async def until(self, words):
        while words not in (line := await self.lines.get())[1]:
            pass
        return line[0]

async def main():
    told = []
    notices = Notices()
    logging.getLogger("ollama_gate.monitor").addHandler(notices)
    logging.getLogger("ollama_gate.monitor").setLevel("INFO")
    config = Config()
    config = structs.replace(
        config,
        listen=Listen(host="127.0.0.1", port=0),
        upstreams=(structs.replace(config.upstream, url="http://127.0.0.1:9"),),
    )
    lost = asyncio.Event()
    script.write_text(GOOD)
    site = Site(config, temporary=True)
    async with site, aiohttp.ClientSession(site.url) as http, asyncio.timeout(30):
        (meters,) = site._meters.values()
        tell = meters._tell

        def told_of(reading):
            tell(reading)
            if isinstance(reading, CardError):
                lost.set()

        meters._tell = told_of

        async def status():
            async with http.get("/gate/status") as answer:
                told.append((await answer.json())["bins"][0])

        while meters._pollers[0].last is None:
            await site.gate.changed()
        await status()
        script.write_text(LOST)
        told.append(await notices.until("no reading"))
        await lost.wait()
        await status()
        script.write_text(GOOD)
        told.append(await notices.until("readings again"))
        await status()
    print(json.dumps(told))

asyncio.run(main())
"""


def test_a_gate_survives_a_lost_card_and_says_so(library: Library) -> None:
    lost = A.replace(" 0 Stub", " 15 Stub")
    before, began, while_lost, ended, after = library.play(f"GOOD = {A!r}\nLOST = {lost!r}\n{SITE}")
    assert before["reading"]["source"] == "nvml"
    assert before["reading"]["total_bytes"] == 24 * GIB - GIB // 2
    assert (before["reading"]["stale"], before["reading"]["error"]) == (False, None)
    assert began == "WARNING"
    assert while_lost["reading"]["stale"]
    assert "fallen off its bus" in while_lost["reading"]["error"]
    # What was known stands, with its age.
    assert while_lost["reading"]["total_bytes"] == before["reading"]["total_bytes"]
    assert while_lost["reading"]["age_s"] > 0.5
    assert while_lost["capacity_bytes"] == before["capacity_bytes"]
    assert ended == "INFO"
    assert (after["reading"]["stale"], after["reading"]["error"]) == (False, None)
    assert after["reading"]["age_s"] < while_lost["reading"]["age_s"]
