"""The local page and its JSON interface: what a rater sees, and what they answer.

Binds 127.0.0.1 only, behind `guard.py`. No answer of it holds a system's name: not in HTML, JSON or headers.
Read next: `sessions.py` for what is shown, `store.py` for what is kept.
"""

import errno
import json
import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import files
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from tunesmith.data.pages import page_template
from tunesmith.errors import TunesmithError, UserError
from tunesmith.people.guard import HOST, Application, Guard
from tunesmith.people.scales import SCALES
from tunesmith.people.sessions import Act, Survey, Task, rater_name, tasks_of, view
from tunesmith.people.store import Conflict, VoteStore
from tunesmith.people.votes import stop_message
from tunesmith.tools.text_diff import Kind, word_diff

MOST_NOTE_CHARACTERS = 2000
TOKEN_BYTES = 24
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
_STOP_SECONDS = 2

ActId = Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{8,64}$")]
Note = Annotated[str, Field(max_length=MOST_NOTE_CHARACTERS)]
Short = Annotated[str, Field(max_length=200)]


class _Body(BaseModel):
    """What a page sends: exactly these fields, in exactly these types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Vote(_Body):
    """An answer to a blind A/B."""

    rater: Short
    item: Short
    act_id: ActId
    choice: Literal["left", "right", "tie", "skip"]
    note: Note = ""


class Scores(_Body):
    """An answer to a rating; no scores are a skip."""

    rater: Short
    item: Short
    act_id: ActId
    scores: dict[str, int] | None
    note: Note = ""


class Undo(_Body):
    """Take back the last answer."""

    rater: Short
    act_id: ActId


def new_token() -> str:
    """A token nobody can guess."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def listen(port: int | None = None, *, last_port: int | None = None) -> socket.socket:
    """A socket that listens on 127.0.0.1.

    Args:
        port: the port to take; None takes any.
        last_port: of any, the one to try first, so that pages still open find the server again.

    Raises:
        UserError: if the port given cannot be had.
    """
    if port is None:
        with suppress(OSError, OverflowError):
            return _bound(last_port or 0)
        return _bound(0)
    try:
        return _bound(port)
    except (OSError, OverflowError) as error:
        is_taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        why = "another program has it" if is_taken else str(error)
        raise UserError(
            f"port {port} of {HOST} cannot be had: {why}",
            hint="leave `--port` out to take any free one, or name another",
        ) from error


def _bound(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            # A server that was just killed leaves its port waiting for a minute.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen(128)
    except BaseException:
        listening.close()
        raise
    return listening


def link(listening: socket.socket, token: str) -> str:
    """The address that lets a browser in."""
    return f"http://{HOST}:{listening.getsockname()[1]}/?token={token}"


def make_server(survey: Survey, store: VoteStore, *, token: str, port: int) -> uvicorn.Server:
    """The server, ready to run on a socket; it logs no requests, for the first one holds the token."""
    application = Guard(create_app(survey, store), token=token, port=port)
    return uvicorn.Server(
        uvicorn.Config(
            application,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            http="h11",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
    )


def serve(server: uvicorn.Server, listening: socket.socket) -> None:
    """Serve until Ctrl-C."""
    # uvicorn ends the connections first, then passes the signal on.
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listening])


def create_app(survey: Survey, store: VoteStore) -> Application:
    """The page of a survey and its JSON interface, without the guard."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    page = page_template(f"{survey.kind}.html.j2", {}, package="tunesmith.people").render()
    static = _static_files()

    def state_of(rater: str) -> Response:
        acts = store.acts
        return _json(view(survey, acts, rater, stopped=stop_message(survey, acts)))

    @app.get("/")
    def show_page() -> Response:
        return Response(page, media_type="text/html; charset=utf-8")

    @app.get("/static/{name}")
    def show_file(name: str) -> Response:
        if name not in static:
            raise HTTPException(404, f"there is no file `{name}`")
        content, media_type = static[name]
        return Response(content, media_type=media_type)

    @app.get("/api/state")
    def show_state(rater: Short) -> Response:
        return state_of(rater_name(rater))

    @app.get("/api/marks")
    def show_marks(item: Short, rater: Short) -> Response:
        if survey.kind != "ab":
            raise HTTPException(404, "a rating has no two answers to compare")
        return _json(_marks(_task(survey, rater_name(rater), item)))

    @app.post("/api/undo")
    def undo(body: Undo) -> Response:
        rater = rater_name(body.rater)
        store.undo(rater, body.act_id)
        return state_of(rater)

    def keep(body: Vote | Scores, answer: Mapping[str, Any]) -> Response:
        rater = rater_name(body.rater)
        task = _task(survey, rater, body.item)
        sides = dict(zip(("left", "right"), task.systems, strict=True)) if survey.kind == "ab" else {}
        store.answer(
            Act(body.act_id, "", rater, "answer", task.item.id, task.system, {**answer, **sides}, body.note)
        )
        return state_of(rater)

    def vote(body: Vote) -> Response:
        return keep(body, {"choice": body.choice})

    def rate(body: Scores) -> Response:
        _check_scores(body.scores)
        return keep(body, {"scores": body.scores})

    app.post("/api/act")(vote if survey.kind == "ab" else rate)
    _answer_errors(app)
    return app


def _answer_errors(app: FastAPI) -> None:
    """Every error is {"error", "hint"}; none repeats what was sent."""

    @app.exception_handler(TunesmithError)
    async def ours(request: Request, error: TunesmithError) -> Response:
        status = 409 if isinstance(error, Conflict) else 422 if type(error) is UserError else 500
        if status == 500:
            # The message names a file, and the file may be called by the systems.
            return _problem(status, "the votes file cannot be used", "ask whoever runs the server")
        return _problem(status, str(error), error.hint)

    @app.exception_handler(RequestValidationError)
    async def misshapen(request: Request, error: RequestValidationError) -> Response:
        found = [f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors()]
        return _problem(422, "; ".join(found), "load the page again; it may be older than the server")

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return _problem(error.status_code, str(error.detail), "open the link that the command printed")


def _problem(status: int, error: str, hint: str) -> Response:
    return _json({"error": error, "hint": hint}, status=status)


def _json(value: Any, *, status: int = 200) -> Response:
    """ASCII only, because a model's text may hold half a surrogate pair, which UTF-8 cannot."""
    return Response(json.dumps(value), status_code=status, media_type="application/json")


def _task(survey: Survey, rater: str, name: str) -> Task:
    task = tasks_of(survey, rater).get(name)
    if task is None:
        raise HTTPException(404, "there is no such item for this rater")
    return task


def _check_scores(scores: Mapping[str, int] | None) -> None:
    if scores is None:
        return
    limits = {scale.name: (scale.low, scale.high) for scale in SCALES}
    if scores.keys() != limits.keys():
        raise UserError(
            f"scores are for {', '.join(limits)}, and {len(scores)} came under other names or not at all",
            hint="give each scale one score, or null to skip",
        )
    for name, (low, high) in limits.items():
        if not low <= scores[name] <= high:
            raise UserError(
                f"{name} is outside {low} to {high}", hint=f"give a whole number from {low} to {high}"
            )


def _marks(task: Task) -> dict[str, list[dict[str, str]]]:
    """Both answers in pieces: what they share, and what only one has."""
    left, right = (task.item.answers[system] for system in task.systems)
    spans = word_diff(left, right)
    shown: dict[str, Kind] = {"left": "delete", "right": "insert"}
    return {
        side: [{"kind": span.kind, "text": span.text} for span in spans if span.kind in ("equal", own)]
        for side, own in shown.items()
    }


def _static_files() -> dict[str, tuple[bytes, str]]:
    """All that may be fetched, read once: no path of a request ever reaches the disk."""
    found = {}
    for file in files("tunesmith.people").joinpath("static").iterdir():
        media_type = _MEDIA_TYPES.get(os.path.splitext(file.name)[1])
        if media_type and file.is_file():
            found[file.name] = (file.read_bytes(), media_type)
    return found
