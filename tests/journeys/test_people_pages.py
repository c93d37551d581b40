"""The two pages for people in a real browser, served by the real commands: no answer lost, no markup run."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("needs `chromium` on the PATH", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
expect = playwright.expect

pytestmark = pytest.mark.xdist_group("browser")
SYSTEMS = ("sys-zebra-7", "sys-okapi-3")
Texts = tuple[str, str, str, str | None]
THREE_PAIRS: list[Texts] = [
    ("Say these words: " + "word " * 90, "the cat sat on the mat", "the dog sat on the mat", None),
    ("说", "杭州是浙江的省会", "杭州是浙江省的首府", None),
    ("Nothing", "", "something", None),
]
START_SECONDS = 60
WAIT_MS = 15_000

PAYLOADS = (
    "<script>window.canary=1</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script>window.canary=1</script></svg>",
    "<iframe srcdoc='<script>parent.canary=1</script>'></iframe>",
    "<iframe src=javascript:parent.canary=1></iframe>",
    "<body onload=alert(1)>",
    "<input autofocus onfocus=alert(1)>",
    "<details open ontoggle=alert(1)>x</details>",
    "<video><source onerror=alert(1)></video>",
    "<a href=javascript:alert(1)>click</a>",
    "<math><mi xlink:href=javascript:alert(1)>x</mi></math>",
    "<style>@import 'http://example.invalid/x.css';</style>",
    "<link rel=stylesheet href=http://example.invalid/x.css>",
    "<meta http-equiv=refresh content='0;url=http://example.invalid/'>",
    "<base href=http://example.invalid/>",
    "<form action=http://example.invalid/><button autofocus>x</button></form>",
    "<object data=javascript:alert(1)></object>",
    "<embed src=javascript:alert(1)>",
    "<template><script>window.canary=1</script></template>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "</script><script>window.canary=1</script>",
    "</textarea></title></style><img src=x onerror=alert(1)>",
    '"><img src=x onerror=alert(1)>',
    "' autofocus onfocus='alert(1)",
    "{{ 7 * 7 }}{% for x in y %}",
    "${window.canary=1}`+alert(1)+`",
    "<!--><img src=x onerror=alert(1)>-->",
    "<marquee onstart=alert(1)>x</marquee>",
    "\u202e<b>&lt;img src=x onerror=alert(1)&gt;</b>\u0000",
)


class Server:
    """`tunesmith ab` or `tunesmith rate` as a process of its own; started again, it takes the port it had."""

    def __init__(self, folder: Path, command: str, *options: str) -> None:
        self.votes = folder / "votes.sqlite"
        self._log = folder / "server.log"
        sources = [str(folder / f"{system}.jsonl") for system in SYSTEMS]
        self._command = [
            *(sys.executable, "-m", "tunesmith", command, *sources),
            *("--votes", str(self.votes), "--no-browser", *options),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """The link that the command prints."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)
        for _ in range(START_SECONDS * 10):
            printed = self._log.read_text(encoding="utf-8")
            if link := re.search(r"http://127\.0\.0\.1:\d+/\?token=[\w-]+(?=\s)", printed):
                return link.group()
            assert self._process.poll() is None, printed
            time.sleep(0.1)
        raise AssertionError(f"no link was printed: {printed}")

    def kill(self) -> None:
        """As `kill -9` does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def acts(self) -> list[dict[str, Any]]:
        """All acts on record, in their order; what was answered stands among the other fields."""
        with closing(sqlite3.connect(self.votes)) as connection:
            connection.row_factory = sqlite3.Row
            rows = [dict(row) for row in connection.execute("SELECT * FROM acts ORDER BY number")]
        return [row | json.loads(row["answer"]) for row in rows]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One headless Chromium for all tests of this file."""
    arguments = ["--no-sandbox"] if os.getuid() == 0 else []
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Make a server for rows of (prompt, first answer, second answer, reference); it ends with the test."""
    servers: list[Server] = []

    def make(command: str, rows: Sequence[Texts], *options: str) -> Server:
        write_sources(tmp_path, rows)
        servers.append(Server(tmp_path, command, *options))
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


@pytest.fixture(scope="module")
def three_pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A running comparison of `THREE_PAIRS`, for tests whose raters differ, and its link."""
    folder = tmp_path_factory.mktemp("three")
    write_sources(folder, THREE_PAIRS)
    server = Server(folder, "ab")
    yield server, server.start()
    server.kill()


def write_sources(folder: Path, rows: Sequence[Texts]) -> None:
    """One file of outputs for each system."""
    for number, system in enumerate(SYSTEMS):
        with (folder / f"{system}.jsonl").open("w", encoding="utf-8") as file:
            for prompt, *answers, reference in rows:
                known = {"reference": reference} if reference else {}
                file.write(json.dumps({"prompt": prompt, "output": answers[number], **known}) + "\n")


def plain_rows(count: int) -> list[Texts]:
    """Ordinary rows, all different."""
    return [
        (f"Prompt {n}", f"First answer {n}", f"Second answer {n}", f"Reference {n}") for n in range(count)
    ]


@contextmanager
def a_context(browser: Any, **options: Any) -> Iterator[Any]:
    """A browser window of its own: cookies and store are not shared with others."""
    context = browser.new_context(**options)
    context.set_default_timeout(WAIT_MS)
    expect.set_options(timeout=WAIT_MS)
    yield context
    context.close()


def enter(context: Any, link: str, rater: str) -> Any:
    """A page on which `rater` has begun, guidelines closed."""
    page = context.new_page()
    page.goto(link)
    page.locator("#name").fill(rater)
    page.keyboard.press("Enter")
    expect(page.locator("#count")).not_to_be_empty()
    if page.locator("#guidelines").is_visible():
        page.keyboard.press("Enter")
    expect(page.locator("#work")).to_be_visible()
    return page


def press(page: Any, keys: str | list[str]) -> None:
    for key in keys:
        page.keyboard.press(key)


def expect_done(page: Any, done: int, total: int) -> None:
    expect(page.locator("#count")).to_have_text(f"{done} of {total}")


def assert_no_name(text: str) -> None:
    assert [system for system in SYSTEMS if system in text or system.split("-")[1] in text.lower()] == []


def test_thirty_votes_by_keyboard_and_a_server_killed_in_the_middle(
    browser: Any, serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve("ab", plain_rows(30))
    traffic = tmp_path / "traffic.har"
    with a_context(browser, record_har_path=traffic, record_har_content="embed") as context:
        page = enter(context, server.start(), "Ada")
        keys = [*"12021t2s01", *"21102t1s20", *"1202120121"]
        for done, key in enumerate(keys[:14], start=1):
            press(page, key)
            expect_done(page, done, 30)
            assert_no_name(page.content())
        server.kill()
        press(page, keys[14])
        expect(page.locator("#trouble")).to_contain_text("does not answer")
        expect(page.locator("#trouble")).to_contain_text("kept in this browser and is sent by itself")
        expect(page.locator("#saved")).to_have_text("not saved yet")
        # Nothing more can be answered before that one is stored.
        press(page, "21")

        link = server.start()
        expect(page.locator("#trouble")).to_contain_text("Open the link it printed")
        second_tab = context.new_page()
        second_tab.goto(link)
        expect_done(second_tab, 15, 30)
        expect_done(page, 15, 30)
        expect(page.locator("#trouble")).to_be_hidden()
        second_tab.close()
        page.reload()
        expect_done(page, 15, 30)

        for done, key in enumerate(keys[15:], start=16):
            press(page, key)
            expect_done(page, done, 30)
        expect(page.locator("#done")).to_contain_text("Thank you, Ada.")
        expect(page.locator("#done")).to_contain_text("all 30 pairs")
        assert_no_name(page.content())
        page.reload()
        expect(page.locator("#done")).to_be_visible()

    acts = server.acts()
    assert len(acts) == len({act["act_id"] for act in acts}) == len({act["item"] for act in acts}) == 30
    words = {"1": "left", "2": "right", "0": "tie", "t": "tie", "s": "skip"}
    assert Counter(act["choice"] for act in acts) == Counter(words[key] for key in keys)
    heard = traffic.read_text(encoding="utf-8")
    assert "/api/state" in heard and "First answer 7" in heard and "text/javascript" in heard
    assert_no_name(heard)


def test_two_raters_rate_thirty_answers_each_and_a_server_is_killed_in_the_middle(
    browser: Any, serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve("rate", plain_rows(15))
    link = server.start()
    traffic = tmp_path / "traffic.har"
    orders: dict[str, list[str]] = {"Ada": [], "Grace": []}
    for rater, order in orders.items():
        with a_context(browser, record_har_path=traffic, record_har_content="embed") as context:
            page = enter(context, link, rater)
            for done in range(30):
                expect_done(page, done, 30)
                order.append(page.locator("#answer").inner_text())
                if rater == "Ada" and done == 12:
                    press(page, "54")
                    server.kill()
                    link = server.start()
                    page.goto(link)
                    # What was half done is still there.
                    expect(page.locator("input:checked")).to_have_count(2)
                    press(page, ["ArrowDown", "ArrowDown", "3", "1", "Enter"])
                else:
                    press(page, [*"5431", "Enter"])
            expect(page.locator("#done")).to_contain_text(f"Thank you, {rater}.")
            assert_no_name(page.content())
        heard = traffic.read_text(encoding="utf-8")
        assert "/api/act" in heard and "First answer 7" in heard
        assert_no_name(heard)

    assert orders["Ada"] != orders["Grace"]
    assert sorted(orders["Ada"]) == sorted(orders["Grace"])
    acts = server.acts()
    assert len(acts) == len({act["act_id"] for act in acts}) == 60
    assert Counter(act["rater"] for act in acts) == {"Ada": 30, "Grace": 30}
    assert len({(act["rater"], act["item"], act["system"]) for act in acts}) == 60
    assert all(list(act["scores"].values()) == [5, 4, 3, 1] for act in acts)


@pytest.mark.parametrize("command", ["ab", "rate"])
def test_markup_in_texts_of_models_and_users_is_shown_and_never_run(
    command: str, browser: Any, serve: Callable[..., Server], tmp_path: Path
) -> None:
    guidelines = tmp_path / "guidelines.txt"
    guidelines.write_text("\n".join(payload.replace("\0", "") for payload in PAYLOADS), encoding="utf-8")
    rows = [(f"{text} {n}", text, f"{text}{text}", f"{text} {text}") for n, text in enumerate(PAYLOADS)]
    server = serve(command, rows, "--guidelines", str(guidelines))
    total = len(rows) * (1 if command == "ab" else 2)
    troubles: list[str] = []
    shown: Counter[str] = Counter()
    link = server.start()
    with a_context(browser) as context:
        context.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
        context.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
        context.on("weberror", lambda error: troubles.append(str(error.error)))
        context.on(
            "request",
            lambda request: troubles.append(request.url) if "127.0.0.1" not in request.url else None,
        )
        page = enter(context, link, "<img src=x onerror=alert(1)>")
        assert page.locator("#guidelines-text").inner_text().startswith(PAYLOADS[0])
        press(page, "dr" if command == "ab" else "")
        for done in range(total):
            expect_done(page, done, total)
            expect(page.locator("#reference-box")).to_be_visible()
            for side in page.locator(".answer .text").all():
                shown[side.evaluate("node => node.textContent")] += 1
            press(page, "1" if command == "ab" else "s")
        expect(page.locator("#done")).to_be_visible()
        assert (
            page.locator("main").locator("img, svg, script, iframe, form form, body, base, link").count() == 0
        )
        assert page.evaluate("window.canary") is None
    assert troubles == []
    expected = Counter(text for payload in PAYLOADS for text in (payload, payload * 2))
    assert shown == expected


def test_differences_are_marked_on_request_in_one_colour_and_spell_the_answers(
    browser: Any, three_pairs: tuple[Server, str]
) -> None:
    _, link = three_pairs
    with a_context(browser) as context:
        page = enter(context, link, "Marks")
        expect(page.locator("mark")).to_have_count(0)
        press(page, "d")
        expect(page.locator("#marks")).to_have_attribute("aria-pressed", "true")
        for done in range(3):
            expect_done(page, done, 3)
            sides = {page.locator(f"#{side}").inner_text() for side in ("left", "right")}
            assert sides in [{first or "(empty answer)", second} for _, first, second, _ in THREE_PAIRS]
            if "(empty answer)" not in sides:
                expect(page.locator("#left mark").first).to_be_visible()
                expect(page.locator("#right mark").first).to_be_visible()
                colours = page.locator("mark").evaluate_all("all => all.map(m => getComputedStyle(m).color)")
                assert len(set(colours)) == 1
            press(page, "0")
        press(page, "u")
        press(page, "d")
        expect(page.locator("#work")).to_be_visible()
        expect(page.locator("mark")).to_have_count(0)


def test_the_page_says_when_votes_are_enough_but_not_for_whom_and_lets_one_go_on(
    browser: Any, serve: Callable[..., Server]
) -> None:
    server = serve("ab", plain_rows(20))
    with a_context(browser) as context:
        page = enter(context, server.start(), "Ada")
        done = 0
        while page.locator("#work").is_visible() and done < 20:
            is_left = page.locator("#left").inner_text().startswith("First")
            done += 1
            press(page, "1" if is_left else "2")
            expect_done(page, done, 20)
        assert 5 < done < 20
        expect(page.locator("#done")).to_contain_text(f"You have been through {done} of 20 pairs.")
        expect(page.locator("#stopped")).to_contain_text("enough votes")
        assert_no_name(page.content())
        page.locator("#go-on").click()
        press(page, "1")
        expect_done(page, done + 1, 20)
        expect(page.locator("#work")).to_be_visible()
    assert len(server.acts()) == done + 1


def test_undo_brings_the_last_answer_back_with_its_note(
    browser: Any, three_pairs: tuple[Server, str]
) -> None:
    server, link = three_pairs
    with a_context(browser) as context:
        page = enter(context, link, "Undo")
        expect(page.locator("#undo")).to_be_disabled()
        prompts = []
        for done in range(3):
            expect_done(page, done, 3)
            prompts.append(page.locator("#prompt").inner_text())
            press(page, "n")
            page.keyboard.type(f"note {done}: 1 2 0 s u d")
            press(page, ["Escape", "1"])
        expect(page.locator("#done")).to_be_visible()
        for done in (2, 1):
            press(page, "u")
            expect_done(page, done, 3)
            expect(page.locator("#prompt")).to_have_text(prompts[done])
            expect(page.locator("#note")).to_have_value(f"note {done}: 1 2 0 s u d")
        page.reload()
        expect_done(page, 1, 3)
        for done in (2, 3):
            press(page, "2")
            expect_done(page, done, 3)
    votes = [act for act in server.acts() if act["rater"] == "Undo" and act["verb"] == "answer"]
    assert [act["choice"] for act in votes] == ["left", "left", "left", "right", "right"]
    assert [act["note"] for act in votes][:3] == [f"note {n}: 1 2 0 s u d" for n in range(3)]


def test_an_answer_whose_receipt_was_lost_is_sent_again_and_stored_once(
    browser: Any, three_pairs: tuple[Server, str]
) -> None:
    server, link = three_pairs
    lost: list[str] = []

    def lose_first(route: Any) -> None:
        response = route.fetch()
        if lost:
            route.fulfill(response=response)
        else:
            lost.append(route.request.post_data_json["act_id"])
            route.abort()

    with a_context(browser) as context:
        page = enter(context, link, "Lost")
        context.route("**/api/act", lose_first)
        press(page, "1")
        expect_done(page, 1, 3)
        expect(page.locator("#trouble")).to_be_hidden()
        expect(page.locator("#saved")).to_have_text("saved")
    assert [act["act_id"] for act in server.acts() if act["rater"] == "Lost"] == lost


def test_keys_of_the_rating_move_between_scales_and_an_open_scale_is_named(
    browser: Any, serve: Callable[..., Server]
) -> None:
    server = serve("rate", plain_rows(1))
    with a_context(browser) as context:
        page = enter(context, server.start(), "Ada")
        fields = page.locator("fieldset.scale")
        expect(fields).to_have_count(4)
        assert page.locator("fieldset.scale legend").all_inner_texts() == [
            *("Accuracy", "Relevance", "Fluency", "Format compliance")
        ]
        press(page, ["5", "4", "3", "Enter"])
        expect_done(page, 0, 2)
        expect(page.locator("#live")).to_have_text("Format compliance has no score yet.")
        press(page, ["Backspace", "ArrowUp", "2", "ArrowRight", "ArrowDown", "1"])
        checked = page.locator("input:checked").evaluate_all("all => all.map(one => one.value)")
        assert checked == ["5", "2", "4", "1"]
        expect(page.locator("#send")).to_be_focused()
        press(page, "2")
        assert page.locator("input:checked").evaluate_all("all => all.map(one => one.value)") == checked
        press(page, "r")
        expect(page.locator("#reference-box")).to_be_hidden()
        press(page, "r")
        expect(page.locator("#reference")).to_have_text("Reference 0")
        press(page, ["Enter"])
        expect_done(page, 1, 2)
        expect(page.locator("input:checked")).to_have_count(0)
        press(page, "u")
        expect_done(page, 0, 2)
        expect(page.locator("input:checked")).to_have_count(4)


@pytest.mark.parametrize("command", ["ab", "rate"])
def test_pages_fit_every_width_light_and_dark(
    command: str, browser: Any, serve: Callable[..., Server], tmp_path: Path
) -> None:
    guidelines = tmp_path / "guidelines.txt"
    guidelines.write_text("Wide: " + "w" * 300, encoding="utf-8")
    long_text = "word " * 400
    rows = [("p" * 300 + long_text, "a" * 300, "code\n\tindented " + "b" * 300, "r" * 300)]
    server = serve(command, rows, "--guidelines", str(guidelines))
    link = server.start()
    papers = {"light": "rgb(246, 247, 249)", "dark": "rgb(16, 18, 22)"}
    for number, (width, scheme) in enumerate([(320, "dark"), (420, "light"), (768, "dark"), (1600, "light")]):
        size = {"width": width, "height": 800}
        with a_context(browser, viewport=size, color_scheme=scheme) as context:
            page = context.new_page()
            page.goto(link)
            expect(page.locator("#name")).to_be_focused()
            assert_fits(page)
            page.locator("#name").fill("W" * 38 + str(number))
            press(page, ["Enter"])
            expect(page.locator("#guidelines")).to_be_visible()
            assert_fits(page)
            press(page, ["Enter", *("dr" if command == "ab" else "")])
            expect(page.locator("#reference-box")).to_be_visible()
            expect(page.locator("#unfold")).to_be_visible()
            folded = page.locator("#prompt").bounding_box()["height"]
            press(page, "p")
            assert page.locator("#prompt").bounding_box()["height"] > folded
            assert_fits(page)
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == papers[scheme]
            if width == 1600:
                for done in range(1 if command == "ab" else 2):
                    press(page, "s")
                    expect(page.locator("#bar")).to_have_js_property("value", done + 1)
                expect(page.locator("#done")).to_be_visible()
                assert_fits(page)


def test_a_prompt_that_a_narrower_window_cuts_can_be_unfolded(
    browser: Any, three_pairs: tuple[Server, str]
) -> None:
    _, link = three_pairs
    with a_context(browser, viewport={"width": 1600, "height": 800}) as context:
        page = enter(context, link, "Fold")
        while "word" not in page.locator("#prompt").inner_text():
            done = page.locator("#bar").evaluate("bar => bar.value")
            press(page, "s")
            expect_done(page, done + 1, 3)
        expect(page.locator("#unfold")).to_be_hidden()
        page.set_viewport_size({"width": 360, "height": 800})
        expect(page.locator("#unfold")).to_be_visible()
        page.set_viewport_size({"width": 1600, "height": 800})
        expect(page.locator("#unfold")).to_be_hidden()


def assert_fits(page: Any) -> None:
    """Nothing sticks out to the right, on the page or in an open dialog."""
    wide = page.evaluate(
        """() => [document.documentElement, ...document.querySelectorAll("dialog[open]")]
            .filter((node) => node.scrollWidth > node.clientWidth).map((node) => node.tagName)"""
    )
    assert wide == []
