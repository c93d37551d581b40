"""Attacks A22 to A26, A32 and A33: the local page of `people`, asked by strangers. Ids: docs/security.md."""

import ast
import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

import tunesmith
from attacks import refused
from people_room import SYSTEMS, make_survey, open_votes
from tunesmith.people.guard import Guard
from tunesmith.people.server import create_app, link, listen

PORT, TOKEN = 4567, "the-token"
HERE = f"http://127.0.0.1:{PORT}"
ROUTES = [
    *(
        ("GET", path)
        for path in ("/", "/static/people.css", "/api/state?rater=Ada", "/api/marks?item=x&rater=Ada")
    ),
    *(("POST", path) for path in ("/api/act", "/api/undo")),
]


@pytest.fixture
def survey():
    return make_survey("ab", 6)


@pytest.fixture
def store(tmp_path, survey):
    store = open_votes(tmp_path / "votes.sqlite", survey)
    yield store
    store.close()


@pytest.fixture
def ask(survey, store):
    """Send one request, as the page would unless told otherwise."""
    application = Guard(create_app(survey, store), token=TOKEN, port=PORT)

    async def send(method: str, path: str, headers: dict[str, str], content: bytes | None) -> httpx.Response:
        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
            request = client.build_request(method, HERE + path, content=content, headers=headers)
            return await client.send(request)

    def asked(
        method: str = "GET", path: str = "/api/state?rater=Ada", *, body: Any = None, **headers: str
    ) -> httpx.Response:
        given = {"Cookie": f"tunesmith_{PORT}={TOKEN}"}
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        if method == "POST":
            given |= {"Content-Type": "application/json"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        return asyncio.run(send(method, path, given, content if method == "POST" else None))

    assert asked().status_code == 200
    return asked


def vote(ask, **changes: Any) -> httpx.Response:
    item = ask().json()["item"]["id"]
    body = {"rater": "Ada", "item": item, "act_id": str(uuid4()), "choice": "left", "note": ""}
    return ask("POST", "/api/act", body=body | changes)


def test_a22_the_server_listens_on_this_machine_alone(capsys, tmp_path):
    listening = listen()
    try:
        assert listening.getsockname()[0] == "127.0.0.1"
        assert link(listening, TOKEN).startswith("http://127.0.0.1:")
    finally:
        listening.close()
    for flag in ("--host", "--share", "--listen"):
        assert f"Unknown option: {flag}" in refused(capsys, "rate", tmp_path, flag, "0.0.0.0")  # noqa: S104
    for path in Path(tunesmith.__file__).parent.rglob("*.py"):
        assert "0.0.0.0" not in path.read_text(encoding="utf-8"), path  # noqa: S104


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "host", ["evil.test", f"evil.test:{PORT}", "127.0.0.1", f"127.0.0.1.evil.test:{PORT}", ""]
)
def test_a23_a_name_that_resolves_to_this_machine_is_refused_on_every_route(ask, store, method, path, host):
    response = ask(method, path, Host=host, body={})
    assert response.status_code == 403
    assert not store.acts


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "origin", ["https://evil.test", "null", f"https://127.0.0.1:{PORT}", "http://127.0.0.1", ""]
)
def test_a24_pages_of_other_origins_are_refused_on_every_route(ask, method, path, origin):
    response = ask(method, path, Origin=origin, body={})
    assert response.status_code == 403
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_a24_what_a_form_can_send_is_refused(ask, store, kind):
    for path in ("/api/act", "/api/undo"):
        assert ask("POST", path, Content_Type=kind, body={"rater": "Ada"}).status_code == 415
    assert ask("OPTIONS", "/api/act", Origin="https://evil.test").status_code == 403
    assert not store.acts


def test_a24_no_cookie_is_no_entry(ask):
    for method, path in ROUTES:
        for cookie in ("", f"tunesmith_{PORT}=", f"tunesmith_{PORT}=wrong", f"tunesmith={TOKEN}"):
            assert ask(method, path, Cookie=cookie, body={}).status_code == 403


@pytest.mark.parametrize(
    "name",
    [
        *("../server.py", "..%2fserver.py", "%2e%2e/server.py", "..%5cserver.py", "....//server.py"),
        *(
            "/etc/passwd",
            "%2fetc%2fpasswd",
            "C:/Windows/win.ini",
            "C:%5cboot.ini",
            "//host/share",
            "%5c%5chost",
        ),
        *(
            "people.css%00",
            "people.css/",
            ".",
            "",
            "ab.html.j2",
            "people.css%20",
            "PEOPLE.CSS",
        ),
    ],
)
def test_a25_no_path_leads_out_of_the_page(ask, monkeypatch, name):
    """What may be fetched was read at the start; no path of a request reaches the disk."""
    opened = []
    monkeypatch.setattr(Path, "open", lambda self, *_, **__: opened.append(self))
    monkeypatch.setattr(Path, "read_bytes", lambda self: opened.append(self))
    response = ask(path=f"/static/{name}")
    assert response.status_code == 404
    assert set(response.json()) == {"error", "hint"}
    assert opened == []


def test_a26_no_server_of_ours_fetches_an_address():
    """One module talks to the network, to the judge whose address the user gives; see test_a31."""
    clients = {
        "httpx",
        "requests",
        "urllib.request",
        "urllib3",
        "aiohttp",
        "http.client",
        "socket",
        "ftplib",
        "smtplib",
    }
    users = {
        path.name
        for path in Path(tunesmith.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        if name in clients
    }
    assert users - {"run_lock.py"} == {"judge.py", "server.py"}
    server = (Path(tunesmith.__file__).parent / "people/server.py").read_text(encoding="utf-8")
    assert ".connect(" not in server


@pytest.mark.parametrize(
    "changes",
    [
        {"note": "n" * 2001},
        {"rater": "r" * 201},
        {"item": "i" * 201},
        {"act_id": "a" * 65},
        {"choice": ["left"] * 1000},
        {"n": 1_000_000},
        {"note": {"deep": [[[[]]]]}},
        {"rater": 10**400},
        {"choice": None},
    ],
)
def test_a32_parameters_out_of_bounds_are_refused_and_nothing_is_kept(ask, store, changes):
    assert vote(ask, **changes).status_code == 422
    assert not store.acts


@pytest.mark.parametrize(
    "content", [b"[" * 60_000, b'{"a":' * 10_000, b"1" * 60_000, b"x" * 70_000, b"\xff" * 100]
)
def test_a32_bodies_that_are_bombs_are_refused_and_the_server_lives(ask, store, content):
    assert ask("POST", "/api/act", body=content).status_code in (400, 413, 422)
    assert not store.acts
    assert vote(ask).status_code == 200


@pytest.mark.parametrize(
    "act_id",
    [
        "",
        "short",
        "../../../etc/passwd",
        "a" * 65,
        "has space",
        "nul\0nul\0",
        "'; drop table",
        "ümlauts-here",
    ],
)
def test_a33_ids_have_a_fixed_alphabet(ask, store, act_id):
    assert vote(ask, act_id=act_id).status_code == 422
    assert not store.acts


def test_a33_items_belong_to_a_rater_and_acts_are_nobody_else_s(ask, store):
    assert vote(ask, item="item9999").status_code == 404
    foreign = ask(path="/api/state?rater=Bo").json()["item"]["id"]
    assert vote(ask, item=foreign).status_code == 404
    assert vote(ask).status_code == 200
    undo = {"rater": "Bo", "act_id": str(uuid4())}
    assert ask("POST", "/api/undo", body=undo).status_code == 409
    assert len(store.acts) == 1


def test_a33_no_answer_tells_a_system_s_name(ask):
    for method, path in ROUTES:
        text = ask(method, path, body={}).text
        assert not [system for system in SYSTEMS if system in text]
