"""The real server on a free port: who gets in, what is stored, and that no answer names a system."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from people_room import SYSTEMS, make_items, make_survey, open_votes, task_for
from tunesmith.errors import UserError
from tunesmith.people.guard import MOST_BODY_BYTES
from tunesmith.people.server import link, listen, make_server, new_token
from tunesmith.people.sessions import Kind, standing
from tunesmith.people.store import VoteStore
from tunesmith.people.votes import ab_results

SCORES = {"accuracy": 5, "relevance": 4, "fluency": 3, "format_compliance": 2}


@dataclass
class Site:
    """A running server, a browser that was let in, and everything the server ever said."""

    port: int
    token: str
    store: VoteStore
    client: httpx.Client
    anyone: httpx.Client
    said: list[str] = field(default_factory=list)

    def get(self, path: str, **parameters: str) -> httpx.Response:
        return self._heard(self.client.get(path, params=parameters or None))

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        # ASCII, so that a test may send what UTF-8 cannot hold.
        content, kind = json.dumps(body), {"Content-Type": "application/json"}
        return self._heard(self.client.post(path, content=content, headers=kind))

    def state(self, rater: str = "Ada") -> dict[str, Any]:
        return dict(self.get("/api/state", rater=rater).json())

    def vote(self, choice: str, **changes: Any) -> httpx.Response:
        """Ada's vote on her next item, with some of its fields changed."""
        item = self.state()["item"]["id"]
        body = {"rater": "Ada", "item": item, "act_id": str(uuid4()), "choice": choice, "note": ""}
        return self.post("/api/act", body | changes)

    def bare(self, **headers: str) -> httpx.Response:
        """A request for the state with the cookie and other headers."""
        cookie = f"tunesmith_{self.port}={self.token}"
        return self.anyone.get("/api/state?rater=Ada", headers={"Cookie": cookie, **headers})

    def _heard(self, response: httpx.Response) -> httpx.Response:
        self.said.append(f"{response.headers} {response.text}")
        return response


@contextmanager
def running(folder: Path, kind: Kind = "ab", survey=None) -> Iterator[Site]:
    survey = survey or make_survey(kind)
    store = open_votes(folder / f"{kind}.sqlite", survey)
    listening, token = listen(), new_token()
    port = listening.getsockname()[1]
    server = make_server(survey, store, token=token, port=port)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        here = f"http://127.0.0.1:{port}"
        with (
            httpx.Client(base_url=here, follow_redirects=True) as client,
            httpx.Client(base_url=here) as anyone,
        ):
            assert client.get(link(listening, token)).status_code == 200
            yield Site(port, token, store, client, anyone)
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        listening.close()
        store.close()
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("ab")) as found:
        yield found


def test_the_link_sets_a_cookie_that_scripts_and_other_sites_do_not_get(site: Site) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{site.port}") as stranger:
        assert stranger.get("/").status_code == 403
        assert stranger.get("/?token=wrong").status_code == 403
        assert stranger.get("/?token=").status_code == 403
        entered = stranger.get(f"/?token={site.token}")
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        cookie = entered.headers["set-cookie"]
        assert cookie.startswith(f"tunesmith_{site.port}=")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
        page = stranger.get("/")
        assert page.status_code == 200
        assert site.token not in page.text
        assert "<script>" not in page.text
        assert "style=" not in page.text


@pytest.mark.parametrize(
    "path", ["/", "/api/state?rater=Ada", "/static/people.css", "/api/marks?item=x", "/none"]
)
def test_without_the_token_nothing_is_told(site: Site, path: str) -> None:
    for cookie in ("", f"tunesmith_{site.port}=wrong", f"tunesmith_1={site.token}", "tunesmith=\xe9"):
        response = site.anyone.get(f"{path}", headers={"Cookie": cookie.encode("latin-1")})
        assert response.status_code == 403
        assert response.json()["hint"] == "open the link that the command printed"


def test_votes_without_the_token_are_not_taken(site: Site) -> None:
    before = len(site.store.acts)
    body = {"rater": "Eve", "item": "x", "act_id": str(uuid4()), "choice": "left", "note": ""}
    for path in ("/api/act", "/api/undo"):
        assert site.anyone.post(f"{path}", json=body).status_code == 403
    assert len(site.store.acts) == before


def test_only_our_own_host_and_origin_are_answered(site: Site) -> None:
    here = f"127.0.0.1:{site.port}"
    assert site.bare().status_code == 200
    assert site.bare(Host=f"localhost:{site.port}").status_code == 200
    assert site.bare(Origin=f"http://{here}").status_code == 200
    for host in (
        "evil.example",
        f"evil.example:{site.port}",
        "127.0.0.1",
        "127.0.0.1:1",
        f"0.0.0.0:{site.port}",
    ):
        assert site.bare(Host=host).status_code == 403
    for origin in (
        "http://evil.example",
        "null",
        "",
        f"https://{here}",
        "http://127.0.0.1:1",
        f"http://{here}/",
    ):
        assert site.bare(Origin=origin).status_code == 403
    # The link itself is no way in for a foreign name that resolves to this machine.
    foreign = {"Host": "evil.example"}
    assert site.anyone.get(f"/?token={site.token}", headers=foreign).status_code == 403


def test_two_host_lines_are_refused(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.port), timeout=30) as connection:
        lines = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nHost: evil\r\nConnection: close\r\n\r\n"
        connection.sendall(lines.encode())
        assert connection.recv(100).split()[1] in (b"400", b"403")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None]
)
def test_a_form_of_another_page_cannot_vote(site: Site, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    for path in ("/api/act", "/api/undo"):
        response = site.client.post(path, content=b'{"rater": "Ada"}', headers=headers)
        assert response.status_code == 415
        assert response.json()["error"] == "only JSON is taken"


def test_every_answer_carries_the_policy(site: Site) -> None:
    stranger = site.anyone.get("/")
    for response in (site.get("/"), site.get("/api/state", rater="Ada"), site.get("/none"), stranger):
        headers = response.headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


@pytest.mark.parametrize(
    "path",
    [
        *("/static/../server.py", "/static/..%2fserver.py", "/static/%2e%2e/server.py", "/../../etc/passwd"),
        *(
            "//static/people.css",
            "/static//people.css",
            "/static/people.css%00",
            "/static/people.css/",
            "/static/",
        ),
        *(
            "/static/ab.html.j2",
            "/static/%2fetc%2fpasswd",
            "/static/..%5cserver.py",
            "/docs",
            "/openapi.json",
        ),
    ],
)
def test_no_path_leads_out_of_the_page(site: Site, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    # `http.client` sends the path as it is, where browsers would tidy it.
    connection.request("GET", path, headers={"Cookie": f"tunesmith_{site.port}={site.token}"})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    assert response.status == 404
    assert set(json.loads(content)) == {"error", "hint"}


def test_every_file_the_page_names_is_served_with_its_type(site: Site) -> None:
    import re

    page = site.get("/").text
    names = re.findall(r'(?:src|href)="/static/([^"]+)"', page)
    assert names
    for name in names:
        response = site.get(f"/static/{name}")
        assert response.status_code == 200
        expected = "text/css" if name.endswith(".css") else "text/javascript"
        assert response.headers["content-type"].startswith(expected)


def test_bodies_have_a_limit(site: Site) -> None:
    before = len(site.store.acts)
    large = b"x" * (MOST_BODY_BYTES + 1)
    as_json = {"Content-Type": "application/json"}
    assert site.client.post("/api/act", content=large, headers=as_json).status_code == 413

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(large), 4096):
            yield large[start : start + 4096]

    # Sent in chunks, it does not say its size.
    assert site.client.post("/api/act", content=pieces(), headers=as_json).status_code == 413
    assert site.vote("left", note="n" * 2001).status_code == 422
    assert len(site.store.acts) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"choice": "both"},
        {"choice": 1},
        {"note": None},
        {"act_id": "x"},
        {"act_id": "../../etc/passwd"},
        {"act_id": 7},
        {"rater": ""},
        {"rater": "x" * 41},
        {"rater": "a\u0000b"},
        {"note": "\ud800"},
        {"rater": "judge: me"},
        {"system": SYSTEMS[0]},
        {"scores": SCORES},
    ],
)
def test_what_is_not_exactly_a_vote_is_refused(site: Site, changes: dict[str, Any]) -> None:
    before = len(site.store.acts)
    response = site.vote(**{"choice": "left"} | changes)
    assert response.status_code == 422
    assert set(response.json()) == {"error", "hint"}
    assert len(site.store.acts) == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 30_000, b'{"rater": NaN}'])
def test_what_is_no_json_object_is_refused(site: Site, content: bytes) -> None:
    response = site.client.post("/api/act", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)
    assert set(response.json()) == {"error", "hint"}


def test_items_and_methods_that_are_not_there(site: Site) -> None:
    assert site.vote("left", item="0" * 16).status_code == 404
    # Another rater's item is none of this rater's.
    foreign = site.state("Bo")["item"]["id"]
    assert site.vote("left", item=foreign).status_code == 404
    assert site.get("/api/marks", item="0" * 16, rater="Ada").status_code == 404
    assert site.get("/api/state").status_code == 422
    assert site.client.put("/api/act", json={}).status_code == 405
    assert site.client.delete("/api/state").status_code == 405


def test_a_whole_comparison_names_no_system_and_stores_each_vote_once(tmp_path: Path) -> None:
    with running(tmp_path) as site:
        first = site.state()
        assert (first["kind"], first["total"], first["done"], first["can_undo"]) == ("ab", 6, 0, False)
        sent = []
        for number in range(6):
            item = site.state()["item"]
            assert site.state()["item"] == item
            body = {
                "rater": "Ada",
                "item": item["id"],
                "act_id": str(uuid4()),
                "choice": ("left", "right", "tie", "skip")[number % 4],
                "note": "why not",
            }
            sent.append(body["act_id"])
            marks = site.get("/api/marks", item=item["id"], rater="Ada").json()
            for side, own in (("left", "delete"), ("right", "insert")):
                assert "".join(piece["text"] for piece in marks[side]) == item[side]
                assert {piece["kind"] for piece in marks[side]} == {"equal", own}
            state = site.post("/api/act", body).json()
            assert state["done"] == number + 1
            # The page sends an act again when it did not hear the answer.
            assert site.post("/api/act", body).json() == state
            assert site.post("/api/act", body | {"act_id": str(uuid4())}).status_code == 409
        assert state["item"] is None
        assert [act.act_id for act in site.store.acts] == sent
        undo = {"rater": "Ada", "act_id": str(uuid4())}
        state = site.post("/api/undo", undo).json()
        assert (state["item"]["id"], state["done"]) == (body["item"], 5)
        assert site.post("/api/undo", undo).json() == state
        assert site.post("/api/undo", {"rater": "Bo", "act_id": str(uuid4())}).status_code == 409
        for name in ("api.js", "ab.js", "rate.js", "page.js", "people.css"):
            site.get(f"/static/{name}")
        site.get("/")
        site.get("/none")
        assert len(site.said) > 40
        for system in SYSTEMS:
            assert not [text for text in site.said if system in text]
        assert len(standing(site.store.acts)) == 5


def test_a_side_is_stored_as_the_system_that_stood_there(tmp_path: Path) -> None:
    survey = make_survey("ab", 6)
    with running(tmp_path, survey=survey) as site:
        for _ in range(6):
            item = site.state()["item"]
            site.vote("left" if item["left"].startswith("One") else "right")
        for act in site.store.acts:
            task = task_for(survey, "Ada", act.item)
            assert (act.answer["left"], act.answer["right"]) == task.systems
            assert act.answer[act.answer["choice"]] == SYSTEMS[0]
        rate = ab_results(survey, site.store.acts).groups[0].rate
        assert rate is not None
        assert (rate.wins, rate.losses) == (0, 6)


def test_the_stop_rule_is_told_without_telling_who_is_ahead(tmp_path: Path) -> None:
    with running(tmp_path, survey=make_survey("ab", 12)) as site:
        for number in range(8):
            assert (site.state()["stopped"] is None) == (number < 8)
            item = site.state()["item"]
            state = site.vote("left" if item["left"].startswith("One") else "right").json()
        assert state["stopped"].startswith("There are enough votes for a result.")
        assert not [text for text in site.said for system in SYSTEMS if system in text]


def test_a_whole_rating_names_no_system_and_keeps_scores(tmp_path: Path) -> None:
    with running(tmp_path, "rate") as site:
        state = site.state()
        assert [scale["name"] for scale in state["scales"]] == list(SCORES)
        for number in range(12):
            item = site.state()["item"]
            body = {"rater": "Ada", "item": item["id"], "act_id": str(uuid4()), "note": ""}
            for bad in (
                {"scores": {"accuracy": 5}},
                {"scores": SCORES | {"charm": 5}},
                {"scores": SCORES | {"accuracy": 6}},
                {"scores": SCORES | {"accuracy": 0}},
                {"scores": SCORES | {"accuracy": True}},
                {"scores": SCORES | {"accuracy": 4.5}},
                {"scores": SCORES | {"accuracy": "5"}},
                {"choice": "left"},
                {},
            )[: 9 if number == 0 else 1]:
                assert site.post("/api/act", body | bad).status_code == 422
            state = site.post("/api/act", body | {"scores": None if number == 3 else SCORES}).json()
        assert (state["done"], state["item"]) == (12, None)
        assert site.get("/api/marks", item=item["id"], rater="Ada").status_code == 404
        site.get("/")
        for system in SYSTEMS:
            assert not [text for text in site.said if system in text]
        kept = standing(site.store.acts).values()
        assert {(act.item, act.system) for act in kept} == {
            (item, system) for item in make_items(6) for system in SYSTEMS
        }
        assert [act.answer["scores"] for act in kept].count(None) == 1


def test_texts_arrive_as_they_are(tmp_path: Path) -> None:
    odd = "<img src=x onerror=alert(1)>\n\u2028 é 你好 \ud800 \x00 {{ 7*7 }}"
    items = {
        name: replace(item, prompt=odd, answers=dict.fromkeys(SYSTEMS, odd), references=(odd, "other"))
        for name, item in make_items(1).items()
    }
    with running(tmp_path, survey=replace(make_survey("ab", 1), items=items, guidelines=odd)) as site:
        response = site.get("/api/state", rater="王芳 <b>")
        assert response.headers["content-type"] == "application/json"
        item = response.json()["item"]
        assert item["left"] == item["right"] == item["prompt"] == odd
        assert item["reference"] == f"{odd}\n\n— or —\n\nother"
        assert response.json()["guidelines"] == odd
        seen = odd.replace("\ud800", "")
        body = json.dumps(
            {"rater": "王芳 <b>", "item": item["id"], "act_id": str(uuid4()), "choice": "tie", "note": seen}
        )
        stored = site.client.post("/api/act", content=body, headers={"Content-Type": "application/json"})
        assert stored.status_code == 200
        (act,) = site.store.acts
        assert act.note == seen
        assert act.rater == "王芳 <b>"


def test_ports_are_taken_free_or_refused() -> None:
    with listen() as one:
        port = one.getsockname()[1]
        assert one.getsockname()[0] == "127.0.0.1"
        with pytest.raises(
            UserError, match=f"port {port} of 127.0.0.1 cannot be had: another program has it"
        ) as no:
            listen(port)
        assert "--port" in no.value.hint
        # The last port is a wish.
        with listen(last_port=port) as other:
            assert other.getsockname()[1] != port
    with listen(last_port=port) as again:
        assert again.getsockname()[1] == port
    with listen(port) as again:
        assert again.getsockname()[1] == port


def test_a_killed_server_is_found_again_by_its_pages(tmp_path: Path) -> None:
    survey = make_survey("ab")
    with running(tmp_path, survey=survey) as site:
        body = {
            "rater": "Ada",
            "item": site.state()["item"]["id"],
            "act_id": str(uuid4()),
            "choice": "tie",
            "note": "",
        }
        site.post("/api/act", body)
    with running(tmp_path, survey=survey) as site:
        # Another process with the same file: ids, order and what is done are the same.
        assert site.post("/api/act", body).json()["done"] == 1
        assert len(site.store.acts) == 1
