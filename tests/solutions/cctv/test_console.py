"""The cameras' console in a real browser, on a real server with a site, live pictures and events."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from fastapi import APIRouter
from playwright.sync_api import Browser, Page, expect, sync_playwright

from shared.serving.app import RouterFactory
from shared.serving.console import console_for
from shared.serving.keys import Role
from shared.serving.state import ServerState
from solutions.cctv import config
from solutions.cctv.console import pages
from solutions.cctv.routes import router_for
from tests.conftest import BROWSERS
from tests.solutions.cctv.watched import NOW, Watched, publishing, watched

QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run")
SEOUL = ZoneInfo("Asia/Seoul")


def console(state: ServerState) -> APIRouter:
    return console_for(pages(state))(state)


ROUTERS: list[RouterFactory] = [router_for, console]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Watched]:
    with watched(tmp_path, ROUTERS) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=list(QUIET))
        yield launched
        launched.close()


@contextmanager
def visit(
    browser: Browser,
    server: Watched,
    path: str,
    role: Role = "engineer",
    *,
    locale: str = "en-US",
    width: int = 1280,
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
    page.goto(server.running.state.auth.one_time_link(server.url, name="kim", role=role))
    page.goto(f"{server.url}{path}")
    page.locator(".hc-card:visible").first.wait_for()
    yield page
    folder = os.environ.get("HAECHI_SCREENSHOTS")
    if folder:
        test = os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split(" ")[0].split("[")[0]
        page.screenshot(path=Path(folder) / f"{test}-{locale}.png", full_page=True)
    context.close()
    assert foreign == []
    assert thrown == []


# -- the live wall ----------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_the_wall_shows_what_is_live(server: Watched, browser: Browser) -> None:
    with publishing(server), visit(browser, server, "/cameras", "operator") as page:
        door, yard = page.locator("[data-camera=door]"), page.locator("[data-camera=yard]")
        expect(door.locator(".cv-chip")).to_have_text("live")
        expect(door.locator(".cv-figures")).to_contain_text("5.0 fps")
        expect(yard.locator(".cv-chip")).to_have_text("unknown")
        expect(yard.locator(".cv-gone")).to_be_visible()
        expect(page.locator(".cv-silent")).to_be_hidden()
        page.wait_for_function("Number(document.querySelector('[data-camera=door] img').dataset.pictures) > 5")
        page.wait_for_function("document.querySelector('[data-camera=door] img').naturalWidth === 320")
        door.locator(".cv-frame").click()
        page.wait_for_function("document.querySelector('.cv-stream')?.naturalWidth === 320")
        assert page.locator(".cv-stream").get_attribute("src") == "/api/cctv/cameras/door/live"
        page.keyboard.press("Escape")
        expect(page.locator(".cv-stream")).to_be_hidden()


@pytest.mark.browser
def test_the_wall_in_korean_says_that_nobody_watches(server: Watched, browser: Browser) -> None:
    with visit(browser, server, "/cameras", "viewer", locale="ko-KR") as page:
        expect(page.locator(".cv-silent")).to_contain_text("감시 서비스가 실행되고 있지 않습니다")
        expect(page.locator(".cv-chip").first).to_have_text("알 수 없음")
        expect(page.locator(".hc-nav")).to_contain_text("이벤트")


# -- drawing ----------------------------------------------------------------------------------------------------------


def press(page: Page, x: float, y: float) -> None:
    """Click on the picture at a place relative to it."""
    box = page.locator(".cv-overlay").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


@contextmanager
def drawing(browser: Browser, server: Watched, role: Role = "engineer") -> Iterator[Page]:
    with publishing(server), visit(browser, server, "/zones?camera=door", role) as page:
        page.wait_for_selector(".cv-canvas.ready")
        page.wait_for_function("document.querySelector('.cv-canvas img').naturalWidth === 320")
        yield page


@pytest.mark.browser
def test_what_is_drawn_is_in_the_site_file(server: Watched, browser: Browser) -> None:
    with drawing(browser, server) as page:
        expect(page.locator(".cv-shapes li")).to_have_count(2)
        page.fill(".cv-name", "till")
        for x, y in ((0.65, 0.3), (0.95, 0.3), (0.95, 0.7), (0.65, 0.3)):  # the first corner again: closed
            press(page, x, y)
        expect(page.locator(".cv-shapes [data-name=till]")).to_be_visible()
        page.select_option(".cv-kind", "lines")
        press(page, 0.2, 0.5)
        press(page, 0.8, 0.6)
        page.select_option(".cv-kind", "private")
        for x, y in ((0.02, 0.02), (0.08, 0.02), (0.08, 0.1)):
            press(page, x, y)
        page.keyboard.press("Enter")
        expect(page.locator(".cv-shapes li")).to_have_count(5)
        expect(page.locator(".cv-unsaved")).to_be_visible()
        page.click(".cv-save")
        expect(page.locator(".cv-unsaved")).to_be_hidden()
    camera = config.load(server.site).cameras["door"]
    assert list(camera.zones) == ["entry", "till"]
    np.testing.assert_allclose(camera.zones["till"], [(0.65, 0.3), (0.95, 0.3), (0.95, 0.7)], atol=0.01)
    np.testing.assert_allclose(camera.lines["line_1"], [(0.2, 0.5), (0.8, 0.6)], atol=0.01)
    assert len(camera.private["private_1"]) == 3
    assert "# What is announced." in server.site.read_text()


@pytest.mark.browser
def test_a_corner_is_dragged_and_a_line_removed(server: Watched, browser: Browser) -> None:
    with drawing(browser, server) as page:
        corner = page.locator(".cv-handle[data-name=entry][data-index='1']")
        box, canvas = corner.bounding_box(), page.locator(".cv-overlay").bounding_box()
        assert box is not None
        assert canvas is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(canvas["x"] + 0.5 * canvas["width"], canvas["y"] + 0.4 * canvas["height"], steps=4)
        page.mouse.up()
        corner.focus()
        page.keyboard.press("ArrowRight")
        page.click("[data-name=gate] .cv-remove")
        page.click(".cv-save")
        expect(page.locator(".cv-unsaved")).to_be_hidden()
        page.reload()
        page.wait_for_selector(".cv-canvas.ready")
        expect(page.locator(".cv-shapes li")).to_have_count(1)
    camera = config.load(server.site).cameras["door"]
    assert camera.zones["entry"][1] == pytest.approx((0.505, 0.4), abs=0.01)
    assert camera.lines == {}


@pytest.mark.browser
def test_nobody_undoes_what_a_colleague_drew(server: Watched, browser: Browser) -> None:
    with drawing(browser, server) as page:
        server.site.write_text(server.site.read_text().replace("corner.", "corner, changed."))
        page.click("[data-name=gate] .cv-remove")
        page.click(".cv-save")
        expect(page.locator(".q-notification")).to_contain_text("changed meanwhile")
        page.on("dialog", lambda dialog: dialog.accept())
    assert "gate" in config.load(server.site).cameras["door"].lines


@pytest.mark.browser
def test_a_zone_that_a_rule_names_stays(server: Watched, browser: Browser) -> None:
    with drawing(browser, server) as page:
        page.click("[data-name=entry] .cv-remove")
        page.click(".cv-save")
        expect(page.locator(".q-notification")).to_contain_text("rule intrusion names 'entry'")
    assert "entry" in config.load(server.site).cameras["door"].zones


@pytest.mark.browser
def test_operators_look_and_do_not_save(server: Watched, browser: Browser) -> None:
    with drawing(browser, server, "operator") as page:
        expect(page.locator(".cv-tools")).to_contain_text("Saving needs the role engineer")
        assert page.locator(".cv-save").count() == 0


# -- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_an_event_is_dismissed_with_a_reason(server: Watched, browser: Browser) -> None:
    server.announce("a", clip=True)
    with visit(browser, server, "/events", "operator") as page:
        page.click("[data-event=a]")
        expect(page.locator(".cv-detail")).to_contain_text("Intrusion · door")
        expect(page.locator(".cv-facts")).to_contain_text("inside_s: 0.4")
        page.wait_for_function("document.querySelector('.cv-clip').readyState >= 1")
        page.wait_for_function("document.querySelector('.cv-row img').naturalWidth === 320")
        page.click(".cv-dismiss")
        expect(page.locator(".q-notification")).to_contain_text("say why")
        assert server.archive.events["a"].state == "new"
        page.select_option(".cv-reason select", "shadow or light")
        page.fill(".cv-more-reason", "<b>car</b> lights")
        page.click(".cv-dismiss")
        expect(page.locator(".cv-head .cv-chip.dismissed")).to_have_text("false alarm")
        expect(page.locator(".cv-said")).to_contain_text("<b>car</b> lights")
        expect(page.locator("[data-event=a] .cv-chip.dismissed")).to_be_visible()
    review = server.archive.events["a"].reviews[-1]
    assert (review.verdict, review.who, review.reason) == ("dismiss", "kim", "shadow or light: <b>car</b> lights")


@pytest.mark.browser
def test_an_event_is_approved_and_locked(server: Watched, browser: Browser) -> None:
    server.announce("a")
    with visit(browser, server, "/events?event=a", "operator", locale="ko-KR") as page:
        page.click(".cv-approve")
        expect(page.locator(".cv-head .cv-chip.approved")).to_have_text("승인")
        page.click(".cv-lock")
        expect(page.locator("[data-event=a] .cv-chip.locked")).to_have_text("잠김")
    assert server.archive.events["a"].locked
    assert server.archive.events["a"].reviews[-1].verdict == "approve"


@pytest.mark.browser
def test_events_are_searched_and_new_ones_appear(server: Watched, browser: Browser) -> None:
    server.announce("a", through=("entry",))
    server.announce("b", camera="yard", type="fall", zone=None, colours=("blue",), start=NOW)
    with visit(browser, server, "/events", "viewer") as page:
        rows = page.locator(".cv-row")
        expect(rows).to_have_count(2)
        for name, value, left in (("camera", "yard", "b"), ("type", "intrusion", "a"), ("colour", "blue", "b")):
            page.select_option(f".cv-by-{name}", value)
            page.click(".cv-find")
            expect(rows).to_have_count(1)
            expect(rows).to_have_attribute("data-event", left)
            page.select_option(f".cv-by-{name}", "")
        page.select_option(".cv-by-through", "entry")
        page.fill(".cv-by-since", (NOW - dt.timedelta(hours=2)).astimezone(SEOUL).strftime("%Y-%m-%dT%H:%M"))
        page.click(".cv-find")
        expect(rows).to_have_count(1)
        expect(rows).to_have_attribute("data-event", "a")
        page.wait_for_url("**through=entry**")
        page.reload()
        expect(page.locator(".cv-by-through")).to_have_value("entry")
        expect(rows).to_have_count(1)
        server.announce("c", through=("entry",), start=NOW)
        expect(rows).to_have_count(2)
        page.fill(".cv-by-until", (NOW - dt.timedelta(hours=1)).astimezone(SEOUL).strftime("%Y-%m-%dT%H:%M"))
        page.click(".cv-find")
        expect(page.locator(".cv-none")).to_contain_text("No events match")
        page.goto(f"{server.url}/events?event=gone&since=never")
        expect(page.locator(".hc-main")).to_contain_text("there is no event gone")
        page.goto(f"{server.url}/events?event=a")
        expect(page.locator(".cv-detail")).to_contain_text("Reviewing needs the role operator")
        assert page.locator(".cv-approve, .cv-dismiss, .cv-lock").count() == 0


# -- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_counts_and_heat_map(server: Watched, browser: Browser) -> None:
    for index in range(3):
        server.announce(f"e{index}")
    server.announce("x", type="line_crossing", line="gate", zone=None, direction="left", start=NOW)
    server.announce("old", start=NOW - dt.timedelta(days=3))
    with visit(browser, server, "/figures", "viewer") as page:
        expect(page.locator(".cv-types .row").first).to_contain_text("Intrusion")
        expect(page.locator(".cv-types .row").first.locator(".value")).to_have_text("3")
        expect(page.locator(".cv-crossings tbody tr")).to_have_text("gateleft1")
        page.wait_for_function("document.querySelector('.cv-heated').naturalWidth === 640")
        page.click("text=7 days")
        expect(page.locator(".cv-types .row").first.locator(".value")).to_have_text("4")


@pytest.mark.browser
def test_the_pages_fit_a_telephone(server: Watched, browser: Browser) -> None:
    server.announce("a")
    for path in ("/cameras", "/zones", "/events?event=a", "/figures"):
        with visit(browser, server, path, "viewer", width=390) as page:
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 1, path


def test_the_pages_appear_only_where_a_site_is_known(server: Watched) -> None:
    assert len(pages(server.running.state)) == 4
    (server.home / "cctv" / "current.json").unlink()
    assert pages(server.running.state) == []
