"""The chat page and the widget in a real browser."""

from __future__ import annotations

import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from shared.package import open_package
from shared.streams import Streams
from solutions.contact_center.dialogue.sealing import Vault
from solutions.contact_center.service import open_bot, stream_of
from tests.conftest import BROWSERS
from tests.solutions.contact_center.served import CHAT, NAME, Server, serving

pytestmark = pytest.mark.browser
_QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run")
_SECONDS = 20


@pytest.fixture(scope="module")
def server(clinic_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(clinic_package, tmp_path_factory.mktemp("home")) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=list(_QUIET))
        yield launched
        launched.close()


@contextmanager
def visit(browser: Browser, address: str, own: str, **options: Any) -> Iterator[Page]:
    """A page, which must load nothing from elsewhere than `own` and its own address, and throw nothing."""
    context = browser.new_context(**{"viewport": {"width": 900, "height": 800}, "locale": "en-US", **options})
    page = context.new_page()
    page.set_default_timeout(_SECONDS * 1000)
    expect.set_options(timeout=_SECONDS * 1000)
    foreign: list[str] = []
    thrown: list[str] = []
    allowed = (own, own.replace("http", "ws", 1), address.split("/", 3)[0] + "//" + address.split("/", 3)[2], "data:")
    page.on("request", lambda each: None if each.url.startswith(allowed) else foreign.append(each.url))
    page.on("pageerror", lambda error: thrown.append(str(error)))
    page.on("console", lambda said: thrown.append(said.text) if "Security Policy" in said.text else None)
    page.goto(address)
    yield page
    folder = os.environ.get("HAECHI_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{os.environ['PYTEST_CURRENT_TEST'].split('::')[1].split(' ')[0]}.png")
    context.close()
    assert foreign == []
    assert thrown == []


def say(page: Page, text: str) -> None:
    box = page.get_by_role("textbox")
    box.fill(text)
    box.press("Enter")


def lines(page: Page, who: str) -> Locator:
    return page.locator(f".line.{who} .text")


def test_a_conversation_on_the_page(browser: Browser, server: Server) -> None:
    with visit(browser, server.url + CHAT, server.url) as page:
        expect(page).to_have_title("Haechi clinic")
        expect(lines(page, "bot")).to_have_text(["Welcome."])
        say(page, "I want to book a visit")
        expect(lines(page, "bot")).to_have_text(["Welcome.", "Which doctor?"])
        page.get_by_role("button", name="Dr Kim").click()
        expect(lines(page, "bot").last).to_have_text("When?")
        expect(page.get_by_role("button", name="Dr Kim")).to_have_count(0)
        page.get_by_role("button", name="Helpful", exact=True).last.click()
        expect(page.get_by_text("Thank you for your feedback")).to_be_visible()
        page.reload()  # the conversation is there again
        expect(lines(page, "user")).to_have_text(["I want to book a visit", "Dr Kim"])
        expect(lines(page, "bot")).to_have_text(["Welcome.", "Which doctor?", "When?"])
        page.get_by_role("button", name="New conversation").click()
        expect(lines(page, "bot")).to_have_text(["Welcome."])
        expect(lines(page, "user")).to_have_count(0)


def test_markup_stays_text_and_personal_data_is_masked(browser: Browser, server: Server) -> None:
    with visit(browser, server.url + CHAT, server.url) as page:
        expect(lines(page, "bot")).to_have_count(1)
        say(page, "<img src=x onerror=alert(1)><b>bold</b>")
        expect(lines(page, "user")).to_have_text(["<img src=x onerror=alert(1)><b>bold</b>"])
        expect(page.locator(".line img, .line b")).to_have_count(0)
        say(page, "my number is 010-1234-5678")
        expect(lines(page, "user").last).not_to_contain_text("1234-5678")


def test_in_korean_enter_while_composing_sends_nothing(browser: Browser, server: Server) -> None:
    with visit(browser, server.url + CHAT, server.url, locale="ko-KR") as page:
        expect(lines(page, "bot")).to_have_text(["어서 오세요."])
        box = page.get_by_role("textbox", name="메시지 입력")
        box.fill("예약할게요")
        box.dispatch_event("keydown", {"key": "Enter", "isComposing": True, "bubbles": True})
        expect(lines(page, "user")).to_have_count(0)
        box.press("Shift+Enter")
        expect(lines(page, "user")).to_have_count(0)
        box.press("Enter")
        expect(lines(page, "bot").last).to_have_text("어느 선생님께 보실래요?")
        page.get_by_role("button", name="English").click()
        expect(page.get_by_role("textbox", name="Write a message")).to_be_visible()


def test_a_person_takes_over(browser: Browser, server: Server, clinic_package: Path) -> None:
    state = server.running.state
    other = open_bot(open_package(clinic_package), Streams(state.records), Vault.of_home(state.settings.home))
    with visit(browser, server.url + CHAT, server.url) as page:
        expect(lines(page, "bot")).to_have_count(1)
        say(page, "I want to talk to a person")
        expect(page.get_by_text("Your place in the queue: 1")).to_be_visible()
        stream = stream_of(NAME, page.evaluate("JSON.parse(Object.values(sessionStorage)[0]).conversation"))
        other.handover.take(stream, "Kim")
        expect(page.get_by_text("You are talking with Kim")).to_be_visible()
        other.handover.say(stream, "Kim", "Hello, how can I help?")
        expect(lines(page, "agent")).to_have_text(["Hello, how can I help?"])
        say(page, "hello")
        expect(lines(page, "user").last).to_have_text("hello")
        other.handover.give_back(stream, "Kim")
        expect(page.get_by_text("You are talking with Kim")).to_have_count(0)


def test_a_lost_connection_loses_no_message(browser: Browser, server: Server) -> None:
    with visit(browser, server.url + CHAT, server.url) as page:
        expect(lines(page, "bot")).to_have_count(1)
        page.evaluate("document.querySelector('haechi-chat').connection.socket.close()")
        expect(page.get_by_text("Connection lost. Reconnecting…")).to_be_visible()
        say(page, "I want to book a visit")
        expect(lines(page, "bot")).to_have_text(["Welcome.", "Which doctor?"])
        expect(lines(page, "user")).to_have_text(["I want to book a visit"])


def test_where_no_websocket_passes_requests_serve(browser: Browser, server: Server) -> None:
    with visit(browser, server.url + "/v2/health/live", server.url) as page:
        page.add_init_script(
            "window.WebSocket = class { constructor() { setTimeout(() => this.onclose({}), 10); } close() {} }"
        )
        page.goto(server.url + CHAT)
        expect(lines(page, "bot")).to_have_text(["Welcome."])
        say(page, "I want to book a visit")
        expect(lines(page, "bot")).to_have_text(["Welcome.", "Which doctor?"])


class _Site(http.server.BaseHTTPRequestHandler):
    """A shop's page that embeds the bot with one tag."""

    page = ""

    def do_GET(self) -> None:
        content = self.page.encode("utf-8") if self.path == "/" else b""
        self.send_response(200 if content else 404)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def site(server: Server) -> Iterator[str]:
    class Here(_Site):
        page = (
            "<!doctype html><html lang=ko><style>* { color: lime !important; font-size: 60px } button { display: none }"
            f"</style><h1>Shop</h1><script src='{server.url}{CHAT}/widget.js' async></script></html>"
        )

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Here)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    listening.server_close()


def test_on_another_site_it_works_where_that_site_is_allowed(
    browser: Browser, server: Server, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with visit(browser, f"{site}/", server.url) as page:
        page.get_by_role("button", name="상담 열기").click()
        expect(page.get_by_role("status")).to_contain_text("지금은 상담을 열 수 없어요")
    monkeypatch.setenv("HAECHI_CHAT_ORIGINS", site)
    with visit(browser, f"{site}/", server.url) as page:
        expect(page.get_by_role("dialog")).to_have_count(0)
        page.get_by_role("button", name="상담 열기").click()
        dialog = page.get_by_role("dialog", name="해치의원")
        expect(lines(page, "bot")).to_have_text(["어서 오세요."])
        expect(page.get_by_role("textbox")).to_be_focused()
        say(page, "예약할게요")
        expect(lines(page, "bot").last).to_have_text("어느 선생님께 보실래요?")
        assert page.get_by_role("heading", name="해치의원").evaluate("e => getComputedStyle(e).fontSize") == "16px"
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        expect(page.get_by_role("button", name="상담 열기")).to_be_focused()


def test_on_a_telephone_it_fills_the_screen(
    browser: Browser, server: Server, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAECHI_CHAT_ORIGINS", site)
    with visit(browser, f"{site}/", server.url, viewport={"width": 390, "height": 760}, has_touch=True) as page:
        page.get_by_role("button", name="상담 열기").tap()
        expect(lines(page, "bot")).to_have_count(1)
        box = page.get_by_role("dialog").bounding_box()
        assert box is not None
        assert (box["x"], box["width"], box["height"]) == (0, 390, 760)
        page.get_by_role("button", name="상담 닫기").tap()
        expect(page.get_by_role("dialog")).to_have_count(0)
