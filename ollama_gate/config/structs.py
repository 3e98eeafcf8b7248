"""What a configuration holds, and every default.

Records alone: how a value is written, where it may be written and what a wrong one is told are
the business of the modules beside.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import msgspec

from ollama_gate.config.addresses import OLLAMA_PORT, Listen
from ollama_gate.config.scheduling import SchedulerConfig
from ollama_gate.scheduler.types import Priority

KvCacheType = Literal["f16", "q8_0", "q4_0"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
OffloadPolicy = Literal["auto", "refuse", "accept"]
ContextPolicy = Literal["widen", "respect"]
PrewarmPolicy = Literal["auto", "off"]

DEFAULT_STATE_DIR = Path("~/.local/state/ollama-gate")


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """One card; at least one of its attributes is set.

    Attributes:
        vram_bytes: no more is planned with, however much a reading shows; `None` leaves it to
            readings.
        uuid: which it is: `GPU-…`, or `MIG-…` for a part of a split one.
        index: the same by its place among the cards of its maker; never beside `uuid`.
    """

    vram_bytes: int | None = None
    uuid: str | None = None
    index: int | None = None


Gpus = Literal["auto", "cpu"] | tuple[Card, ...]


class UpstreamConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One Ollama, and what its own environment is set to.

    Attributes:
        url: scheme, host, port unless it is the scheme's own, and a path prefix if there is one;
            no slash at its end.
        num_parallel: `OLLAMA_NUM_PARALLEL` there.
        max_loaded: `OLLAMA_MAX_LOADED_MODELS` there, 0 for its default.
        kv_cache_type: `OLLAMA_KV_CACHE_TYPE` there.
        context_length: `OLLAMA_CONTEXT_LENGTH` there, 0 for the tier it picks by VRAM.
        gpus: `auto` asks the card, `cpu` plans with system memory. Of several cards each one is
            named.
        outage_wait_s: how long requests wait for it while it does not answer.
    """

    name: str = "local"
    url: str = f"http://127.0.0.1:{OLLAMA_PORT}"
    num_parallel: int = 1
    max_loaded: int = 0
    kv_cache_type: KvCacheType = "f16"
    context_length: int = 0
    gpus: Gpus = "auto"
    outage_wait_s: float = 60.0


class VramConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Planning with memory.

    Attributes:
        reserve_bytes: kept free of what a reading says; `None` for the larger of 1 GiB and 5 %.
        safety: factor on estimates; what was configured or learned is taken as it is.
    """

    reserve_bytes: int | None = None
    safety: float = 1.0


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is known or wanted of one model.

    Attributes:
        vram_bytes: its footprint, above what was learned or estimated; `None` leaves it to those.
        max_concurrent: `None` for `num_parallel`, which is also its upper end.
        priority: class of its requests that name none.
        keep_alive_s: how long it may idle, `inf` for no limit; `None` for the gate's own.
        pin: once loaded it stays: it is never evicted, nor unloaded for having idled.
        preload: it is loaded when its upstream begins to answer, wanted or not.
    """

    vram_bytes: int | None = None
    max_concurrent: int | None = None
    priority: Priority = Priority.NORMAL
    keep_alive_s: float | None = None
    pin: bool = False
    preload: bool = False


class QueueConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How many requests may wait, and for how long.

    Attributes:
        max_wait_s: who still waits then is refused, 0 for no limit.
        max_per_client: waiting requests of one client, 0 for no cap.
    """

    max_size: int = 1000
    max_wait_s: float = 0.0
    max_per_client: int = 0


class LogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the log says and in which of its two forms."""

    level: LogLevel = "info"
    format: LogFormat = "text"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set; `Config()` is the defaults.

    Attributes:
        origins: whom to let in beyond Ollama's own list, as `OLLAMA_ORIGINS`.
        upstreams: at least one; each with a name and an address of its own.
        offload: what becomes of a model that Ollama put on the CPU in part.
        keep_alive_s: how long a model may idle, `inf` for no limit.
        num_ctx: whether a larger resident context serves a request that asks for less.
        prewarm: whether a model's file is read ahead while its requests wait.
        models: by name as written in the file; normalising is the reader's part.
        max_concurrent: requests served at once over all models, 0 for no limit of its own.
        max_run_s: how long one request may be served, 0 for no limit.
        max_body_bytes: of a request that must be read to learn its model.
        grace_s: for running answers at shutdown.
        trace: where arrivals are recorded, `None` for nowhere; `~` is not expanded yet.
        state_dir: where what was learned is kept; `~` is not expanded yet.
    """

    listen: Listen = Listen()
    origins: tuple[str, ...] = ()
    upstreams: tuple[UpstreamConfig, ...] = (UpstreamConfig(),)
    vram: VramConfig = VramConfig()
    offload: OffloadPolicy = "auto"
    keep_alive_s: float = 300.0
    num_ctx: ContextPolicy = "widen"
    prewarm: PrewarmPolicy = "auto"
    models: Mapping[str, ModelConfig] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    max_concurrent: int = 0
    queue: QueueConfig = QueueConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    max_run_s: float = 0.0
    max_body_bytes: int = 100 * 2**20
    grace_s: float = 30.0
    trace: Path | None = None
    state_dir: Path = DEFAULT_STATE_DIR
    log: LogConfig = LogConfig()

    @property
    def upstream(self) -> UpstreamConfig:
        """The first one, for whom there is but one."""
        return self.upstreams[0]


class Effective(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration and how it came about.

    Attributes:
        file: the file that was read, if there is one.
        origins: dotted path → `flag --listen`, `environment OLLAMA_GATE_LISTEN`, the file's path
            with a line number, `profile interactive`, or `default`. Of a model only what the file
            sets.
        values: the same paths in the same order → the value as one would write it.
        models: model name as written → the keys that the file sets for it.
    """

    config: Config
    file: Path | None
    origins: Mapping[str, str]
    values: Mapping[str, str]
    models: Mapping[str, tuple[str, ...]]
