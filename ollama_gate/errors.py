"""The exception tree: every error that one room raises for another to handle.

Foreign exceptions (aiohttp's, NVML's, the operating system's) become one of these at the edge
where they arise, and nowhere else. A contradiction inside the scheduler is an `assert` instead.
"""


class GateError(Exception):
    """The root: whoever catches this catches everything that is ours."""


class ConfigError(GateError):
    """A wrong command line, environment variable or gate.yaml; the text lists every problem."""


class UpstreamError(GateError):
    """Something went wrong between the gate and an Ollama."""


class UpstreamGoneError(UpstreamError):
    """No answer: refused, reset, or closed before the answer's first byte."""


class UpstreamSilentError(UpstreamGoneError):
    """No answer within the time it should have come in; it may be busy rather than gone."""


class UpstreamBrokenError(UpstreamError):
    """The answer began and then broke off; what was relayed cannot be taken back."""


class UpstreamCutError(UpstreamBrokenError):
    """The gate itself cut the answer off; the text says why, in words for the client."""


class RunnerDiedError(UpstreamError):
    """An answer says that its runner died, and nothing of it has been relayed."""


class UpstreamLoopError(UpstreamGoneError):
    """The upstream is this gate itself, directly or by way of others."""


class UpstreamRefusedError(UpstreamError):
    """Ollama answered a request of the gate's own with an error.

    Attributes:
        status: HTTP status of the answer.
        text: Ollama's own words.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.text = text


class ModelUnknownError(GateError):
    """An upstream has no model of the name that somebody asked about."""


class CardError(GateError):
    """No reading from a card, or from the system's memory; the text says what to do."""


class PrewarmError(GateError):
    """A model's files cannot be read here ahead of a load; the text says why."""


class BadRequestError(GateError):
    """A header or body of a client's that means nothing; the text says what was expected."""


class BodyTooLargeError(GateError):
    """A body longer than `max_body`."""


class RanTooLongError(GateError):
    """A request was served for longer than `max_run`."""


class StateError(GateError):
    """`state_dir` is not for this gate to use; the text says why and what to do."""


class StoreError(GateError):
    """What was learned cannot be written, or read, now; a later try may succeed."""


class TraceError(GateError):
    """A trace cannot be read; the text says which line, what was expected and what was found."""


class ListenError(GateError):
    """The address to listen on cannot be had."""
