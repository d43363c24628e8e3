"""What people should look at: utterances that the bot was unsure of, that were regretted, or that somebody disliked.

    groups = Review(streams, bot).groups()
    review.label(groups[0].texts, "roaming_price", who="kim")       # one click, a whole group
    review.export(folder)                                           # intents/reviewed.yaml, faq/reviewed.yaml

Utterances come from stored conversations, masked. Labels are events of a stream of their own, one for each bot:
nothing is overwritten, and the newest label of a text counts. An export writes whole files; what people have added to
them by hand, and the entities they have marked, stay. Texts with masked personal data are never exported. A labelled
text is training data: it outlives the conversation it came from.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from shared import files
from shared.errors import BadInput, HaechiError
from shared.records import now
from shared.streams import Clash, StreamEvent, Streams
from shared.yaml_files import NAME, Mistakes, read
from solutions.contact_center import marks
from solutions.contact_center.config import OOS, RESERVED_INTENTS, Bot, load
from solutions.contact_center.folder import REVIEWED
from solutions.contact_center.grouping import group, key_of
from solutions.contact_center.history import TurnSeen, clarified_as, conversations_of, regretted
from solutions.contact_center.masking import KINDS

STREAM = "contact_center.review"
UNSURE, REGRETTED, DISLIKED = "unsure", "regretted", "disliked"
NONE = ""
"""The label of what nobody need look at again and nothing is to be learned from."""
MAX_CONVERSATIONS = 5000
MAX_TEXTS = 3000
MAX_LABELLED = 2000
"""Texts that one click may label."""
_TRIES = 20
_NAME = re.compile(NAME)
_MASK = re.compile(rf"<(?:{'|'.join(KINDS)})>|\*\*")
"""What masking leaves behind: a text with it teaches nothing that a customer would say."""


@dataclass(frozen=True)
class Candidate:
    """One utterance to look at."""

    text: str
    language: str
    reason: str
    """`unsure`, `regretted` or `disliked`."""
    conversation: str
    turn: int
    guess: str
    """The bot's best guess."""
    confidence: float
    scope: float
    suggestion: str
    """What the customer chose when the bot asked back, or answered in the end; empty where nothing was."""
    time: dt.datetime
    times: int = 1
    """How often it was said."""


@dataclass(frozen=True)
class ReviewGroup:
    """Utterances that say much the same."""

    name: str
    members: tuple[Candidate, ...]
    suggestion: str
    """The label that most of them point to; empty without one."""

    @property
    def texts(self) -> list[str]:
        """Each text once, in the order of likeness."""
        return list({key_of(one.text): one.text for one in self.members}.values())

    @property
    def reasons(self) -> Counter[str]:
        """How many for which reason."""
        counts: Counter[str] = Counter()
        for one in self.members:
            counts[one.reason] += one.times
        return counts

    @property
    def times(self) -> int:
        """How often all of it was said."""
        return sum(one.times for one in self.members)


@dataclass(frozen=True)
class Label:
    """What somebody said that a text means."""

    text: str
    language: str
    label: str
    """An intent, a question, `oos`, or empty: not to be learned from."""
    who: str
    time: dt.datetime


def candidates(turns: Sequence[TurnSeen]) -> Iterator[Candidate]:
    """The utterances of one conversation that people should look at."""
    for at, turn in enumerate(turns):
        wish = turn.wish
        if not turn.text.strip() or turn.scope is None or (wish is None and turn.good is not False):
            continue
        asked = wish is not None and (wish["rung"] != "answer" or turn.hand_over == "not_understood")
        answered = wish is not None and not asked
        if turn.good is False:
            reason = DISLIKED
        elif asked and (wish or {}).get("reason") != "neither":
            reason = UNSURE
        elif answered and (wish or {}).get("reason") != "clarified" and regretted(turns, at):
            reason = REGRETTED
        else:
            continue
        guess, confidence = turn.intents[0] if turn.intents else ("", 0.0)
        suggestion = clarified_as(turns, at)
        yield Candidate(
            turn.text,
            turn.language,
            reason,
            turn.conversation,
            turn.number,
            guess,
            confidence,
            turn.scope,
            suggestion,
            turn.time,
        )


class Review:
    """The review of one bot's conversations. Thread-safe: it keeps nothing."""

    def __init__(self, streams: Streams, bot: Bot) -> None:
        self._streams = streams
        self._bot = bot

    # -- looking -----------------------------------------------------------------------------------------------------

    def pending(self, *, since: dt.datetime | None = None) -> list[Candidate]:
        """Utterances without a label, the newest first, each text once; texts that the bot has as examples are left
        out."""
        known = {key_of(one.text) for one in self.labels()} | self._examples()
        found: dict[str, Candidate] = {}
        for turns in conversations_of(self._streams, self._bot.settings.name, since=since, limit=MAX_CONVERSATIONS):
            for candidate in candidates(turns):
                key = key_of(candidate.text)
                if not key or key in known:
                    continue
                before = found.get(key)
                better = candidate if before is None or (candidate.suggestion and not before.suggestion) else before
                found[key] = dataclasses.replace(better, times=1 + (before.times if before else 0))
            if len(found) >= MAX_TEXTS:
                break
        return list(found.values())

    def groups(self, *, since: dt.datetime | None = None) -> list[ReviewGroup]:
        """The pending utterances by likeness, what was said most often first."""
        pending = self.pending(since=since)
        made = []
        for one in group([candidate.text for candidate in pending]):
            members = tuple(pending[place] for place in one.members)
            made.append(ReviewGroup(one.name, members, self._suggestion(members)))
        return sorted(made, key=lambda one: -one.times)

    def choices(self) -> list[str]:
        """What a text may be labelled as, besides a new intent: intents, questions, `oos`."""
        intents = [name for name in self._bot.intents if name != OOS]
        return [*intents, *self._bot.faqs, *(name for name in RESERVED_INTENTS if name not in intents), OOS]

    def _suggestion(self, members: Sequence[Candidate]) -> str:
        """What customers chose counts threefold; the bot's own guess is worth its confidence."""
        votes: defaultdict[str, float] = defaultdict(float)
        for one in members:
            if one.suggestion:
                votes[one.suggestion] += 3.0
            elif one.guess and one.reason == UNSURE:
                votes[one.guess] += one.confidence
        best = max(votes, key=lambda name: (votes[name], name), default="")
        return best if best and votes[best] >= 0.4 * len(members) else ""

    def _examples(self) -> set[str]:
        texts = [example.text for intent in self._bot.intents.values() for example in intent.examples]
        texts += [question for faq in self._bot.faqs.values() for question in faq.questions]
        return {key_of(text) for text in texts}

    # -- labelling ---------------------------------------------------------------------------------------------------

    def labels(self) -> list[Label]:
        """The newest label of every text, oldest first."""
        found: dict[str, Label] = {}
        for event in self._streams.read(STREAM, self._bot.settings.name):
            for text, language in event.data["texts"]:
                key = key_of(text)
                found.pop(key, None)
                if not event.data.get("withdrawn"):
                    found[key] = Label(text, language, event.data["label"], event.data["who"], event.time)
        return list(found.values())

    def label(self, texts: Iterable[tuple[str, str]], label: str, who: str) -> int:
        """Say what texts mean; how many.

        Args:
            texts: (text, language) of each.
            label: an intent, a question, `oos`, a new intent's name, or empty: nothing is to be learned from them.

        Raises:
            BadInput: no texts, too many, or a label that no intent can have.
        """
        if label and label not in self.choices() and not _NAME.fullmatch(label):
            raise BadInput(f"the label {label[:80]!r} cannot name an intent; write a-z, 0-9 and _, a letter first.")
        return self._append(texts, {"label": label, "who": who})

    def withdraw(self, texts: Iterable[tuple[str, str]], who: str) -> int:
        """Take labels back: the texts are to be looked at again. Errors as `label`."""
        return self._append(texts, {"label": NONE, "who": who, "withdrawn": True})

    def _append(self, texts: Iterable[tuple[str, str]], data: Mapping[str, Any]) -> int:
        pairs = [[text, language] for text, language in texts if text.strip()]
        if not 0 < len(pairs) <= MAX_LABELLED:
            raise BadInput(f"a label is given to 1 to {MAX_LABELLED} texts at once, not to {len(pairs)}.")
        name = self._bot.settings.name
        for _ in range(_TRIES):
            head = self._streams.head(STREAM, name)
            event = StreamEvent("labelled", {**data, "texts": pairs}, now())
            try:
                self._streams.append(STREAM, name, head.seq if head else 0, [event])
            except Clash:
                continue
            return len(pairs)
        raise HaechiError(f"the labels of {name} change faster than they can be written; try again.")

    # -- exporting ---------------------------------------------------------------------------------------------------

    def export(self, folder: Path) -> dict[str, int]:
        """Write the labelled texts into the bot's folder, as examples; the folder is checked afterwards.

        Returns:
            How many examples each label has in the files now.

        Raises:
            BadInput: the folder holds mistakes, before or after; then its files are as they were.
        """
        bot = load(folder)
        labels = [one for one in self.labels() if one.label != NONE and not _MASK.search(one.text)]
        questions = [one for one in labels if one.label in bot.faqs and one.label not in bot.intents]
        examples = [one for one in labels if one not in questions]
        paths = (folder / "intents" / REVIEWED, folder / "faq" / REVIEWED)
        before = [path.read_bytes() if path.exists() else None for path in paths]
        counts: Counter[str] = Counter()
        for path, key, inside, given in (
            (paths[0], "intent", "examples", examples),
            (paths[1], "faq", "questions", questions),
        ):
            items = _merged(_read(path, key), key, inside, given, bot)
            if items:
                files.write_text(path, _HEADER + _yaml(items))
            counts.update({item[key]: _count(item.get(inside)) for item in items})
        try:
            load(folder)
        except BadInput:
            for path, content in zip(paths, before, strict=True):
                if content is None:
                    path.unlink(missing_ok=True)
                else:
                    files.write_bytes(path, content)
            raise
        return dict(counts)


_HEADER = "# What people labelled on the review page. Written by `haechi bot review`, which keeps what is added here.\n"


def _read(path: Path, key: str) -> list[dict[str, Any]]:
    """The items of an earlier export; `load` has checked it."""
    document = read(path, str(path), Mistakes()) if path.exists() else None
    content = document.value if document is not None else None
    return [item for item in content or [] if isinstance(item, dict) and key in item]


def _merged(
    items: list[dict[str, Any]], key: str, inside: str, labels: Sequence[Label], bot: Bot
) -> list[dict[str, Any]]:
    """The items with the labelled texts added. A text stays where it is unless it was labelled otherwise since; with
    its marks."""
    wanted = {key_of(one.text): one.label for one in labels}
    by_name = {str(item[key]): item for item in items}
    for item in items:
        kept = {
            language: [one for one in texts if wanted.get(_plain(one), item[key]) == item[key]]
            for language, texts in _by_language(item.get(inside), bot).items()
        }
        item[inside] = kept
    for one in labels:
        item = by_name.setdefault(one.label, _new_item(key, one.label, inside, bot))
        texts = item[inside].setdefault(one.language, [])
        if key_of(one.text) not in {_plain(text) for text in texts}:
            texts.append(marks.write(one.text, ()) if key == "intent" else one.text)
    return [item for item in by_name.values() if _count(item[inside])]


def _new_item(key: str, name: str, inside: str, bot: Bot) -> dict[str, Any]:
    item: dict[str, Any] = {key: name}
    known = name in bot.intents or name in bot.faqs or name in RESERVED_INTENTS or name == OOS
    if key == "intent" and not known and name not in bot.flows and f"intent_{name}" not in bot.responses:
        item["response"] = "no_answer"  # until somebody writes one: a new intent must lead somewhere
    return {**item, inside: {}}


def _by_language(texts: Any, bot: Bot) -> dict[str, list[str]]:
    if isinstance(texts, Mapping):
        return {str(key): _texts(value) for key, value in texts.items()}
    return {bot.settings.language: _texts(texts)}


def _texts(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [] if value is None else [str(value)]


def _plain(example: str) -> str:
    return key_of(marks.parse(example)[0])


def _count(texts: Any) -> int:
    return sum(len(inner) for inner in texts.values()) if isinstance(texts, Mapping) else 0


def _yaml(items: Sequence[Mapping[str, Any]]) -> str:
    return yaml.safe_dump(list(items), allow_unicode=True, sort_keys=False, width=120)
