"""Message in, reply out: the understanding, the engine and the store put together.

    bot = BotPipeline.open("telecom", Records.open())
    reply = bot.reply("c-1", Message("요금제 바꿔 주세요", id="m-1"))

Thread-safe. Any number of servers may serve one conversation in turn on the same database: a turn is appended only if
nobody else appended first, else the conversation is read again and decided again; a message whose id has been answered
gets that answer. So no turn is lost and none is taken twice, whichever server is killed when.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from shared.errors import BadInput, HaechiError
from shared.records import Records
from shared.streams import Clash, Streams
from solutions.contact_center import demo_actions  # noqa: F401  # registers what the templates' actions call
from solutions.contact_center.config import Bot
from solutions.contact_center.dialogue.actions import Actions
from solutions.contact_center.dialogue.engine import Engine, cleaned
from solutions.contact_center.dialogue.events import Button, Event, Message, Reply
from solutions.contact_center.dialogue.handover import HandoverQueue
from solutions.contact_center.dialogue.ladder import Limits, Policy, ThresholdsLike
from solutions.contact_center.dialogue.sealing import Vault
from solutions.contact_center.dialogue.slots import Answers, Extracts
from solutions.contact_center.dialogue.state import State
from solutions.contact_center.dialogue.store import MAX_TRIES, SOLUTION, Conversations, Loaded
from solutions.contact_center.dialogue.turn import Kit
from solutions.contact_center.dialogue.wording import Wording

if TYPE_CHECKING:
    from solutions.contact_center.understanding import Understanding

__all__ = ["BotPipeline", "Button", "Message", "Reply"]

_ID = re.compile(r"[^\s\x00-\x1f]{1,200}")


class Understands(Protocol):
    """What tells what a text means; `understanding.Understander` does."""

    @property
    def thresholds(self) -> ThresholdsLike: ...

    @property
    def weights(self) -> Mapping[str, Any] | None:
        """Of the learned entities."""

    def understand(self, text: str, now: dt.datetime) -> Understanding: ...


class BotPipeline:
    """One bot, serving conversations."""

    def __init__(
        self,
        bot: Bot,
        understander: Understands,
        streams: Streams,
        *,
        actions: Actions | None = None,
        extractors: Mapping[str, Extracts] | None = None,
        policy: Policy | None = None,
        vault: Vault | None = None,
    ) -> None:
        """
        Args:
            extractors: of entities, by language; by default made from the bot's own.
            policy: a learned one; it is asked only where the bot's policies say `bandit: true`.
            vault: for personal slots; by default with the key in the home folder.

        Raises:
            HaechiError: the key cannot be read or made.
        """
        self.bot = bot
        self.conversations = Conversations(streams)
        self.handover = HandoverQueue(self.conversations, bot)
        self._understander = understander
        self._vault = vault or Vault.of_home()
        kit = Kit(
            bot=bot,
            wording=Wording(bot),
            answers=Answers(bot, extractors or extractors_of(bot, understander.weights)),
            actions=actions or Actions(),
            vault=self._vault,
            limits=Limits.of(bot, understander.thresholds),
            policy=policy if bot.settings.policies.bandit else None,
            ahead=self.handover.ahead,
        )
        self._answers = kit.answers
        self._kit = kit
        self._engine = Engine(kit)

    @classmethod
    def open(
        cls, package: Path | str, records: Records, *, threads: int = 1, policy: Policy | None = None
    ) -> BotPipeline:
        """The bot in a package, with conversations in these records.

        Raises:
            BadInput: the package holds no bot.
            HaechiError: it is damaged, or the key cannot be used.
        """
        from solutions.contact_center.understanding import Understander

        understander = Understander.load(package, threads=threads)
        if understander.bot is None:
            raise BadInput(f"{package} was trained from a table and holds no bot; train it from a bot's folder.")
        return cls(understander.bot, understander, Streams(records), policy=policy)

    def follow(self, policy: Policy) -> None:
        """Ask a learned policy from now on, where the bot's policies say `bandit: true`."""
        if self.bot.settings.policies.bandit:
            self._kit = dataclasses.replace(self._kit, policy=policy)
            self._engine = Engine(self._kit)

    # -- talking -----------------------------------------------------------------------------------------------------

    def reply(self, conversation_id: str, message: Message, customer_id: str = "") -> Reply:
        """The answer to one message, stored before it is given.

        Raises:
            BadInput: an id is empty, too long or has spaces, or the time has no zone.
            HaechiError: the database refused, or the conversation never stood still.
        """
        return self._serve(conversation_id, message, customer_id, greet=False)

    def greet(self, conversation_id: str, message: Message, customer_id: str = "") -> Reply:
        """What the bot says when a conversation is opened; the message's text is not read. Errors as `reply`."""
        return self._serve(conversation_id, message, customer_id, greet=True)

    def _serve(self, conversation_id: str, message: Message, customer_id: str, *, greet: bool) -> Reply:
        _check(conversation_id, message)
        with self.conversations.lock(conversation_id):
            for _ in range(MAX_TRIES):
                loaded = self.conversations.load(conversation_id)
                stored = self.conversations.turn(conversation_id, loaded, message.id)
                if stored is not None:
                    return Reply.of(stored, duplicate=True)
                events = self._turn(loaded, conversation_id, message, customer_id, greet)
                try:
                    self.conversations.append(conversation_id, loaded, events, key=message.id, owner=customer_id)
                except Clash:
                    self.conversations.forget(conversation_id)
                    continue
                return Reply.of(events)
        raise HaechiError(f"the conversation {conversation_id} changes faster than it can be written; try again.")

    def _turn(self, loaded: Loaded, conversation: str, message: Message, customer: str, greet: bool) -> list[Event]:
        state = loaded.state
        if greet:
            return self._engine.opening(state, message, conversation=conversation, customer=customer)
        begun = time.perf_counter()
        understood = None
        if self._engine.wants_understanding(state, message):
            message = dataclasses.replace(message, text=cleaned(message.text))
            understood = self._understander.understand(message.text, self._answers.local(message.time))
        events = self._engine.turn(state, understood, message, conversation=conversation, customer=customer)
        took = round(1000 * (time.perf_counter() - begun), 2)
        return [*events[:-1], dataclasses.replace(events[-1], data={**events[-1].data, "ms": took})]

    # -- looking -----------------------------------------------------------------------------------------------------

    def state(self, conversation_id: str) -> State:
        """Where a conversation stands; an empty state where it never began."""
        return self.conversations.load(conversation_id).state

    def slots(self, conversation_id: str) -> dict[str, object]:
        """The values of the running flow's slots, and of ended ones besides, in the clear: for tests only."""
        state = self.state(conversation_id)
        found = {**state.memory, **(state.frame.slots if state.frame else {})}
        return {
            name: self._vault.open(slot["sealed"], conversation_id) if "sealed" in slot else slot.get("value")
            for name, slot in found.items()
        }

    # -- personal data -----------------------------------------------------------------------------------------------

    def forget(self, customer_id: str, who: str) -> int:
        """Delete all conversations of a customer; how many there were. The audit trail says that it was done."""
        return self.conversations.streams.delete_by_owner(SOLUTION, customer_id, who)

    def purge(self, now: dt.datetime, who: str = "retention") -> int:
        """Delete conversations whose last event is older than `policies.retention_days`; how many there were."""
        return purge(self.conversations.streams, self.bot, now, who)


def purge(streams: Streams, bot: Bot, now: dt.datetime, who: str) -> int:
    """Delete conversations whose last event is older than the bot's `policies.retention_days`."""
    before = now - dt.timedelta(days=bot.settings.policies.retention_days)
    return streams.delete_older_than(SOLUTION, before, who)


def extractors_of(bot: Bot, weights: Mapping[str, Any] | None = None) -> dict[str, Extracts]:
    """An extractor for each of the bot's languages; `weights` are those of its learned entities."""
    from solutions.contact_center.entities import Extractor

    return {language: Extractor.of_bot(bot, language, weights) for language in bot.settings.languages}


def _check(conversation_id: str, message: Message) -> None:
    for name, value in (("conversation's id", conversation_id), ("message's id", message.id)):
        if not _ID.fullmatch(value):
            raise BadInput(f"the {name} must have 1 to 200 characters and no spaces.")
    if message.time.tzinfo is None:
        raise BadInput("the message's time has no zone; give it in UTC.")
