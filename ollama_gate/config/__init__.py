"""`gate.yaml`, the environment and flags → one frozen, validated `Config`; every default is here.

It reads settings and refuses to act on them: nothing is opened but the file, nothing is looked
up, no name is resolved.
"""

from ollama_gate.config.addresses import Listen, names_gate, parse_upstream
from ollama_gate.config.loading import describe, load
from ollama_gate.config.parameters import read_parameter
from ollama_gate.config.scheduling import PROFILES, Profile, SchedulerConfig, parameters
from ollama_gate.config.structs import (
    Card,
    Config,
    Effective,
    Gpus,
    ModelConfig,
    QueueConfig,
    UpstreamConfig,
)
from ollama_gate.config.units import format_duration, format_size, parse_duration, parse_size

__all__ = [
    "PROFILES",
    "Card",
    "Config",
    "Effective",
    "Gpus",
    "Listen",
    "ModelConfig",
    "Profile",
    "QueueConfig",
    "SchedulerConfig",
    "UpstreamConfig",
    "describe",
    "format_duration",
    "format_size",
    "load",
    "names_gate",
    "parameters",
    "parse_duration",
    "parse_size",
    "parse_upstream",
    "read_parameter",
]
