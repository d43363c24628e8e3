"""A real server with a real, small bot, trained here: the clinic of `talking.py`, with all channels."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from shared.serving.keys import Role
from shared.serving.server import RunningServer, running
from shared.serving.state import ServerOptions
from shared.settings import Settings
from solutions.contact_center.config import Model
from solutions.contact_center.dialogue import actions
from solutions.contact_center.pipeline import BotPipeline
from solutions.contact_center.routes import router_for
from solutions.contact_center.service import open_bot
from tests.solutions.contact_center.talking import FILES, make_bot

NAME = "clinic"
SITE = "https://www.clinic.example"
API = f"/api/contact_center/bots/{NAME}/conversations"
CHAT = f"/chat/{NAME}"
_BOT = f"""
name: {NAME}
title: {{ko: 해치의원, en: Haechi clinic}}
languages: [ko, en]
channels:
  web: {{greeting: welcome, origins: ["{SITE}"]}}
  kakao: {{greeting: welcome, max_text: 400}}
  rest: {{greeting: welcome}}
"""
_ASKED = "- {response: ask_doctor, ko: [어느 선생님께 보실래요?], en: [Which doctor?]}\n"
_RESPONSES = """
- response: ask_doctor
  ko: [어느 선생님께 보실래요?]
  en: [Which doctor?]
  buttons:
    - {title: {ko: 김 선생님, en: Dr Kim}}
    - {title: {ko: 이 선생님이요, en: Dr Lee}, say: {ko: 이 선생님, en: Dr Lee}}
"""
_INTENTS = """
- intent: book
  title: {ko: 예약, en: booking}
  examples:
    ko: [예약할게요, 진료 예약해 주세요, 예약하고 싶어요, 진료 잡아 주세요, 내일 예약 되나요, 예약 부탁드려요]
    en: [book a visit, I need an appointment, make an appointment please, I want to book, can I book a visit]
- intent: order
  title: {ko: 주문, en: order}
  examples:
    ko: [주문할게요, 주문하고 싶어요, 이거 주문해 주세요, 물건 주문이요, 주문 넣어 주세요]
    en: [place an order, I want to order, order something for me, can I order]
- intent: contact
  title: {ko: 연락처 변경, en: change of contact}
  examples:
    ko: [연락처 바꿀게요, 전화번호 변경해 주세요, 연락처 변경하고 싶어요, 번호가 바뀌었어요]
    en: [change my phone number, update my contact, my number has changed]
- intent: slowly
  title: {ko: 천천히, en: slowly}
  examples: {ko: [느리게 해 주세요, 천천히 부탁해요, 느릿느릿 해 줘, 아주 느리게], en: [do it slowly, slowly please]}
"""


def write_bot(folder: Path) -> Path:
    """The bot's folder."""
    make_bot(
        folder,
        bot=_BOT,
        intents__all=_INTENTS,
        responses__all=FILES["responses/all.yaml"].replace(_ASKED, "") + _RESPONSES,
        flows__slow="- {flow: slowly, steps: [{act: slow}, {say: slow}]}\n",
        actions__slow="- {action: slow, function: test_slow}\n",
        responses__slow="- {response: slow, ko: [다 됐어요.], en: [Done.]}\n",
    )
    return folder


def train_bot(folder: Path) -> Path:
    """The bot's package, trained with the quick recipe."""
    from solutions.contact_center.config import load
    from solutions.contact_center.training import from_bot, train

    bot = load(write_bot(folder / "bot"))
    return train(from_bot(bot), folder / NAME, bot=bot, model=Model(recipe="light")).path


class Slow:
    """An action that lasts until the test says so."""

    def __init__(self) -> None:
        self.may_end = threading.Event()

    def __call__(self, _arguments: Mapping[str, Any], _context: actions.ActionContext) -> dict[str, Any]:
        self.may_end.wait(20)
        return {}


@dataclass(frozen=True)
class Server:
    """A running server and ways to talk with it."""

    running: RunningServer
    slow: Slow

    @property
    def url(self) -> str:
        return self.running.url

    def client(self, role: Role | None = "operator", **headers: str) -> httpx.Client:
        if role:
            headers["X-Api-Key"] = self.running.state.auth.store.create(f"{role}-1", role)
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False)

    @contextlib.contextmanager
    def socket(self, conversation: str, token: str, after: int = 0, origin: str | None = None) -> Iterator[Socket]:
        """A browser's socket, after its hello."""
        address = f"{self.url.replace('http', 'ws', 1)}{CHAT}/conversations/{conversation}/socket"
        with connect(address, origin=origin, open_timeout=20) as opened:  # type: ignore[arg-type]
            socket = Socket(opened)
            socket.send(type="hello", token=token, after=after)
            yield socket


class Socket:
    """Frames as tables."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def send(self, **frame: Any) -> None:
        self.connection.send(json.dumps(frame))

    def next(self, kind: str, seconds: float = 20) -> dict[str, Any]:
        """The next frame of this type; others are passed over."""
        while True:
            frame: dict[str, Any] = json.loads(self.connection.recv(timeout=seconds))
            if frame["type"] == kind:
                return frame


@contextlib.contextmanager
def serving(package: Path, home: Path, database_url: str = "", **options: Any) -> Iterator[Server]:
    """The bot on a real port."""
    slow = Slow()
    functions: dict[str, Callable[..., Any]] = {
        "test_slow": slow,
        "test_book": lambda _arguments, _context: {"code": "B1"},
        "test_contact": lambda _arguments, _context: {"left": 9},
    }

    def opens(given: Any, streams: Any, vault: Any) -> BotPipeline:
        return open_bot(given, streams, vault, actions.Actions(functions))

    database = database_url or f"sqlite:///{home / 'records.db'}"
    settings = Settings(home=home, database_url=database, threads=1)
    routers = [lambda state: router_for(state, opens)]
    with running(ServerOptions([package], **options), settings, routers=routers) as started:
        started.wait_ready()
        yield Server(started, slow)
        slow.may_end.set()
