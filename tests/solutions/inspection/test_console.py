"""The inspection console: its door over plain HTTP, and its page in a real browser."""

from __future__ import annotations

import base64
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from shared.errors import HaechiError
from shared.serving.console import console_for
from shared.serving.keys import Role
from solutions.inspection.console import page_for, scale_of
from solutions.inspection.routes import router_for
from tests.solutions.inspection.conftest import StartServer
from tests.solutions.inspection.served import Server, picture, write_deviation_package

ROUTERS = [router_for, console_for([page_for])]
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
FILE_INPUT = ".q-uploader__input"


@pytest.fixture
def server(start_server: StartServer) -> Iterator[Server]:
    with start_server(routers=ROUTERS) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=list(QUIET))
        yield launched
        launched.close()


@contextmanager
def visit(
    browser: Browser, server: Server, role: Role | None = "operator", *, locale: str = "en-US", width: int = 1280
) -> Iterator[Page]:
    """A page signed in by a one-time link; it must load nothing from elsewhere and throw nothing."""
    context = browser.new_context(viewport={"width": width, "height": 900}, locale=locale, timezone_id="Asia/Seoul")
    page = context.new_page()
    page.set_default_timeout(20_000)
    expect.set_options(timeout=20_000)
    foreign: list[str] = []
    thrown: list[str] = []
    own = (server.url, server.url.replace("http", "ws", 1), "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(own) else foreign.append(request.url))
    page.on("pageerror", lambda error: thrown.append(str(error)))
    if role:
        page.goto(server.running.state.auth.one_time_link(server.url, name="kim", role=role))
        page.wait_for_selector(".in-list")
    yield page
    folder = os.environ.get("HAECHI_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{os.environ['PYTEST_CURRENT_TEST'].split('::')[1].split(' ')[0]}.png")
    context.close()
    assert foreign == []
    assert thrown == []


def upload(page: Page, content: bytes, name: str = "part.png") -> None:
    page.set_input_files(FILE_INPUT, {"name": name, "mimeType": "image/png", "buffer": content})


def loaded(page: Page, selector: str) -> None:
    """Wait until every picture there is really shown."""
    script = (
        "s => { const all = [...document.querySelectorAll(s)]; return all.length && all.every(i => i.naturalWidth) }"
    )
    page.wait_for_function(script, arg=selector)


# -- the door ---------------------------------------------------------------------------------------------------------


def test_nothing_of_the_console_is_seen_without_a_session(server: Server) -> None:
    with server.client(None) as stranger:
        paths = ["/", "/?result=1", "/_nicegui_ws/socket.io/?EIO=4&transport=polling", "/_nicegui/client/x/upload/1"]
        for path in [*paths, "/_nicegui/3/static/nicegui.js", "/console/language/ko", "/nothing"]:
            answer = stranger.get(path)
            assert answer.status_code == 401
            assert list(answer.json()) == ["error"]
            page = stranger.get(path, headers={"accept": "text/html"})
            assert (page.status_code, page.headers["location"]) == (303, "/login")
        assert stranger.post("/_nicegui_ws/socket.io/?EIO=4&transport=polling").status_code == 401
        socket = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        key = {"sec-websocket-key": base64.b64encode(bytes(16)).decode()}
        for path in ("/_nicegui_ws/socket.io/?EIO=4&transport=websocket", "/other"):
            assert stranger.get(path, headers=socket | key).status_code == 403
        assert stranger.get("/favicon.ico").headers["content-type"] == "image/svg+xml"


def test_foreign_pages_get_no_socket_and_pages_take_no_uploads(server: Server) -> None:
    with signed_in(server) as client:
        socket = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        socket["sec-websocket-key"] = base64.b64encode(bytes(16)).decode()
        path = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
        assert client.get(path, headers=socket | {"origin": "http://evil.example"}).status_code == 403
        assert client.post("/_nicegui/client/x/upload/1", files={"f": ("a", b"x" * 100)}).status_code == 404
        assert client.post("/", content=b"x").status_code == 404


@contextmanager
def signed_in(server: Server, role: Role = "operator") -> Iterator[httpx.Client]:
    link = server.running.state.auth.one_time_link(server.url, role=role)
    with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:
        assert client.get(link).status_code == 303
        yield client


def test_the_page_allows_the_browser_nothing_from_elsewhere(server: Server) -> None:
    with signed_in(server) as client:
        page = client.get("/")
        assert page.status_code == 200
        policy = page.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "http" not in policy
        assert "frame-ancestors 'none'" in policy
        assert "no-store" in page.headers["cache-control"]


def test_language_links_lead_back_to_this_server_only(server: Server) -> None:
    with signed_in(server) as client:
        for back, expected in (
            ("/", "/"),
            ("/x", "/x"),
            ("//evil.example", "/"),
            ("https://evil.example", "/"),
            ("/\\e", "/"),
        ):
            answer = client.get("/console/language/ko", params={"back": back})
            assert answer.headers["location"] == expected
            assert "haechi_language=ko" in answer.headers["set-cookie"]
        assert client.get("/console/language/fr").status_code == 404


def test_what_is_not_there(server: Server) -> None:
    with signed_in(server) as client:
        assert client.get("/nothing", headers={"accept": "text/html"}).status_code == 404
        assert client.get("/api/inspection/nothing").json()["error"].endswith(".")


def test_one_console_in_a_process_at_a_time(server: Server, start_server: StartServer, tmp_path: Path) -> None:
    from shared.serving.app import create_app
    from shared.serving.state import ServerOptions
    from shared.settings import Settings

    settings = Settings(home=tmp_path / "other", database_url=f"sqlite:///{tmp_path / 'other.db'}")
    app = create_app(ServerOptions(registry=False, packages=[]), settings, routers=ROUTERS)

    async def start() -> None:
        async with app.router.lifespan_context(app):
            pass

    import asyncio

    with pytest.raises(HaechiError, match="another server of this process"):
        asyncio.run(start())


@pytest.mark.parametrize("review", [-3.0, 0.0, 1e-6, 0.4, 40.0, 5e5])
def test_the_score_bar_shows_everything(review: float) -> None:
    for gap, share in itertools.product((0.0, 0.001, 1.0, 100.0), (-5.0, -1.0, 0.0, 0.5, 1.0, 3.0, 1000.0)):
        ng = review + gap
        score = review + share * max(gap, 0.1)
        low, high = scale_of(score, review, ng)
        assert low <= min(score, review) <= max(score, ng) < high
        if min(score, review) >= 0:
            assert low >= 0


# -- the page ---------------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_a_picture_becomes_a_verdict(server: Server, browser: Browser) -> None:
    with visit(browser, server) as page:
        expect(page.locator(".in-empty").first).to_contain_text("Nothing chosen yet")
        upload(page, picture(110), "washer-7.png")
        expect(page.locator(".in-verdict.NG .word")).to_have_text("NG")
        expect(page.locator(".in-verdict .file")).to_have_text("washer-7.png")
        loaded(page, ".in-frame img")
        sources = page.eval_on_selector_all(".in-frame img", "all => all.map(i => new URL(i.src).pathname)")
        assert sources == ["/api/inspection/results/1/picture", "/api/inspection/results/1/heatmap.png"]
        score = server.running.state.records.results()[0].score
        expect(page.locator(".in-scale .mark b")).to_have_text(f"Score {score:.4g}")
        assert page.locator(".in-scale .tick b").all_inner_texts() == ["40", "80"]
        mark, ng = (page.locator(f".in-scale {s}").first.bounding_box() for s in (".mark", ".track .NG"))
        assert mark is not None
        assert ng is not None
        assert ng["x"] < mark["x"] + mark["width"] / 2 < ng["x"] + ng["width"], "the mark stands in the red part"
        assert page.locator(".in-table tbody tr").count() == 1
        assert page.url.endswith("/?result=1")
        page.reload()
        expect(page.locator(".in-verdict.NG .word")).to_have_text("NG")
        upload(page, picture(0), "good.png")
        expect(page.locator(".in-verdict.OK .word")).to_have_text("OK")
        upload(page, picture(60), "odd.png")
        expect(page.locator(".in-verdict.REVIEW .word")).to_have_text("REVIEW")
    (found, *_) = server.running.state.records.results(verdict="NG")
    assert found.actor == "kim"


@pytest.mark.browser
def test_pictures_are_dropped(server: Server, browser: Browser) -> None:
    with visit(browser, server) as page:
        files = [base64.b64encode(picture(defect)).decode() for defect in (0, 60, 110)]
        transfer = page.evaluate_handle(
            """files => { const all = new DataTransfer(); files.forEach((text, i) => {
                 const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
                 all.items.add(new File([bytes], `dropped-${i}.png`, {type: 'image/png'})) }); return all }""",
            files,
        )
        page.dispatch_event(".in-drop .q-uploader", "dragover", {"dataTransfer": transfer})
        page.dispatch_event(".q-uploader__dnd", "drop", {"dataTransfer": transfer})
        expect(page.locator(".in-row")).to_have_count(3)
        names = set(page.locator(".in-row .name").all_inner_texts())
        assert names == {"dropped-0.png", "dropped-1.png", "dropped-2.png"}
        loaded(page, ".in-row img")


@pytest.mark.browser
def test_what_programs_send_appears_and_can_be_opened(server: Server, browser: Browser) -> None:
    with visit(browser, server) as page, server.client() as program:
        expect(page.locator(".in-list")).to_contain_text("No decisions yet")
        for name, defect in (("line-1.png", 0), ("line-2.png", 110)):
            program.post("/api/inspection/inspect", files={"image": (name, picture(defect))}, data={"heatmap": "false"})
        expect(page.locator(".in-row")).to_have_count(2)
        assert page.locator(".in-row .name").all_inner_texts() == ["line-2.png", "line-1.png"]
        page.click(".in-row:has-text('line-1.png')")
        expect(page.locator(".in-verdict.OK .file")).to_have_text("line-1.png")
        page.click(".in-filter button:has-text('NG')")
        expect(page.locator(".in-row")).to_have_count(1)
        expect(page.locator(".in-row .name")).to_have_text("line-2.png")
        page.click(".in-frame img >> nth=1")
        loaded(page, ".in-zoom img")


@pytest.mark.browser
def test_more_than_a_page_of_decisions(server: Server, browser: Browser) -> None:
    with server.client() as program:
        content = picture(0)
        for number in range(23):
            files = {"image": (f"{number}.png", content)}
            assert program.post("/api/inspection/inspect", files=files, data={"heatmap": "false"}).status_code == 200
    with visit(browser, server) as page:
        expect(page.locator(".in-row")).to_have_count(20)
        page.click("text=Show more")
        expect(page.locator(".in-row")).to_have_count(23)
        expect(page.locator("text=Show more")).to_be_hidden()


@pytest.mark.browser
def test_a_person_says_what_the_part_is(server: Server, browser: Browser) -> None:
    with visit(browser, server) as page:
        upload(page, picture(110))
        expect(page.locator("[data-truth=NG]")).to_have_text("Correct · defective")
        page.fill(".in-note", "only <b>oil</b>")
        page.click("[data-truth=OK]")
        expect(page.locator(".in-said li")).to_have_count(1)
        expect(page.locator(".in-said li")).to_contain_text("kim says: good – only <b>oil</b>")
        expect(page.locator(".in-row .said")).to_contain_text("good")
        page.click("[data-truth=NG]")
        expect(page.locator(".in-said li")).to_have_count(2)
    (found,) = server.running.state.records.results()
    assert [(review.verdict, review.who, review.note) for review in found.reviews] == [
        ("OK", "kim", "only <b>oil</b>"),
        ("NG", "kim", ""),
    ]


@pytest.mark.browser
def test_what_cannot_be_judged_is_explained(server: Server, browser: Browser) -> None:
    with visit(browser, server) as page:
        upload(page, b"\x89PNG no picture at all", "broken.png")
        expect(page.locator(".q-notification").first).to_contain_text("broken.png")
        expect(page.locator(".in-drop.busy")).to_have_count(0)
        upload(page, b"text", "notes.txt")
        expect(page.locator(".q-notification", has_text="not sent")).to_be_visible()
        upload(page, picture(0), "<img src=x onerror=alert(1)>.png")
        expect(page.locator(".in-verdict .file")).to_have_text("<img src=x onerror=alert(1)>.png")
    assert len(server.running.state.records.results()) == 1


@pytest.mark.browser
def test_korean_and_english(server: Server, browser: Browser) -> None:
    with visit(browser, server, locale="ko-KR") as page:
        expect(page.locator(".in-drop-title")).to_contain_text("사진을 여기에")
        upload(page, picture(110), "와셔.png")
        expect(page.locator(".in-verdict .says")).to_have_text("불량입니다")
        expect(page.locator(".in-verdict .file")).to_have_text("와셔.png")
        time = server.running.state.records.results()[0].time
        expect(page.locator(".in-row .when")).to_contain_text(f"{(time.hour + 9) % 24:02}:{time:%M:%S}")
        page.click(".hc-language >> text=EN")
        expect(page.locator(".in-drop-title")).to_contain_text("Drop a picture")
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.title() == "Inspection · Haechi"


@pytest.mark.browser
def test_a_phone(server: Server, browser: Browser) -> None:
    with visit(browser, server, width=360) as page:
        upload(page, picture(110), "a-name-that-is-much-longer-than-any-phone-is-wide-0123456789.png")
        expect(page.locator(".in-verdict.NG .word")).to_be_visible()
        loaded(page, ".in-frame img")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        boxes = [page.locator(".in-frame").nth(i).bounding_box() for i in (0, 1)]
        assert boxes[0] is not None
        assert boxes[1] is not None
        assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"], "one picture below the other"
        page.click(".in-row")
        page.wait_for_function("window.scrollY === 0")


@pytest.mark.browser
def test_signing_in_and_out(server: Server, browser: Browser) -> None:
    with visit(browser, server, None) as page:
        page.goto(server.url)
        assert page.url.endswith("/login")
        page.fill("input[name=key]", "hk_wrong_key")
        page.click("button[type=submit]")
        expect(page.locator("[role=alert]")).to_contain_text("unknown")
        page.fill("input[name=key]", server.key("operator", "line-3"))
        page.click("button[type=submit]")
        expect(page.locator(".hc-who b")).to_have_text("line-3")
        expect(page.locator(".in-drop")).to_be_visible()
        page.click("text=Sign out")
        page.wait_for_url("**/login")
        page.goto(server.url)
        assert page.url.endswith("/login")


@pytest.mark.browser
def test_an_open_page_ends_with_its_session(server: Server, browser: Browser) -> None:
    with visit(browser, server) as page:
        upload(page, picture(110))
        expect(page.locator(".in-verdict.NG .word")).to_be_visible()
        server.running.state.auth.store.revoke("kim")
        page.wait_for_url("**/login")


@pytest.mark.browser
def test_a_viewer_looks_and_cannot_touch(server: Server, browser: Browser) -> None:
    with server.client() as program:
        program.post("/api/inspection/inspect", files={"image": ("a.png", picture(110))})
    with visit(browser, server, "viewer") as page:
        expect(page.locator("text=Sending pictures needs the role operator")).to_be_visible()
        page.click(".in-row")
        expect(page.locator(".in-verdict.NG .word")).to_be_visible()
        loaded(page, ".in-frame img")
        assert page.locator(f"{FILE_INPUT}, [data-truth]").count() == 0


@pytest.mark.browser
def test_pictures_that_are_no_longer_kept(server: Server, browser: Browser) -> None:
    with visit(browser, server) as page:
        upload(page, picture(110))
        loaded(page, ".in-frame img")
        shutil.rmtree(server.home / "pictures")
        with browser.new_context() as fresh:  # nothing cached
            other = fresh.new_page()
            other.goto(server.running.state.auth.one_time_link(server.url, name="lee", role="viewer"))
            other.click(".in-row")
            expect(other.locator(".in-frame .in-gone").first).to_be_visible()
            expect(other.locator(".in-verdict .word")).to_have_text("NG")


@pytest.mark.browser
def test_several_models(start_server: StartServer, washer: Path, tmp_path: Path, browser: Browser) -> None:
    packages = [washer, write_deviation_package(tmp_path, "gasket")]
    with start_server(packages=packages, routers=ROUTERS) as server, visit(browser, server) as page:
        page.select_option(".in-models select", "gasket")
        upload(page, picture(110))
        expect(page.locator(".in-facts")).to_contain_text("gasket 1")


@pytest.mark.browser
def test_without_keys_on_this_machine(start_server: StartServer, browser: Browser) -> None:
    with start_server(auth=False, routers=ROUTERS) as server, visit(browser, server, None) as page:
        page.goto(server.url)
        upload(page, picture(110))
        expect(page.locator(".in-verdict.NG .word")).to_be_visible()
        assert page.locator("text=Sign out").count() == 0
