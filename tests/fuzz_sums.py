"""What the waiting line says of itself, worked out again from scratch.

5: numbers, sums of ages and the rows of each client are those of who waits, and nothing is left of
a kind that nobody waits for any more. 9: who is overdue stays so; nobody is before its patience
ends, everybody is when its longest patience has ended.
"""

from collections.abc import Collection

from ollama_gate.scheduler.line import Line
from ollama_gate.scheduler.ranks import Ages
from ollama_gate.scheduler.types import Priority, Request, RequestId, Snapshot
from tests.fuzz_books import Books
from tests.fuzz_law import must


class Sums:
    """Compares a line with the books; remembers who was overdue."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self._overdue: set[RequestId] = set()
        self._places: dict[RequestId, tuple[float, int]] = {}

    def judge(self, line: Line) -> None:
        self._adds_up(line)
        self._overdue_stays(line)

    def _adds_up(self, line: Line) -> None:
        waiting = [fate.request for fate in self.books.waiting.values()]
        must("5 number", len(line) == len(waiting), f"{len(line)} of {len(waiting)}")
        must("5 models", set(line.models()) == {r.model for r in waiting}, f"{list(line.models())}")
        for priority in Priority:
            of_class = [request for request in waiting if request.priority is priority]
            _compare(f"class {priority.name}", line.everybody[priority], of_class)
            clients = {request.client for request in of_class}
            must("5 clients", set(line.clients(priority)) == clients, f"of {priority.name}")
        for model in line.models():
            groups = list(line.groups(model))
            must("5 groups", all(len(group) for group in groups), f"an empty kind of {model}")
            for priority in Priority:
                ranks = [group.ranks[priority] for group in groups]
                of_model = [r for r in waiting if r.model == model and r.priority is priority]
                rows = [request for rank in ranks for request in rank.row]
                must("5 rows", _ids(rows) == _ids(of_model), f"{model}: {_ids(rows)}")
                for rank in ranks:
                    _compare(f"{model}", rank, rank.row)
                    own = [request for row in rank.by_client.values() for request in row]
                    must("5 by client", _ids(own) == _ids(rank.row), f"{model}: {_ids(own)}")

    def _overdue_stays(self, line: Line) -> None:
        books = self.books
        here = {request_id: fate.request for request_id, fate in books.waiting.items()}
        overdue = {request_id for request_id, request in here.items() if line.overdue(request)}
        lost = (self._overdue & here.keys()) - overdue
        must("9 overdue", not lost, f"{lost} were overdue, and are not any more")
        places = {request_id: line.place(request) for request_id, request in here.items()}
        moved = [r for r, place in places.items() if self._places.get(r, place) != place]
        must("9 places", not moved, f"{moved} have moved")
        self._overdue, self._places = overdue, places
        for request_id, request in here.items():
            if request_id in overdue:
                early = books.now < books.virtual_deadline(request) - 1e-9
                must("9 patience", not early, f"{request_id} is overdue before its patience ends")
            else:
                late = books.now > books.surely_overdue_at(request) + 1e-9
                must("9 cap", not late, f"{request_id} has waited for too long, and is not overdue")


def tells_what_is(view: Snapshot, books: Books) -> None:
    """5: what the scheduler says of itself is what was told to it."""
    waits = [waiting.request.id for waiting in view.waiting]
    must("5 who waits", sorted(waits) == sorted(books.waiting), f"{waits}")
    places = [waiting.position for waiting in view.waiting]
    must("5 places", places == list(range(1, len(waits) + 1)), f"{places}")
    runs = {request.id for request, _ in view.running}
    must("5 who runs", runs == books.running.keys(), f"{sorted(runs)}")
    told = books.runners
    shown = {(r.bin, r.model): r for r in view.runners if r.state.value != "leaving"}
    must("5 runners", shown.keys() == told.keys(), f"{sorted(shown)} and {sorted(told)}")
    for key, runner in shown.items():
        state = {"resident": "ready"}.get(runner.state.value, runner.state.value)
        must("5 states", state == told[key].state, f"{key} is {told[key].state}, not {state}")
        must("5 busy", set(runner.running) == told[key].running, f"{key}: {runner.running}")
        same = told[key].launch.num_gpu == 0 or runner.footprint_bytes == told[key].bytes
        must("19 as reported", same or told[key].state != "ready", f"{runner}")


def _ids(requests: Collection[Request]) -> list[RequestId]:
    return sorted(request.id for request in requests)


def _compare(what: str, ages: Ages, requests: Collection[Request]) -> None:
    at_us = [round(request.arrived_at * 1e6) for request in requests]
    must("5 rows", _ids(ages.row) == _ids(requests), f"{what}: {_ids(ages.row)}")
    arrivals = [request.arrived_at for request in ages.row]
    must("5 eldest first", arrivals == sorted(arrivals), f"{what}: {arrivals}")
    must("5 sums", ages.sum_us == sum(at_us), f"{what}: {ages.sum_us}")
    must("5 squares", ages.sum_us2 == sum(at * at for at in at_us), f"{what}: {ages.sum_us2}")
