"""What stands before every dialect under `/v1`: bodies decompressed, cloud models told apart.

Ollama v0.32.15 server/cloud_proxy.go (`cloudPassthroughMiddleware`). Its refusals have Ollama's
own shape under every route.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ollama_gate.simulator import gojson
from ollama_gate.simulator.bodies import BadBodyError, Struct, read_body
from ollama_gate.simulator.native import cloud_refusal
from ollama_gate.simulator.refs import Source, parse_ref
from ollama_gate.simulator.replies import Origin, RefusedError
from ollama_gate.simulator.world import Call
from ollama_gate.simulator.zstd import NotZstdError, decompress

WEB_SEARCH = "web_search"


class UntranslatableError(RefusedError):
    """A request that has no meaning in Ollama's own API."""

    def __init__(self, text: str) -> None:
        super().__init__(400, text, Origin.TRANSLATION)


def opened(call: Call, *, keeps: Callable[[Any], bool] | None = None) -> Call:
    """The call as the dialect's translation sees it.

    Args:
        call: the request as it came.
        keeps: whether the dialect looks after a body itself, wherever its model is.

    Raises:
        RefusedError: if it does not decompress, or wants the cloud and that is off.
    """
    if call.headers.get("Content-Encoding") == "zstd":
        try:
            call = replace(call, body=decompress(call.body))
        except NotZstdError as error:
            raise RefusedError(400, str(error), Origin.CLOUD) from None
    if call.world.settings.cloud:
        return call
    whole = _whole(call.body)
    if is_cloud_name(whole.get("model")) and not (keeps and keeps(whole)):
        raise cloud_refusal(Origin.CLOUD)
    return call


def read(call: Call, wanted: Struct) -> dict[str, Any]:
    """The request's fields.

    Raises:
        UntranslatableError: in Go's words.
    """
    try:
        return read_body(call.body, wanted, empty="EOF")
    except BadBodyError as error:
        raise UntranslatableError(str(error)) from None


def is_cloud_name(name: Any) -> bool:
    """Whether a name asks for the cloud."""
    try:
        return isinstance(name, str) and parse_ref(name).source is Source.CLOUD
    except ValueError:
        return False


def searches_the_web(whole: Any) -> bool:
    """Whether a body of `/v1/messages` or `/v1/responses` declares a search that Ollama runs."""
    tools = whole.get("tools")
    kinds = [tool.get("type") for tool in tools or () if isinstance(tool, dict)]
    return any(isinstance(kind, str) and kind.strip().startswith(WEB_SEARCH) for kind in kinds)


def _whole(body: bytes) -> dict[str, Any]:
    """The body's fields by their exact keys; none where it is not an object."""
    try:
        whole = gojson.plain(json.loads(body, object_pairs_hook=gojson.Pairs))
    except ValueError:
        return {}
    return whole if isinstance(whole, dict) else {}
