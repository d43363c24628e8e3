"""What the console's pages of a contact centre share: the bots served here, their conversations, figures and reviews.

One for each server, made when a page or a route first needs it. It reads and writes the same streams as the channels,
so that what an agent says here reaches the customer wherever they are connected.
"""

from __future__ import annotations

import functools
import json
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.serving.errors import NotFound
from shared.streams import Streams
from solutions.contact_center.analytics import Analytics
from solutions.contact_center.bandit import path_of
from solutions.contact_center.bandit_evaluation import Judgement, Logs, judge, judge_variants
from solutions.contact_center.config import Bot
from solutions.contact_center.dialogue.handover import HandoverQueue, Request
from solutions.contact_center.dialogue.store import SOLUTION, Conversations
from solutions.contact_center.history import TurnSeen, belongs, conversations_of, logged, logged_variants, turns_of
from solutions.contact_center.review import Review

if TYPE_CHECKING:
    from shared.serving.state import ServerState
    from shared.streams import StreamHead

TASK = "bot"
"""Of the packages that hold a bot."""
BOT_ASSET = "bot.json"
MAX_LISTED = 200
MAX_LOGGED = 50_000


class Desk:
    """Thread-safe and blocking: call it through `asyncio.to_thread`."""

    def __init__(self, state: ServerState) -> None:
        self._models = state.of_task
        self.home = state.settings.home
        self.streams = Streams(state.records)
        self.conversations = Conversations(self.streams)
        self._lock = threading.Lock()
        self._bots: dict[str, tuple[str, Bot]] = {}
        self._analytics: dict[str, tuple[str, Analytics]] = {}

    def names(self) -> list[str]:
        """The bots served here, sorted."""
        return sorted(served.name for served in self._models(TASK))

    def bot(self, name: str) -> Bot:
        """A bot as it is in its package.

        Raises:
            NotFound: it is not served here, or was trained from a table.
        """
        served = next((one for one in self._models(TASK) if one.name == name), None)
        if served is None or BOT_ASSET not in served.package.assets:
            raise NotFound(f"there is no bot {name[:64]} here.")
        with self._lock:
            known = self._bots.get(name)
            if known is None or known[0] != served.package.fingerprint:
                made = Bot.from_dict(json.loads(served.package.asset(BOT_ASSET)))
                known = self._bots[name] = (served.package.fingerprint, made)
        return known[1]

    # -- conversations -----------------------------------------------------------------------------------------------

    def queue(self, name: str) -> HandoverQueue:
        """The hand-over queue, through which a person answers for this bot."""
        return HandoverQueue(self.conversations, self.bot(name))

    def requests(self, name: str) -> list[Request]:
        """Conversations of a bot that want a person or have one."""
        return [one for one in self.queue(name).open() if belongs(one.conversation, name)]

    def heads(self, name: str, status: str = "") -> list[StreamHead]:
        """The newest conversations of a bot."""
        found = self.streams.list_streams(SOLUTION, status=status or None, limit=10 * MAX_LISTED)
        return [head for head in found if belongs(head.stream, name)][:MAX_LISTED]

    def turns(self, name: str, stream: str) -> list[TurnSeen]:
        """One conversation.

        Raises:
            NotFound: the bot has no such conversation.
        """
        found = turns_of(self.streams.read(SOLUTION, stream), stream) if belongs(stream, name) else []
        if not found:
            raise NotFound("there is no such conversation (any more).")
        return found

    # -- figures -----------------------------------------------------------------------------------------------------

    def report(self, name: str, **options: Any) -> dict[str, Any]:
        """Figures of a bot up to now, see `Analytics.report`."""
        bot = self.bot(name)
        with self._lock:
            known = self._analytics.get(name)
            if known is None or known[0] != bot.settings.timezone:
                known = self._analytics[name] = (bot.settings.timezone, Analytics(self.streams, bot))
        known[1].refresh()
        return known[1].report(**options)

    def review(self, name: str) -> Review:
        """What people should look at."""
        return Review(self.streams, self.bot(name))

    # -- the learned policy ------------------------------------------------------------------------------------------

    def policy_path(self, name: str) -> Path:
        """Where a bot's policy is kept."""
        return path_of(self.bot(name).settings.name, self.home)

    def judge(self, name: str, explore: float) -> tuple[Judgement, dict[str, Judgement]]:
        """Learn from a bot's logged choices, and judge it: the rungs, and each response's variants."""
        return judged(self.streams, self.bot(name), explore)


def judged(streams: Streams, bot: Bot, explore: float) -> tuple[Judgement, dict[str, Judgement]]:
    """What can be learned from a bot's logged choices, and what it is worth; oldest conversation first."""
    rungs: list[dict[str, Any]] = []
    variants: dict[str, list[dict[str, Any]]] = {}
    conversations = list(conversations_of(streams, bot.settings.name, limit=MAX_LOGGED))
    for turns in reversed(conversations):
        rungs += logged(turns, bot.settings.costs)
        for response, entries in logged_variants(turns, bot.settings.costs).items():
            variants.setdefault(response, []).extend(entries)
    by_response = {}
    for response, entries in variants.items():
        arms = entries[-1]["allowed"]  # the newest wording counts; what was logged for another one is left out
        by_response[response] = Logs.of([entry for entry in entries if entry["allowed"] == arms], arms)
    return judge(Logs.of(rungs), explore=explore), judge_variants(by_response, explore=explore)


_desks: weakref.WeakKeyDictionary[ServerState, Desk] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def desk_of(state: ServerState) -> Desk:
    """The server's desk."""
    with _making:
        found = _desks.get(state)
        if found is None:
            found = _desks[state] = Desk(state)
        return found


@functools.cache
def stylesheet() -> Path:
    """Of all pages of the contact centre."""
    return Path(__file__).with_name("console.css")
