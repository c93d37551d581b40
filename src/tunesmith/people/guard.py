"""Who may talk to the local page: only a browser on this machine that was given the link.

A page from elsewhere can make a browser send requests to 127.0.0.1. So the Host must be ours (a foreign name
may resolve to this machine), an Origin must be ours, and every request needs the token that only the
printed link holds. Wraps the whole application, so that its errors pass through here too.
"""

import json
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

HOST = "127.0.0.1"
MOST_BODY_BYTES = 64 * 1024
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    b"content-security-policy": _POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
    b"cross-origin-resource-policy": b"same-origin",
}
_LINK = "open the link that the command printed"


class Guard:
    """The application behind its checks.

    Args:
        application: what answers a request that passed.
        token: what the link holds.
        port: where the server listens.
    """

    def __init__(self, application: Application, *, token: str, port: int) -> None:
        self._application = application
        self._token = token
        # Browsers share cookies between ports; two servers must not take each other's.
        self._cookie = f"tunesmith_{port}"
        self._hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message.get("headers", []) if pair[0].lower() not in _HEADERS]
                message["headers"] = [*kept, *_HEADERS.items()]
            await send(message)

        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        if refusal := self._stranger(headers):
            await _refuse(send_safely, 403, *refusal)
        elif (given := _token_in_link(scope)) is not None:
            await self._enter(given, send_safely)
        elif not self._has_cookie(headers):
            await _refuse(send_safely, 403, "this page needs the token of its link", _LINK)
        elif scope["method"] == "POST" and not _is_json(headers):
            hint = "send `Content-Type: application/json`"
            await _refuse(send_safely, 415, "only JSON is taken", hint)
        elif (body := await _body(headers, receive)) is None:
            await _refuse(
                send_safely, 413, f"at most {MOST_BODY_BYTES} bytes are taken", "write a shorter note"
            )
        else:
            await self._application(scope, _replayed(body, receive), send_safely)

    def _stranger(self, headers: dict[bytes, list[bytes]]) -> tuple[str, str] | None:
        """Why the request cannot be from our own page, or None."""
        hosts = [value.decode("latin-1") for value in headers.get(b"host", [])]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return "this server answers to its own address only", _LINK
        origins = [value.decode("latin-1") for value in headers.get(b"origin", [])]
        if origins and origins != [f"http://{hosts[0]}"]:
            return "the request comes from a page of another origin", _LINK
        return None

    async def _enter(self, given: str, send: Send) -> None:
        """Turn the link's token into a cookie, so that the address bar does not keep it."""
        if not self._is_token(given):
            await _refuse(send, 403, "the token of this link is not the server's", _LINK)
            return
        cookie = f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/"
        found = [(b"location", b"/"), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 303, "headers": found})
        await send({"type": "http.response.body", "body": b""})

    def _has_cookie(self, headers: dict[bytes, list[bytes]]) -> bool:
        pairs = b"; ".join(headers.get(b"cookie", [])).decode("latin-1").split(";")
        split = [pair.strip().partition("=") for pair in pairs]
        return any(name == self._cookie and self._is_token(value) for name, _, value in split)

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())


def _token_in_link(scope: Scope) -> str | None:
    """The token of `GET /?token=...`, or None for any other request."""
    if scope["method"] != "GET" or scope["path"] != "/":
        return None
    found = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("token")
    return found[0] if found else None


def _is_json(headers: dict[bytes, list[bytes]]) -> bool:
    kinds = [value.split(b";")[0].strip().lower() for value in headers.get(b"content-type", [])]
    return kinds == [b"application/json"]


async def _body(headers: dict[bytes, list[bytes]], receive: Receive) -> bytes | None:
    """The whole body, or None where it is too large; one that says so is not read at all."""
    if any(not size.isdigit() or int(size) > MOST_BODY_BYTES for size in headers.get(b"content-length", [])):
        return None
    body, has_more = b"", True
    while has_more:
        message = await receive()
        body += message.get("body", b"")
        has_more = message.get("more_body", False)
        if len(body) > MOST_BODY_BYTES:
            return None
    return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body again, then whatever comes after it."""
    messages: Iterable[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replay() -> Message:
        for message in messages:
            return message
        return await receive()

    return replay


async def _refuse(send: Send, status: int, error: str, hint: str) -> None:
    content = json.dumps({"error": error, "hint": hint}).encode()
    found = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": found})
    await send({"type": "http.response.body", "body": content})
