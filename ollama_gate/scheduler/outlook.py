"""What each who waits may expect: how many start before it, and how long that will take.

One look at the whole line for as many questions as there are. It decides nothing.
"""

import math
from collections.abc import Iterator, Sequence

from ollama_gate.scheduler.estimating import Forecast
from ollama_gate.scheduler.line import CLASSES
from ollama_gate.scheduler.ranks import Group
from ollama_gate.scheduler.stands import Stand
from ollama_gate.scheduler.state import State
from ollama_gate.scheduler.types import BinId, Priority, Request, RequestId


class Outlook:
    """Of everybody who waits at one instant; seconds from then, and nothing after `within_s`."""

    def __init__(self, state: State, within_s: float = math.inf) -> None:
        self._state = state
        self._forecast = Forecast(state, within_s)
        self._numbers: dict[int, dict[RequestId, int]] = {}
        self._before: dict[int, tuple[tuple[str, float], ...]] = {}
        self._least: dict[Priority, float] = {}

    def number(self, request: Request) -> int:
        """How many start before it for its model, if nobody else comes."""
        return self._numbers_at(self._forecast.stand_of(request))[request.id]

    def wait_s(self, request: Request) -> float | None:
        """How long one who waits will yet; `None` if nobody can tell."""
        wait_s = self._forecast.stand_of(request).start_of(self.number(request))
        return None if wait_s is None else max(wait_s, self._limit_s(request))

    def models_before(self, request: Request) -> tuple[tuple[str, float], ...]:
        """Which models are loaded before its own, in that order, and their indices."""
        stand = self._forecast.stand_of(request)
        known = self._before.get(id(stand))
        if known is None:
            known = self._before[id(stand)] = tuple(self._forecast.before(stand))
        return known

    def lead_s(self, request: Request) -> float:
        """How many more seconds of slots its client had than the least of its class who wait."""
        fairness, priority = self._state.fairness, request.priority
        least = self._least.get(priority)
        if least is None:
            clients = self._state.line.clients(priority)
            least = min(fairness.counter(priority, client) for client in clients)
            self._least[priority] = least
        return fairness.counter(priority, request.client) - least

    def newcomer_s(self, priority: Priority) -> float | None:
        """How long one of a class would wait who comes now, for whatever is asked for."""
        return self._forecast.newcomer_s(priority)

    def newcomer_for_s(self, request: Request) -> float | None:
        """How long this one would wait if it came now."""
        stand = self._forecast.stand_for(request.model)
        return None if stand is None else stand.start_of(stand.counts[request.priority])

    def _limit_s(self, request: Request) -> float:
        """The least that it waits for one of the slots that all models share."""
        state = self._state
        if not state.is_full:
            return 0.0
        before = sum(
            len(ages.row)
            for priority, ages in zip(CLASSES, state.line.everybody, strict=True)
            if priority < request.priority
        )
        return (before + 1) * self._mean_s() / state.policy.max_concurrent

    def _mean_s(self) -> float:
        running = [charge.expected_s for charge in self._state.charges.values()]
        return sum(running) / len(running)

    def _numbers_at(self, stand: Stand) -> dict[RequestId, int]:
        known = self._numbers.get(id(stand))
        if known is None:
            order = in_turn(self._state, stand.groups, self._passed(stand))
            known = {request.id: number for number, request in enumerate(order)}
            self._numbers[id(stand)] = known
        return known

    def _passed(self, stand: Stand) -> int:
        """How many have passed an overdue one there already; a load is followed by that one."""
        state = self._state
        counts = [
            state.passed_at_runner.get((bin_id, stand.model), 0)
            for bin_id in _bins_of(stand.groups)
            if (bin_id, stand.model) in state.runners
        ]
        return max(counts, default=state.policy.k_slot)


def _bins_of(groups: Sequence[Group]) -> list[BinId]:
    return list(groups[0].first.needs) if groups else []


def in_turn(state: State, groups: Sequence[Group], passed: int) -> list[Request]:
    """Those of some kinds in the order in which one runner would serve them, if nobody came.

    As `turns` has it: by class, client and age, an overdue one after so many others at the most.
    """
    fair = list(_fairly(state, groups))
    elders = sorted((each for each in fair if state.line.overdue(each)), key=state.line.place)
    order: list[Request] = []
    served: set[RequestId] = set()
    eldest, limit = iter(elders), state.policy.k_slot
    elder = next(eldest, None)
    for each in fair:
        while elder is not None and elder.id in served:
            elder, passed = next(eldest, None), 0
        if elder is not None and elder is not each and each.id not in served and passed >= limit:
            order.append(elder)
            served.add(elder.id)
            elder, passed = next(eldest, None), 0
        if each.id not in served:
            order.append(each)
            served.add(each.id)
            passed += 1
    return order


def _fairly(state: State, groups: Sequence[Group]) -> Iterator[Request]:
    """By class, then as the clients' counters would grow, then by age."""
    for priority in CLASSES:
        tagged = []
        for group in groups:
            for client, own in group.ranks[priority].by_client.items():
                counter = state.fairness.counter(priority, client)
                service_s = state.pace.service_s(own[0].model, own[0].service_s)
                tagged += [
                    (counter + turn * service_s, each.arrived_at, state.line.joined(each), each)
                    for turn, each in enumerate(own)
                ]
        yield from (each for *_, each in sorted(tagged, key=lambda tag: tag[:3]))
