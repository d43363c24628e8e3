"""One turn under way: every decision is an event, applied at once, so that what follows sees it."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from solutions.contact_center.config import Bot, FlowConfig, Step
from solutions.contact_center.dialogue.actions import ActionContext, Actions
from solutions.contact_center.dialogue.events import Button, Event, Message, iso
from solutions.contact_center.dialogue.ladder import Limits, Policy
from solutions.contact_center.dialogue.sealing import Vault
from solutions.contact_center.dialogue.slots import Answers, Refusal
from solutions.contact_center.dialogue.state import Frame, State, apply
from solutions.contact_center.dialogue.wording import Wording, by_hash

if TYPE_CHECKING:
    from solutions.contact_center.understanding import Understanding


@dataclass(frozen=True)
class Kit:
    """What every turn of a bot uses."""

    bot: Bot
    wording: Wording
    answers: Answers
    actions: Actions
    vault: Vault
    limits: Limits
    policy: Policy | None = None
    ahead: Callable[[str], int] = field(default=lambda _: 0)
    """How many conversations have waited for a person longer than this one, given by its id."""


class Turn:
    """The state, which grows with each event, and the events so far."""

    def __init__(self, kit: Kit, state: State, message: Message) -> None:
        self.kit = kit
        self.bot = kit.bot
        self.state = state
        self.message = message
        self.events: list[Event] = []
        self.rung = ""
        self.ended = False
        self.intent = ""
        self.secrets: dict[str, str] = {}
        """What must not be stored as it is -> what may."""
        self.ran = 0
        """Actions so far; part of their idempotency keys."""
        self.understood: Understanding | None = None
        self._chosen: dict[str, dict[str, Any]] = {}
        """Response -> what a learned policy says of the variant it chose."""
        self._time = iso(message.time)

    @property
    def language(self) -> str:
        """The one in which the bot answers."""
        return self.state.language or self.bot.settings.language

    @property
    def frame(self) -> Frame:
        """The running flow's frame; only where there is one."""
        assert self.state.frame is not None
        return self.state.frame

    @property
    def flow(self) -> FlowConfig:
        """The running flow; only where there is one."""
        return self.bot.flows[self.frame.flow]

    @property
    def step(self) -> Step | None:
        """The step at which the running flow stands; None at its end, or where none runs."""
        if self.state.frame is None:
            return None
        steps = self.bot.flows[self.frame.flow].steps
        return steps[self.frame.step] if self.frame.step < len(steps) else None

    @property
    def now(self) -> dt.datetime:
        """The moment of the message, in the bot's time zone."""
        return self.kit.answers.local(self.message.time)

    def emit(self, kind: str, /, **data: Any) -> None:
        """One more event."""
        event = Event(kind, data, self._time)
        self.state = apply(self.state, event)
        self.events.append(event)

    def say(self, response: str, *, buttons: tuple[Button, ...] = (), **values: str) -> None:
        """Say a response; slots are filled in as they may be shown, `values` besides."""
        self.say_with(response, {**self.shown(), **values}, buttons)

    def explain(self, refusal: Refusal) -> None:
        """Say why a value does not hold."""
        self.say_with(refusal.response, {**self.shown(), **refusal.values})

    def say_with(self, response: str, values: Mapping[str, str], buttons: tuple[Button, ...] = ()) -> None:
        """Say a response, filled in with these values alone."""
        said = self.kit.wording.say(response, self.language, self.state.channel, values, self._chooser())
        shown = buttons or said.buttons
        self.emit(
            "said",
            response=response,
            variant=said.variant,
            text=said.text,
            buttons=[button.as_dict() for button in shown],
            **self._chosen.pop(response, {}),
        )

    def say_text(self, name: str, text: str, buttons: tuple[Button, ...] = ()) -> None:
        """Say a text that is no response: the answer of a FAQ, or something said before."""
        self.emit("said", response=name, variant=0, text=text, buttons=[button.as_dict() for button in buttons])

    def _chooser(self) -> Callable[[str, int], int]:
        by_chance = by_hash(self.state.conversation, self.state.turn)
        policy = self.kit.policy
        if policy is None:
            return by_chance

        def choose(response: str, count: int) -> int:
            chosen = policy.choose_variant(response, count, self.seen(response))
            if chosen is None:
                return by_chance(response, count)
            self._chosen[response] = {"policy": dict(chosen.logged)}
            return int(chosen.rung)

        return choose

    def seen(self, what: str) -> dict[str, float]:
        """What a learned policy sees of this turn besides confidences; the draw is the same on every server."""
        text = f"{self.state.conversation}\n{self.state.turn}\n{what}"
        draw = int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:6], "big") / 2.0**48
        faqs = self.understood.faqs if self.understood is not None else ()
        return {
            "asked": float(self.state.clarifications),
            "turn": float(self.state.turn),
            "faq": faqs[0].confidence if faqs else 0.0,
            self.state.channel: 1.0,
            "draw": draw,
        }

    # -- slots -------------------------------------------------------------------------------------------------------

    def shown(self) -> dict[str, str]:
        """Slot -> how it may be shown; those of ended flows too, where the running one has none of the name."""
        found = {name: str(slot.get("shown", "")) for name, slot in self.state.memory.items()}
        if self.state.frame is not None:
            found |= {name: str(slot.get("shown", "")) for name, slot in self.frame.slots.items()}
        return found

    def value(self, slot: str) -> Any:
        """A slot's value in the clear; None where it is not set or was skipped."""
        kept = self.frame.slots.get(slot)
        if kept is None:
            return None
        if "sealed" in kept:
            return self.kit.vault.open(kept["sealed"], self.state.conversation)
        return kept.get("value")

    def values(self) -> dict[str, Any]:
        """Every filled slot in the clear."""
        return {name: self.value(name) for name in self.frame.slots if self.value(name) is not None}

    def personal(self, slot: str, kind: str) -> bool:
        """Whether a slot's value is sealed."""
        return slot in self.flow.personal or self.kit.answers.personal(kind)

    def seal(self, value: Any) -> str:
        """A value that only this server can read."""
        return self.kit.vault.seal(value, self.state.conversation)

    # -- what else is wanted -----------------------------------------------------------------------------------------

    def title(self, flow: str) -> str:
        """A flow's name for the customer."""
        return self.bot.title_of(flow, self.language)

    def context(self) -> ActionContext:
        """For the next action; its key is the same when another server decides the same turn again."""
        frame = self.frame
        self.ran += 1
        parts = (self.state.conversation, self.state.turn, frame.id, frame.flow, frame.step, self.ran)
        key = hashlib.sha256("\n".join(map(str, parts)).encode("utf-8", "replace")).hexdigest()[:32]
        return ActionContext(self.state.conversation, self.state.customer, self.language, self._time, f"haechi-{key}")

    def take(self, rung: str) -> None:
        """Note the rung of this turn; the least sure of several counts."""
        order = ("", "answer", "confirm", "choose", "ask_again", "hand_over")
        if order.index(rung) > order.index(self.rung):
            self.rung = rung

    def hide(self, surface: str, shown: str) -> None:
        """See to it that `surface` is stored as `shown` only."""
        if len(surface.strip()) > 1:
            self.secrets[surface.strip()] = shown

    def finish(self) -> list[Event]:
        """The events as they are stored: nothing in them says what a sealed slot holds."""
        if not self.secrets:
            return self.events
        return [
            Event(event.kind, _hidden(event.data, self.secrets), event.time)
            if event.kind in ("user", "understood")
            else event
            for event in self.events
        ]


def _hidden(value: Any, secrets: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for surface, shown in secrets.items():
            value = value.replace(surface, shown)
        return value
    if isinstance(value, Mapping):
        return {key: _hidden(item, secrets) if key != "id" else item for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(item, secrets) for item in value]
    return value
