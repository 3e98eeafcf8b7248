"""The discrete-event world: the brain alone, or another policy, on simulated cards.

No sockets and no real time: thousands of requests a second, the same for the same seed. A
`Workload` says what there is and who comes, a `Contender` decides, `World(workload,
contender).run()` says how it went.
"""

from ollama_gate.simulator.discrete.bound import Bound, lower_bound
from ollama_gate.simulator.discrete.brain import Brain
from ollama_gate.simulator.discrete.cards import Outcome
from ollama_gate.simulator.discrete.contender import Contender
from ollama_gate.simulator.discrete.exhaustive import MostDemanded, Table
from ollama_gate.simulator.discrete.ollama import Ollama
from ollama_gate.simulator.discrete.optimum import NotSmallError, Optimum, optimum
from ollama_gate.simulator.discrete.result import Counts, Record, Result, Summary, summary
from ollama_gate.simulator.discrete.workload import (
    GB,
    Agent,
    Arrival,
    CardSpec,
    ModelSpec,
    Physics,
    Step,
    UpstreamSpec,
    Workload,
    load_s,
)
from ollama_gate.simulator.discrete.world import World

__all__ = [
    "GB",
    "Agent",
    "Arrival",
    "Bound",
    "Brain",
    "CardSpec",
    "Contender",
    "Counts",
    "ModelSpec",
    "MostDemanded",
    "NotSmallError",
    "Ollama",
    "Optimum",
    "Outcome",
    "Physics",
    "Record",
    "Result",
    "Step",
    "Summary",
    "Table",
    "UpstreamSpec",
    "Workload",
    "World",
    "load_s",
    "lower_bound",
    "optimum",
    "summary",
]
