"""All sources together: the one configuration that they come to, and how to show it.

No single value is judged here, and what is wrong is raised all at once.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from ollama_gate.config.file import find_file
from ollama_gate.config.keys import KEYS
from ollama_gate.config.reading import Reading
from ollama_gate.config.structs import (
    Config,
    Effective,
    LogConfig,
    QueueConfig,
    VramConfig,
)
from ollama_gate.config.upstreams import read_upstreams
from ollama_gate.errors import ConfigError


def load(*, path: Path | None, environ: Mapping[str, str], flags: Mapping[str, str]) -> Effective:
    """What is in effect: flag above environment above file above default.

    Args:
        path: the file to use; it must exist. `None` looks for one: `OLLAMA_GATE_CONFIG`, which
            must exist as well, then `./gate.yaml`, `~/.config/ollama-gate/gate.yaml` and
            `/etc/ollama-gate/gate.yaml`; none at all is fine.
        environ: as `os.environ`.
        flags: `listen` and `upstream`, where they were given; of several upstreams the latter
            names one.

    Raises:
        ConfigError: with every problem of every source, one a line.
    """
    file = find_file(path, environ)
    reading = Reading(file=file, environ=environ, flags=flags)
    config = _build(reading, file.upstreams, tuple(file.models))
    reading.check_variables()
    if reading.problems:
        raise ConfigError("\n".join(reading.problems))
    return Effective(
        config=config,
        file=file.path,
        origins=MappingProxyType(reading.origins),
        values=MappingProxyType(reading.values),
        models=MappingProxyType(file.models),
    )


def _build(reading: Reading, upstreams: int, models: Iterable[str]) -> Config:
    """The order of reading is the order of showing: that of the documented gate.yaml."""
    value = reading.value
    return Config(
        listen=(listen := value(KEYS.listen)),
        origins=value(KEYS.origins),
        upstreams=read_upstreams(reading, upstreams, listen),
        vram=VramConfig(reserve_bytes=value(KEYS.reserve), safety=value(KEYS.safety)),
        offload=value(KEYS.offload),
        keep_alive_s=value(KEYS.keep_alive),
        num_ctx=value(KEYS.num_ctx),
        prewarm=value(KEYS.prewarm),
        models=MappingProxyType({name: reading.model(name) for name in models}),
        max_concurrent=value(KEYS.max_concurrent),
        queue=QueueConfig(
            max_size=value(KEYS.max_size),
            max_wait_s=value(KEYS.max_wait),
            max_per_client=value(KEYS.max_per_client),
        ),
        scheduler=reading.scheduler(),
        max_run_s=value(KEYS.max_run),
        max_body_bytes=value(KEYS.max_body),
        grace_s=value(KEYS.grace),
        trace=value(KEYS.trace),
        state_dir=value(KEYS.state_dir),
        log=LogConfig(level=value(KEYS.level), format=value(KEYS.format)),
    )


def describe(effective: Effective) -> list[tuple[str, str, str]]:
    """Dotted path, value and origin of everything in effect, in the order of gate.yaml."""
    return [(path, text, effective.origins[path]) for path, text in effective.values.items()]
