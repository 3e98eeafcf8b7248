"""What a case is: data, told in exchanges; what is done with it is decided elsewhere.

Texts hold places to be filled in, `@name@`: a role that some model of the upstream plays
(`@chat@`), a value of the side that is asked (`@host@`, `@mine@`), a capture of an earlier
exchange, or a generated value (`@png:64@`). `places.py` fills them in.
"""

from dataclasses import dataclass

Headers = tuple[tuple[str, str], ...]
Captures = tuple[tuple[str, str], ...]

GENERATED = ("created", "durations", "ids")
"""Masks of whatever a model has answered."""

UNSEEDED = (*GENERATED, "said")
"""Masks of what a model has answered where a dialect knows no seed."""

OWN = ("own-name",)
"""Mask of answers that speak of the name that each side made for itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request and what is looked at in its answer.

    Attributes:
        body: text, sent as UTF-8, or bytes (their places are filled in too); `None` sends neither a
            body nor a length.
        encoding: `zstd` or `gzip`: how the body is packed before it is sent.
        pieces: the body in chunks, sent with `Transfer-Encoding: chunked`.
        host: the `Host` header; `None` leaves it out.
        verbatim: the whole request as it is written, in place of everything above.
        waits_for_100: whether the body is kept back until it is asked for.
        leaves_after: hang up when so many pieces of the answer's body have come; -1 hangs up as
            soon as the request is sent.
        half_closes: whether the sending half is closed when the request has been sent.
        masks: names of rules in `masks.py`.
        captures: (name, pattern with one group), looked for in the answer's body.
        stage: whether it only sets the stage: its answer is not compared.
        paced: whether the answer is expected to come piece by piece.
        patience_s: how long to wait for an answer that may not come; 0 leaves it to the run.
        until: a pattern; asked again until its body matches, a bounded number of times.
    """

    method: str = "GET"
    target: str = "/"
    headers: Headers = ()
    body: str | bytes | None = None
    encoding: str = ""
    pieces: tuple[str, ...] = ()
    host: str | None = "@host@"
    version: str = "HTTP/1.1"
    verbatim: str = ""
    waits_for_100: bool = False
    leaves_after: int = 0
    half_closes: bool = False
    masks: tuple[str, ...] = ()
    captures: Captures = ()
    stage: bool = False
    paced: bool = False
    patience_s: float = 0.0
    until: str = ""


@dataclass(frozen=True, slots=True)
class Together:
    """Requests on one connection: one after the other's answer, or all sent before any."""

    asks: tuple[Ask, ...]
    pipelined: bool = False


Step = Ask | Together


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Exchanges whose answers must be the same straight and through the proxy.

    Attributes:
        name: `group/what it shows`.
        afterwards: exchanges that put right what the case has changed; not compared.
        from_empty: whether each side begins with no model loaded.
    """

    name: str
    steps: tuple[Step, ...]
    afterwards: tuple[Ask, ...] = ()
    from_empty: bool = False

    @property
    def group(self) -> str:
        """What the name begins with."""
        return self.name.partition("/")[0]

    @property
    def route(self) -> str:
        """Method and target of the last exchange that is compared, for the table."""
        asks = [ask for step in self.steps for ask in asks_of(step) if not ask.stage]
        last = asks[-1]
        if last.verbatim:
            return last.verbatim.partition("\r\n")[0].rpartition(" HTTP/")[0] or last.verbatim[:20]
        return f"{last.method} {last.target}"


def asks_of(step: Step) -> tuple[Ask, ...]:
    """The requests of a step, in the order in which they are sent."""
    return (step,) if isinstance(step, Ask) else step.asks


# ---------------------------------------------------------------- constructors, as cases are told


def case(name: str, *steps: Step, afterwards: tuple[Ask, ...] = (), empty: bool = False) -> Case:
    """A case in the order in which it is read."""
    return Case(name=name, steps=steps, afterwards=afterwards, from_empty=empty)


def get(target: str, *headers: tuple[str, str], masks: tuple[str, ...] = ()) -> Ask:
    """GET."""
    return Ask(target=target, headers=headers, masks=masks)


def head(target: str, *headers: tuple[str, str]) -> Ask:
    """HEAD."""
    return Ask(method="HEAD", target=target, headers=headers)


def send(
    method: str,
    target: str,
    body: str | bytes | None = None,
    *headers: tuple[str, str],
    masks: tuple[str, ...] = (),
) -> Ask:
    """Any method."""
    return Ask(method=method, target=target, headers=headers, body=body, masks=masks)


def post(
    target: str,
    body: str | bytes | None,
    *headers: tuple[str, str],
    masks: tuple[str, ...] = GENERATED,
) -> Ask:
    """POST of JSON, with the type that most clients name."""
    named = headers or (("Content-Type", "application/json"),)
    return Ask(method="POST", target=target, headers=named, body=body, masks=masks)
