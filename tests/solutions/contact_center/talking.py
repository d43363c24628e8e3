"""A small bot and conversations with it: what was understood is said by the test, everything else is the real thing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.records import Records
from shared.streams import Streams
from solutions.contact_center.config import Bot, load
from solutions.contact_center.dialogue.actions import Actions
from solutions.contact_center.dialogue.events import Message, Reply
from solutions.contact_center.dialogue.ladder import Limits, Policy
from solutions.contact_center.dialogue.state import State
from solutions.contact_center.pipeline import BotPipeline, extractors_of
from solutions.contact_center.understanding import FaqHit, IntentScore, Understanding

MONDAY = dt.datetime(2026, 3, 2, 1, 0, tzinfo=dt.UTC)
"""10:00 in Seoul."""

FILES = {
    "bot.yaml": """
name: clinic
languages: [ko, en]
hours: {mon: ["09:00-18:00"], tue: ["09:00-18:00"], wed: ["09:00-18:00"], thu: ["09:00-18:00"], fri: ["09:00-18:00"]}
policies: {max_clarifications: 2, max_attempts: 3, form_timeout_minutes: 30, retention_days: 90}
channels: {web: {greeting: welcome}}
""",
    "intents/all.yaml": """
- intent: book
  title: {ko: 예약, en: booking}
  examples: {ko: [예약할게요, 진료 예약해 주세요], en: [book a visit, I need an appointment]}
- intent: contact
  title: {ko: 연락처 변경, en: change of contact}
  examples: {ko: [연락처 바꿀게요], en: [change my phone number]}
- {intent: order, title: {ko: 주문, en: order}, examples: {ko: [주문할게요], en: [place an order]}}
- {intent: thanks_a_lot, response: bow, title: {ko: 인사, en: bow}, examples: {ko: [절 받으세요], en: [take a bow]}}
""",
    "entities/all.yaml": """
- {entity: doctor, title: {ko: 의사, en: doctor}, values: {김 선생님: [김선생, Dr Kim], 이 선생님: [이선생, Dr Lee]}}
- {entity: size, title: {ko: 크기, en: size}, values: {small: [작은 거, 소], large: [큰 거, 대]}}
""",
    "faq/all.yaml": """
- faq: parking
  title: {ko: 주차, en: parking}
  questions: {ko: [주차 되나요, 주차장 있어요], en: [is there parking, where do I park]}
  answer: {ko: 주차장은 지하에 있어요., en: The car park is below ground.}
- faq: price
  title: {ko: 진료비, en: price}
  questions: {ko: [얼마예요, 진료비가 얼마예요], en: [how much is it, what does it cost]}
  answer: {ko: "만 원이에요.", en: "Ten dollars."}
""",
    "flows/all.yaml": """
- flow: book
  title: {ko: 예약, en: booking}
  personal: [who]
  steps:
    - {collect: doctor, help: help_doctor}
    - {collect: datetime, ask: ask_when, validate: {after: now}}
    - {collect: who, entity: name, title: {ko: 이름, en: name}}
    - {collect: note, entity: text, title: {ko: 메모, en: note}, optional: true, validate: {length: [2, 40]}}
    - {confirm: confirm_book}
    - {act: book, save: {code: code}}
    - {say: booked}
- flow: contact
  title: {ko: 연락처 변경, en: change of contact}
  steps:
    - {collect: phone}
    - act: contact
      arguments: {number: "{phone}", text: "to {phone}!", fixed: 3}
      save: {left: left}
      failed: sorry
      otherwise: again
    - branch:
        - {when: {slot: left, above: 5}, goto: many}
        - {otherwise: true, goto: few}
    - {label: many, say: many}
    - {end: true}
    - {label: few, say: few}
    - {end: true}
    - {label: again, hand_over: broken}
- flow: order
  title: {ko: 주문, en: order}
  steps:
    - {collect: size}
    - {branch: [{when: {slot: size, equals: large}, goto: large}]}
    - {label: finish, confirm: confirm_order}
    - {say: ordered}
    - {end: true}
    - {label: large, collect: count, entity: number, title: {ko: 개수, en: count}, validate: {min: 1, max: 9}}
    - {goto: finish}
""",
    "actions/all.yaml": """
- {action: book, function: test_book}
- {action: contact, function: test_contact}
""",
    "responses/all.yaml": """
- {response: welcome, ko: [어서 오세요.], en: [Welcome.]}
- {response: bow, ko: [꾸벅.], en: [A deep bow.]}
- {response: ask_doctor, ko: [어느 선생님께 보실래요?], en: [Which doctor?]}
- {response: help_doctor, ko: [김 선생님과 이 선생님이 계세요.], en: [There are Dr Kim and Dr Lee.]}
- {response: ask_when, ko: [언제 오실래요?], en: [When?]}
- {response: ask_who, ko: [성함이 어떻게 되세요?], en: [Your name?]}
- {response: ask_note, ko: [전할 말이 있으세요?], en: [Any note?]}
- {response: ask_phone, ko: [전화번호를 알려 주세요.], en: [Your phone number?]}
- {response: ask_size, ko: [크기는요?], en: [What size?]}
- {response: ask_count, ko: [몇 개요?], en: [How many?]}
- response: confirm_book
  ko: ["{doctor}(으)로 {datetime}에 {who}님 이름으로 예약할까요? {note}"]
  en: ["{doctor}, {datetime}, for {who}? {note}"]
- {response: confirm_order, ko: ["{size} {count} 맞나요?"], en: ["{size} {count}, right?"]}
- {response: booked, ko: ["예약했어요. 번호는 {code}입니다.", "예약이 끝났어요: {code}"], en: ["Booked: {code}."]}
- {response: many, ko: ["{phone}(으)로 바꿨어요. 많이 남았어요."], en: ["Changed to {phone}; many left."]}
- {response: few, ko: ["{phone}(으)로 바꿨어요. 조금 남았어요."], en: ["Changed to {phone}; few left."]}
- {response: sorry, ko: [지금은 안 돼요.], en: [Not now.]}
- {response: ordered, ko: [주문했어요.], en: [Ordered.]}
""",
}


def make_bot(folder: Path, **changes: str) -> Bot:
    """The bot, from a folder as a user would write it. `changes`: file with `__` for `/` and no ending -> content."""
    for name, content in {
        **FILES,
        **{key.replace("__", "/") + ".yaml": value for key, value in changes.items()},
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return load(folder)


class Told:
    """Understands what the test tells it to; entities are found by the bot's real extractors."""

    def __init__(self, bot: Bot) -> None:
        self.thresholds = Limits(0.7, 0.4, 0.5)
        self.weights = None
        self._extractors = extractors_of(bot)
        self._bot = bot
        self.next: tuple[tuple[str, float], ...] = ()
        self.scope = 0.95
        self.parts: Sequence[tuple[str, str]] = ()
        self.calls = 0

    def understand(self, text: str, now: dt.datetime) -> Understanding:
        self.calls += 1
        parts = tuple(self._made(part, now, ((name, 0.95),), 0.95) for part, name in self.parts)
        made = self._made(text, now, self.next, self.scope)
        return Understanding(
            text, made.intents, made.scope, made.scope_score, made.faqs, made.entities, parts if len(parts) > 1 else ()
        )

    def _made(self, text: str, now: dt.datetime, found: Sequence[tuple[str, float]], scope: float) -> Understanding:
        language = "ko" if any("가" <= one <= "힣" for one in text) else "en"
        entities = tuple(self._extractors[language].extract(text, now))
        intents = tuple(IntentScore(name, share) for name, share in found if name not in self._bot.faqs)
        faqs = tuple(FaqHit(name, share, share, name) for name, share in found if name in self._bot.faqs)
        return Understanding(text, intents, scope, scope, faqs, entities, ())


class Talk:
    """One conversation with a bot, on a store of its own."""

    def __init__(
        self,
        bot: Bot,
        records: Records,
        *,
        functions: Mapping[str, object] | None = None,
        language: str = "ko",
        id: str = "c1",
        policy: Policy | None = None,
    ) -> None:
        self.bot = bot
        self.told = Told(bot)
        self.calls: list[tuple[str, dict[str, object], str]] = []
        self.pipeline = BotPipeline(
            bot,
            self.told,
            Streams(records),
            actions=Actions({**self._functions(), **(functions or {})}),  # type: ignore[arg-type]
            policy=policy,
        )
        self.language = language
        self.id = id
        self.time = MONDAY
        self.number = 0

    def _functions(self) -> dict[str, object]:
        def book(arguments: Mapping[str, object], context: object) -> dict[str, object]:
            self.calls.append(("book", dict(arguments), getattr(context, "key", "")))
            return {"code": f"B{len(self.calls)}"}

        def contact(arguments: Mapping[str, object], context: object) -> dict[str, object]:
            self.calls.append(("contact", dict(arguments), getattr(context, "key", "")))
            return {"left": 3}

        return {"test_book": book, "test_contact": contact}

    def say(
        self,
        text: str,
        *intents: tuple[str, float] | str,
        scope: float = 0.95,
        parts: Sequence[tuple[str, str]] = (),
        after: dt.timedelta = dt.timedelta(seconds=10),
        id: str | None = None,
        customer: str = "",
    ) -> Reply:
        """Send a message of which these intents (or questions) are understood; a bare name is understood with 0.95."""
        self.told.next = tuple((one, 0.95) if isinstance(one, str) else one for one in intents)
        self.told.scope, self.told.parts = scope, parts
        self.time += after
        self.number += 1
        message = Message(text, id or f"m{self.number}", "rest", self.language, self.time)
        return self.pipeline.reply(self.id, message, customer)

    @property
    def state(self) -> State:
        return self.pipeline.state(self.id)

    @property
    def slots(self) -> dict[str, object]:
        return self.pipeline.slots(self.id)

    @property
    def flow(self) -> str | None:
        return self.state.frame.flow if self.state.frame else None
