"""The contact centre's console in a real browser, on a real server with a real, small bot; and its figures as JSON."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from shared.serving.console import console_for
from shared.serving.keys import Role
from shared.serving.server import running
from shared.serving.state import ServerOptions
from shared.settings import Settings
from shared.streams import Streams
from solutions.contact_center import insight_routes, routes
from solutions.contact_center.bandit import FEATURES, LinUcb, Policy, path_of
from solutions.contact_center.console import pages, waited
from solutions.contact_center.dialogue.events import RUNGS
from solutions.contact_center.review import Review
from tests.solutions.contact_center.served import API, Server, Slow

ROUTERS = [routes.router_for, insight_routes.router_for, console_for(pages("/"))]
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run")


@pytest.fixture
def server(clinic_package: Path, tmp_path: Path) -> Iterator[Server]:
    settings = Settings(home=tmp_path / "home", database_url=f"sqlite:///{tmp_path / 'records.db'}", threads=1)
    with running(ServerOptions([clinic_package]), settings, routers=ROUTERS) as started:
        started.wait_ready()
        yield Server(started, Slow())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=list(QUIET))
        yield launched
        launched.close()


@contextmanager
def visit(
    browser: Browser,
    server: Server,
    path: str = "/",
    role: Role = "operator",
    *,
    name: str = "kim",
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
    page.goto(server.running.state.auth.one_time_link(server.url, name=name, role=role))
    page.goto(f"{server.url}{path}")
    page.wait_for_selector(".hc-card")
    yield page
    folder = os.environ.get("HAECHI_SCREENSHOTS")
    if folder:
        test = os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split(" ")[0].split("[")[0]
        page.screenshot(path=Path(folder) / f"{test}-{locale}.png", full_page=True)
    context.close()
    assert foreign == []
    assert thrown == []


Chat = Callable[..., tuple[str, list[str]]]


@pytest.fixture
def chat(server: Server) -> Iterator[Chat]:
    """Begin a conversation, or go on with one, and say these things; its id and the last answer."""
    with server.client() as client:
        count = 0

        def say(*texts: str, conversation: str = "") -> tuple[str, list[str]]:
            nonlocal count
            if not conversation:
                conversation = client.post(API, json={"language": "ko"}).json()["conversation"]
            answer: list[str] = []
            for text in texts:
                count += 1
                got = client.post(f"{API}/{conversation}/messages", json={"id": f"m{count}", "text": text})
                assert got.status_code == 200, got.text
                answer = got.json()["texts"]
            return conversation, answer

        yield say


def transcript(server: Server, conversation: str) -> list[tuple[str, str]]:
    with server.client() as client:
        return [(line["who"], line["text"]) for line in client.get(f"{API}/{conversation}").json()["lines"]]


# -- hand-over --------------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_a_person_takes_over_answers_and_returns(server: Server, browser: Browser, chat: Chat) -> None:
    with visit(browser, server) as page:
        expect(page.locator(".bc-list")).to_contain_text("Nobody waits")
        conversation, _ = chat("주문할게요", "큰 거", "상담원 연결해 주세요")
        row = page.locator(".bc-row")
        expect(row).to_have_count(1)
        expect(row).to_contain_text("customer asked")
        expect(row.locator(".when")).to_have_text(waiting := row.locator(".when").inner_text())
        expect(row.locator(".when")).not_to_have_text(waiting)  # the clock runs
        row.click()
        expect(page.locator(".bc-summary")).to_contain_text("large")
        expect(page.locator(".bc-transcript")).to_contain_text("주문할게요")
        assert page.locator(".bc-say").count() == 0
        page.click(".bc-take")
        page.fill(".bc-say", "안녕하세요 <b>kim</b>입니다. 010-1234-5678로 전화드릴까요?")
        page.click(".bc-send")
        expect(page.locator(".bc-line.agent .text")).to_contain_text("<b>kim</b>")
        expect(page.locator(".bc-say")).to_have_value("")
        chat("네 부탁드려요", conversation=conversation)
        expect(page.locator(".bc-line.user .text").last).to_have_text("네 부탁드려요")
        page.locator(".bc-say").press_sequentially("알겠습니다")
        page.keyboard.press("Enter")
        expect(page.locator(".bc-line.agent .text")).to_have_count(2)
        page.click(".bc-resume")
        expect(page.locator(".bc-list")).to_contain_text("Nobody waits")
    said = transcript(server, conversation)
    agent = [text for who, text in said if who == "agent"]
    assert agent[1] == "알겠습니다"
    assert "1234" not in agent[0]
    _, answer = chat("세 개", conversation=conversation)
    assert "large" in answer[0], "the order goes on where it stood"


@pytest.mark.browser
def test_two_people_do_not_take_the_same(server: Server, browser: Browser, chat: Chat) -> None:
    chat("상담원 연결해 주세요")
    with visit(browser, server, name="lee") as late, visit(browser, server) as page:
        for each in (late, page):
            each.click(".bc-row")
            expect(each.locator(".bc-take")).to_be_visible()
        page.click(".bc-take")
        expect(page.locator(".bc-say")).to_be_visible()
        expect(late.locator(".bc-summary")).to_contain_text("kim")
        expect(late.locator(".bc-take")).to_have_count(0)
        assert late.locator(".bc-say").count() == 0


@pytest.mark.browser
@pytest.mark.parametrize("path", ["/", "/conversations", "/review"])
def test_transcripts_need_an_operator(server: Server, browser: Browser, chat: Chat, path: str) -> None:
    chat("상담원 연결해 주세요")
    with visit(browser, server, path, "viewer") as page:
        expect(page.locator(".hc-main")).to_contain_text("needs the role operator")
        expect(page.locator(".hc-main")).not_to_contain_text("상담원")


# -- conversations ----------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_a_transcript_with_rungs_and_scores(server: Server, browser: Browser, chat: Chat) -> None:
    conversation, _ = chat("예약할게요", "제 번호는 010-1234-5678이에요")
    with visit(browser, server, "/conversations", locale="ko-KR") as page:
        page.click(".bc-row")
        expect(page.locator(".bc-line.user .text").nth(1)).to_have_text("예약할게요")
        expect(page.locator(".bc-detail")).to_contain_text("<phone>")
        expect(page.locator(".bc-detail .bc-chip.answer").first).to_have_text("답변")
        expect(page.locator(".bc-share").first).to_contain_text("%")
        assert f"conversation=clinic/{conversation}" in page.url
        page.reload()
        expect(page.locator(".bc-line.user .text").nth(1)).to_have_text("예약할게요")
        chat("취소", conversation=conversation)
        expect(page.locator(".bc-line.user .text").last).to_have_text("취소")
        page.click(".bc-filter button:has-text('상담 중')")
        expect(page.locator(".bc-row")).to_have_count(0)


# -- review -----------------------------------------------------------------------------------------------------------

UNKNOWN = ("쿠폰 적용이 안 돼요", "쿠폰이 적용이 안 돼요", "쿠폰 적용 안 되는데요", "오늘 저녁 뭐 먹지")


@pytest.mark.browser
def test_one_click_labels_a_group(server: Server, browser: Browser, chat: Chat) -> None:
    for text in UNKNOWN:
        chat(text)
    review = Review(Streams(server.running.state.records), bot_of(server))
    with visit(browser, server, "/review") as page:
        card = page.locator(".bc-group", has_text="쿠폰").first
        expect(card.locator("input[data-place]")).to_have_count(3)
        card.locator("input[data-place]").nth(2).uncheck()
        card.locator(".bc-name").fill("coupon_problem")
        card.locator(".bc-label").click()
        expect(page.locator(".bc-labels")).to_contain_text("coupon_problem (2)")
        assert {one.label for one in review.labels()} == {"coupon_problem"}
        assert {one.who for one in review.labels()} == {"kim"}
        page.locator(".bc-group", has_text="저녁").locator(".bc-oos").click()
        expect(page.locator(".bc-labels")).to_contain_text("Out of scope (1)")
        page.locator(".label", has_text="coupon_problem").locator(".bc-undo").click()
        expect(page.locator(".bc-group", has_text="쿠폰").first.locator("input[data-place]")).to_have_count(3)
        card = page.locator(".bc-group", has_text="쿠폰").first
        card.locator(".bc-name").fill("No Such Name!")
        card.locator(".bc-label").click()
        expect(page.locator(".q-notification").first).to_contain_text("cannot name an intent")
    assert {one.label for one in review.labels()} == {"oos"}


def bot_of(server: Server):  # type: ignore[no-untyped-def]
    from solutions.contact_center.desk import desk_of

    return desk_of(server.running.state).bot("clinic")


# -- analytics --------------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_figures_on_the_page_are_those_of_the_api(server: Server, browser: Browser, chat: Chat) -> None:
    for text in UNKNOWN:
        chat(text)
    chat("주문할게요", "작은 거", "네")
    chat("상담원 연결해 주세요")
    with server.client("viewer") as client:
        found = client.get("/api/contact_center/bots/clinic/analytics").json()
        assert found["conversations"] == 6
        assert found["handed_over"] >= 1
        assert [flow["flow"] for flow in found["flows"]] == ["order"]
        assert client.get("/api/contact_center/bots/none/analytics").status_code == 404
        assert client.get("/api/contact_center/bots/clinic/analytics?days=0").status_code == 400
    with visit(browser, server, "/analytics", "viewer") as page:
        expect(page.locator(".figure.conversations b")).to_have_text("6")
        expect(page.locator(".figure.containment b")).to_have_text(f"{found['containment']:.1%}")
        expect(page.locator(".bc-topics")).to_contain_text("쿠폰")
        expect(page.locator(".bc-flow")).to_contain_text("completed 1")
        assert page.locator(".bc-days .day").count() == 1
        page.click(".bc-filter button:has-text('Korean')")
        expect(page.locator(".bc-filter button.here:has-text('Korean')")).to_be_visible()
        expect(page.locator(".figure.conversations b")).to_have_text("6")


def test_figures_need_a_key(server: Server) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as stranger:
        assert stranger.get("/api/contact_center/bots/clinic/analytics").status_code == 401


# -- the learned policy -----------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_the_policy_is_explained_and_stopped(server: Server, browser: Browser) -> None:
    path = path_of("clinic", server.running.state.settings.home)
    model = LinUcb(RUNGS, len(FEATURES))
    rng = np.random.default_rng(0)
    for arm in range(len(RUNGS)):
        for _ in range(40):
            model.update(arm, rng.random(len(FEATURES)), float(rng.random()))
    Policy(0.05, model).save(path)
    with visit(browser, server, "/policy", "engineer") as page:
        expect(page.locator(".bc-state")).to_contain_text("Off.")
        expect(page.locator(".bc-weights tbody tr")).to_have_count(5)
        expect(page.locator(".bc-weights thead")).to_contain_text("in scope")
        page.click(".bc-judge")
        expect(page.locator(".bc-judgement")).to_contain_text("It may not serve")
        expect(page.locator(".bc-why")).to_contain_text("conversations to judge by")
        assert page.locator(".bc-approve").count() == 0
        page.click(".bc-stop")
        expect(page.locator(".bc-stop")).to_have_count(0)
    assert Policy.load(path).rungs is None


@pytest.mark.browser
def test_a_server_without_bots_says_so(tmp_path: Path, browser: Browser) -> None:
    settings = Settings(home=tmp_path / "home", database_url=f"sqlite:///{tmp_path / 'records.db'}", threads=1)
    with running(ServerOptions([], registry=False), settings, routers=ROUTERS) as started:
        started.wait_ready()
        with visit(browser, Server(started, Slow()), "/analytics", "viewer") as page:
            expect(page.locator(".hc-main")).to_contain_text("There is no bot here")


def test_waiting_times_are_readable() -> None:
    import datetime as dt

    now = dt.datetime(2026, 3, 2, 12, tzinfo=dt.UTC)
    for seconds, words in (
        (0, "0:00"),
        (-5, "0:00"),
        (61, "1:01"),
        (3600, "1:00:00"),
        (90_061, "25:01:01"),
        (200_000, "2 d"),
    ):
        assert waited(now - dt.timedelta(seconds=seconds), now) == words
