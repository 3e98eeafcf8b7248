"""What a simulated Ollama is like: its environment variables, its cards, its speed."""

from dataclasses import dataclass

from ollama_gate.simulator.library import LIBRARY

_GIB = 2**30
# Ollama takes the sum of all cards for its tier (v0.32.15 server/routes.go, `Serve`).
_LARGE_TIER = (47 * _GIB, 262144)
_MIDDLE_TIER = (23 * _GIB, 32768)
_SMALL_TIER_CONTEXT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One simulated machine with one Ollama. Times are simulated seconds, sizes bytes.

    Attributes:
        cards: total bytes of each card; none for a machine with a CPU alone.
        num_parallel: OLLAMA_NUM_PARALLEL.
        max_loaded: OLLAMA_MAX_LOADED_MODELS; 0 is three for each card.
        max_queue: OLLAMA_MAX_QUEUE.
        keep_alive_s: OLLAMA_KEEP_ALIVE; negative is for ever.
        context_length: OLLAMA_CONTEXT_LENGTH; 0 takes Ollama's tier by the cards' total.
        kv_bytes: bytes of a cache element: 2 for f16, 34/32 for q8_0, 18/32 for q4_0.
        overhead_bytes: of each process on a card, which `/api/ps` does not show.
        size_error: by which share weights and buffers differ from what the shapes say, from and
            to; the seed chooses for each file.
        loses_windows: whether Ollama overlooks a cache of models with sliding windows, as from
            0.30 on.
        load_bandwidth: bytes a second from disk to where the weights go.
        load_start_s: what every load takes besides.
        discovery_s: how long one live look at the cards takes Ollama.
        unload_s: from the decision to end a runner until its process is gone.
        recovery_s: from then until the card shows its memory free.
        recovery_spread_s: up to so much later, as the seed chooses for each unload.
        speed: simulated seconds a wall second.
        seed: of the texts and their lengths.
        answer_tokens: length of an answer nothing cuts short; 0 lets the seed choose.
        cloud: whether cloud models are answered; if not, as with OLLAMA_NO_CLOUD.
        online: whether ollama.com and its registry can be reached.
        account: who is signed in at ollama.com; nobody if empty.
        pull_s: how long a pull or push takes for each of the model's files that is not there.
        pull_lines: lines of progress for each such file.
        models: names from the library that are on disk.
    """

    cards: tuple[int, ...] = (24 * _GIB,)
    num_parallel: int = 1
    max_loaded: int = 0
    max_queue: int = 512
    keep_alive_s: float = 300.0
    context_length: int = 0
    kv_bytes: float = 2.0
    overhead_bytes: int = 457 * 2**20
    size_error: tuple[float, float] = (0.0, 0.0)
    loses_windows: bool = True
    load_bandwidth: float = 2.5e9
    load_start_s: float = 1.5
    discovery_s: float = 0.5
    unload_s: float = 0.3
    recovery_s: float = 0.7
    recovery_spread_s: float = 0.0
    speed: float = 1.0
    seed: int = 0
    answer_tokens: int = 0
    cloud: bool = True
    online: bool = True
    account: str = ""
    pull_s: float = 2.0
    pull_lines: int = 5
    version: str = "0.32.15"
    models: tuple[str, ...] = tuple(model.name for model in LIBRARY)

    @property
    def default_context(self) -> int:
        """The context of a request that names none, before the model's own limit."""
        if self.context_length:
            return self.context_length
        total_bytes = sum(self.cards)
        for threshold_bytes, context in (_LARGE_TIER, _MIDDLE_TIER):
            if total_bytes >= threshold_bytes:
                return context
        return _SMALL_TIER_CONTEXT
