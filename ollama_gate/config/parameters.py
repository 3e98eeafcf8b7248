"""The keys of the brain's parameters: how each is spelled in gate.yaml.

The names are those of the queueing literature that the policy comes from; where one name covers
several figures they are keys below it. What they mean is said in `scheduler.types.Policy`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from ollama_gate.config import kinds
from ollama_gate.config.key import Key, make
from ollama_gate.config.nodes import compose
from ollama_gate.config.scheduling import PROFILES, Profile, SchedulerConfig
from ollama_gate.errors import ConfigError

_SPELLED: Final[Mapping[str, tuple[str, kinds.Kind[Any]]]] = {
    "weights": ("w", kinds.WEIGHTS),
    "tau_s": ("tau", kinds.PATIENCE),
    "tau_cap_s": ("tau_cap", kinds.PATIENCE),
    "beta": ("beta", kinds.A_NUMBER_OR_0),
    "kappa": ("kappa", kinds.A_NUMBER),
    "kappa_hi": ("kappa_hi", kinds.A_NUMBER),
    "finish": ("finish", kinds.A_NUMBER_OR_0),
    "stretch": ("stretch", kinds.A_STRETCH),
    "k_load": ("k_load", kinds.AN_INTEGER_OR_0),
    "k_slot": ("k_slot", kinds.AN_INTEGER_OR_0),
    "aging": ("aging", kinds.A_NUMBER_OR_0),
    "half_life_s": ("half_life", kinds.A_POSITIVE_DURATION),
    "ewma_service": ("ewma.service", kinds.A_SHARE),
    "ewma_load": ("ewma.load", kinds.A_SHARE),
    "first_service_s": ("first.service", kinds.A_POSITIVE_DURATION),
    "first_load_s": ("first.load", kinds.A_POSITIVE_DURATION),
    "first_load_bytes_per_s": ("first.load_rate", kinds.A_RATE),
    "first_unload_s": ("first.unload", kinds.A_POSITIVE_DURATION),
    "oom_growth": ("oom.factor", kinds.A_GROWTH),
    "oom_tries": ("oom.tries", kinds.AN_INTEGER),
    "oom_backoff_s": ("oom.backoff", kinds.BACKOFF),
}
_DEFAULTS: Final = SchedulerConfig()

PROFILE: Final[Key[Profile]] = make("scheduler.profile", kinds.A_PROFILE, _DEFAULTS.profile)
PARAMETERS: Final[Mapping[str, Key[Any]]] = {
    name: make(f"scheduler.{path}", kind, getattr(_DEFAULTS, name))
    for name, (path, kind) in _SPELLED.items()
}
"""By the name of the attribute, in the order of the documented gate.yaml."""


def of_profile(profile: Profile) -> dict[str, Any]:
    """What the profile says instead of the defaults: by the key's path."""
    return {PARAMETERS[name].path: value for name, value in PROFILES[profile].items()}


def read_parameter(text: str) -> tuple[str, Any]:
    """One as a command line names it: `kappa=8`, `tau=5s,120s,300s`, `ewma.load=0.5`.

    Returns:
        The attribute of `Policy`, and its value.

    Raises:
        ConfigError: there is none of that name, or the value is none for it.
    """
    path, _, value = text.partition("=")
    found = [name for name, (spelled, _) in _SPELLED.items() if spelled == path]
    if not found:
        names = ", ".join(spelled for spelled, _ in _SPELLED.values())
        raise ConfigError(f"{text}: expected NAME=VALUE with one of {names}, found {path!r}")
    kind = PARAMETERS[found[0]].kind
    try:
        node = compose(f"[{value}]" if kind.structured else value or '""')
        assert node is not None, "there is some text"
        return found[0], kind.read(node)
    except kinds.WrongError as error:
        raise ConfigError(f"{path}: {error.problems[0][1]}") from None
    except (yaml.YAMLError, RecursionError):
        raise ConfigError(f"{path}: expected a value of it, found {value!r}") from None


def contradictions(
    scheduler: SchedulerConfig, origins: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """What no value says alone: dotted path, and what is wrong with it beside which other."""
    show = kinds.A_DURATION.show
    path, cap_path = PARAMETERS["tau_s"].path, PARAMETERS["tau_cap_s"].path
    for place, (tau, cap) in enumerate(zip(scheduler.tau_s, scheduler.tau_cap_s, strict=True)):
        if tau > cap:
            end = f"{cap_path}[{place}], {show(cap)} ({origins.get(cap_path, 'default')})"
            yield f"{path}[{place}]", f"expected at most {end}, found {show(tau)}"
