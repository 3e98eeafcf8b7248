"""What ollama.com answers for, or would: the account, the web, what is recommended.

Ollama v0.32.15 server/routes.go, cloud_proxy.go, model_recommendations.go.
"""

import base64
import hashlib
import time
import urllib.parse
from typing import Any

from ollama_gate.simulator.replies import Answer, Empty, Origin, RefusedError
from ollama_gate.simulator.world import Call, World

_RESOLVER = "127.0.0.53:53"
_HOSTNAME = "simulated"

# What Ollama has built in; once it has reached ollama.com it shows that one's.
_RECOMMENDED: tuple[dict[str, Any], ...] = (
    {
        "model": "kimi-k2.6:cloud",
        "description": "State-of-the-art coding, long-horizon execution, and multimodal agent "
        "swarm capability",
        "context_length": 262144,
        "max_output_tokens": 262144,
    },
    {
        "model": "glm-5.1:cloud",
        "description": "Reasoning and code generation",
        "context_length": 202752,
        "max_output_tokens": 131072,
    },
    {
        "model": "qwen3.5:cloud",
        "description": "Reasoning, coding, and agentic tool use with vision",
        "context_length": 262144,
        "max_output_tokens": 32768,
    },
    {
        "model": "minimax-m2.7:cloud",
        "description": "Fast, efficient coding and real-world productivity",
        "context_length": 204800,
        "max_output_tokens": 128000,
    },
    {
        "model": "gemma4",
        "description": "Reasoning and code generation locally",
        "vram_bytes": 12_000_000_000,
    },
    {
        "model": "qwen3.5",
        "description": "Reasoning, coding, and visual understanding locally",
        "vram_bytes": 14_000_000_000,
    },
)


async def status(call: Call) -> Answer:
    """GET /api/status."""
    disabled = not call.world.settings.cloud
    return Answer({"cloud": {"disabled": disabled, "source": "env" if disabled else "none"}})


async def recommendations(_: Call) -> Answer:
    """GET /api/experimental/model-recommendations."""
    return Answer({"recommendations": list(_RECOMMENDED)})


async def me(call: Call) -> Answer:
    """POST /api/me."""
    settings = call.world.settings
    if not settings.online:
        raise RefusedError(503, "account unavailable")
    if not settings.account:
        return _unauthorized(call.world)
    digest = hashlib.sha256(settings.account.encode()).hexdigest()
    numbered = "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32]))
    return Answer(
        {
            "id": numbered,
            "email": f"{settings.account}@example.com",
            "name": settings.account,
            "plan": "free",
        }
    )


async def sign_out(call: Call) -> Empty:
    """POST /api/signout and, deprecated, DELETE /api/user/keys/:encodedKey."""
    settings = call.world.settings
    if not settings.online:
        raise RefusedError(500, "there was an error signing out")
    if not settings.account:
        raise RefusedError(401, "you are not currently signed in")
    return Empty(is_null=True)


async def web_search(call: Call) -> Answer:
    """POST /api/experimental/web_search."""
    return _web(call, "web_search", "web search is unavailable", {"results": []})


async def web_fetch(call: Call) -> Answer:
    """POST /api/experimental/web_fetch."""
    page = {"title": "", "content": "", "links": []}
    return _web(call, "web_fetch", "web fetch is unavailable", page)


def lookup_failure(host: str) -> str:
    """What Go says when a host's name cannot be looked up."""
    return f"dial tcp: lookup {host} on {_RESOLVER}: no such host"


def unreachable_cloud(verb: str, path: str, query: str) -> RefusedError:
    """What a request that ollama.com was to answer gets where it cannot be reached."""
    asked = urllib.parse.parse_qsl(query, keep_blank_values=True)
    signed = urllib.parse.urlencode(sorted([*asked, ("ts", str(int(time.time())))]))
    url = f"https://ollama.com:443{path}?{signed}"
    return RefusedError(502, f'{verb} "{url}": {lookup_failure("ollama.com")}', Origin.CLOUD)


def _web(call: Call, operation: str, unavailable: str, found: dict[str, Any]) -> Answer:
    settings = call.world.settings
    if not call.body.strip():
        raise RefusedError(400, "missing request body")
    if not settings.cloud:
        raise RefusedError(403, f"ollama cloud is disabled: {unavailable}")
    if not settings.online:
        raise unreachable_cloud("Post", f"/api/{operation}", call.query)
    return Answer(found) if settings.account else _unauthorized(call.world)


def _unauthorized(world: World) -> Answer:
    key = hashlib.sha256(str(world.settings.seed).encode()).digest()
    spelled = base64.urlsafe_b64encode(b"ssh-ed25519 " + key).decode().rstrip("=")
    host = urllib.parse.quote(_HOSTNAME)
    url = f"https://ollama.com/connect?name={host}&key={spelled}"
    return Answer({"error": "unauthorized", "signin_url": url}, 401)
