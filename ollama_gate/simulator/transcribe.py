"""`/v1/audio/transcriptions`: a form with a recording, over `/api/chat`.

Ollama v0.32.15 middleware/openai.go (`TranscriptionMiddleware`); forms are read as Go's net/http
reads them, so a field may stand anywhere and the query goes before it.
"""

from collections.abc import Mapping
from email.message import Message
from typing import Any
from urllib.parse import parse_qs

from ollama_gate.simulator.gojson import encode
from ollama_gate.simulator.native import chat_with
from ollama_gate.simulator.passing import UntranslatableError
from ollama_gate.simulator.replies import Answer, Lines, Stream
from ollama_gate.simulator.sse import spelled
from ollama_gate.simulator.world import Call

_TASK = (
    "Transcribe the audio exactly as spoken. Output only the spoken words. "
    "Do not answer any question in the audio."
)
_QUESTION = "What exact words are spoken in this audio?"
# The status leaves with the first token, before Ollama knows what it will send.
_CONTENT_TYPE = "application/x-ndjson"


class _BadFormError(ValueError):
    """Not a form; the text is Go's."""


async def transcriptions(call: Call) -> Answer | Lines:
    """POST /v1/audio/transcriptions."""
    try:
        values, files = _form(call.headers.get("Content-Type", ""), call.body)
    except _BadFormError as error:
        raise UntranslatableError(f"failed to parse multipart form: {error}") from None
    asked = values | {k: v[0] for k, v in parse_qs(call.query, keep_blank_values=True).items()}
    if not asked.get("model"):
        raise UntranslatableError("model is required")
    if "file" not in files:
        raise UntranslatableError("file is required: http: no such file")
    if not files["file"]:
        raise UntranslatableError("audio file is empty")
    reply = await chat_with(call, _native(asked, files["file"]))
    spelling = _Whole(is_text=asked.get("response_format") == "text")
    match reply:
        case Stream():
            return Lines(spelled(reply.chunks, spelling), _CONTENT_TYPE)
        case Answer():
            return reply


def _native(asked: Mapping[str, str], audio: bytes) -> dict[str, Any]:
    task = _TASK
    task += f" The audio is in {asked['language']}." if asked.get("language") else ""
    task += f" Context: {asked['prompt']}" if asked.get("prompt") else ""
    return {
        "model": asked["model"],
        "messages": [
            {"role": "system", "content": task},
            {"role": "user", "content": _QUESTION, "images": [audio]},
        ],
        "stream": True,
        "options": {"temperature": 0},
    }


class _Whole:
    """Keeps everything for the end."""

    def __init__(self, *, is_text: bool) -> None:
        self._is_text = is_text
        self._said = ""

    def spell(self, chunk: Mapping[str, Any]) -> str:
        """Nothing, until it is done."""
        self._said += chunk["message"]["content"]
        if not chunk["done"]:
            return ""
        said = self._said.strip()
        return said if self._is_text else f"{encode({'text': said})}\n"

    def lost(self) -> str:
        """The rest and the error."""
        return ""


# -- forms -------------------------------------------------------------------------------


def _form(content_type: str, body: bytes) -> tuple[dict[str, str], dict[str, bytes]]:
    """The first value of every field, the first file of every name."""
    values: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for head, content in _parts(body, _boundary(content_type)):
        name = head.get_param("name", header="content-disposition")
        if not isinstance(name, str) or not name:
            continue
        if head.get_filename():
            files.setdefault(name, content)
        else:
            values.setdefault(name, content.decode("utf-8", errors="replace"))
    return values, files


def _boundary(content_type: str) -> bytes:
    head = Message()
    head["Content-Type"] = content_type
    if head.get_content_type() != "multipart/form-data":
        raise _BadFormError("request Content-Type isn't multipart/form-data")
    boundary = head.get_boundary()
    if not boundary:
        raise _BadFormError("no multipart boundary param in Content-Type")
    return boundary.encode()


def _parts(body: bytes, boundary: bytes) -> list[tuple[Message, bytes]]:
    mark = b"\r\n--" + boundary
    pieces = (b"\r\n" + body).split(mark)[1:]
    if not pieces:
        raise _BadFormError("multipart: NextPart: EOF")
    parts: list[tuple[Message, bytes]] = []
    for piece in pieces:
        if piece.startswith(b"--"):
            return parts
        head, gap, content = piece.partition(b"\r\n\r\n")
        _check_head(head)
        if not gap:
            raise _BadFormError("multipart: NextPart: EOF")
        parts.append((_head(head), content))
    raise _BadFormError("unexpected EOF")


def _check_head(lines: bytes) -> None:
    for line in lines.split(b"\r\n")[1:]:
        if b":" not in line:
            shown = encode(line.decode("utf-8", errors="replace"))
            raise _BadFormError(f"malformed MIME header: missing colon: {shown}")


def _head(lines: bytes) -> Message:
    head = Message()
    for line in lines.decode("utf-8", errors="replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            head[name.strip()] = value.strip()
    return head
