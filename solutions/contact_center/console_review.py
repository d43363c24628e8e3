"""The review page: what the bot was unsure of or people disliked, by likeness; one click says what a group means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from nicegui import ui

from shared.serving.console import Words, tag
from solutions.contact_center.config import OOS
from solutions.contact_center.console import BotPage
from solutions.contact_center.review import DISLIKED, NONE, REGRETTED, UNSURE, Candidate, Label, ReviewGroup

SHOWN = 40
"""Groups drawn at once."""
TEXTS = 6
"""Texts of a group that are shown before it is opened."""
_LATEST = 12
_TEXT: dict[str, Words] = {
    "title": ("살펴볼 말", "What to look at"),
    "none": ("살펴볼 말이 없습니다.", "Nothing to look at."),
    "how": (
        "버튼 한 번으로 묶음 전체에 이름을 붙입니다. 체크를 풀면 그 말은 빠집니다.",
        "One click says what a whole group means. What is unticked is left out.",
    ),
    "choose": ("의도나 질문 선택", "An intent or a question"),
    "new": ("새 의도 이름", "Name of a new intent"),
    "label": ("붙이기", "Label"),
    "oos": ("범위 밖", "Out of scope"),
    "ignore": ("배우지 않음", "Learn nothing"),
    "labels": ("붙인 이름", "Labels"),
    "undo": ("되돌리기", "Take back"),
    "export": (
        "YAML로 내보내고 다시 학습한 뒤 비교하세요:",
        "Write them into the bot's folder, train, and compare:",
    ),
    "done": ("기록했습니다.", "Recorded."),
    "more": ("개 더", "more"),
}
REASON: dict[str, Words] = {
    UNSURE: ("확신 없음", "unsure"),
    REGRETTED: ("고객이 되물림", "taken back"),
    DISLIKED: ("싫어요", "thumb down"),
}


class ReviewPage(BotPage):
    """Groups, and the labels given so far."""

    async def draw(self) -> None:
        """Both."""
        self.groups: list[ReviewGroup] = []
        self.labels: list[Label] = []
        with tag("div", "bc-grid wide"):
            self.left = tag("section", "bc-groups")
            self.right = tag("aside", "hc-card bc-labels")
        await self._load()

    async def _load(self) -> None:
        review = self.desk.review(self.name)
        self.groups = await asyncio.to_thread(review.groups)
        self.labels = await asyncio.to_thread(review.labels)
        self._draw_groups(review.choices())
        self._draw_labels()

    def _draw_groups(self, choices: Sequence[str]) -> None:
        self.left.clear()
        with self.left:
            with tag("div", "hc-card"):
                tag("h2", text=f"{self.say(_TEXT['title'])} ({sum(one.times for one in self.groups)})")
                tag("div", "hc-note", self.say(_TEXT["how" if self.groups else "none"]))
                with tag("datalist", id="bc-choices"):
                    for name in choices:
                        tag("option", text=self.title_of(name), value=name)
            for one in self.groups[:SHOWN]:
                self._draw_group(one)

    def _draw_group(self, one: ReviewGroup) -> None:
        with tag("div", "hc-card bc-group") as card:
            with tag("div", "head"):
                tag("b", text=one.name)
                for reason, count in one.reasons.most_common():
                    tag("span", f"bc-chip {reason}", f"{self.say(REASON[reason])} {count}")
            texts = {member.text: member for member in reversed(one.members)}
            shown = [texts[text] for text in one.texts]
            with tag("div", "texts"):
                for place, member in enumerate(shown[:TEXTS]):
                    self._draw_text(place, member)
                if len(shown) > TEXTS:
                    with tag("details"):
                        tag("summary", text=f"{len(shown) - TEXTS} {self.say(_TEXT['more'])}")
                        for place, member in enumerate(shown[TEXTS:], TEXTS):
                            self._draw_text(place, member)
            self._draw_actions(card, one, shown)

    def _draw_text(self, place: int, member: Candidate) -> None:
        with tag("label", "text"):
            tag("input", type="checkbox", checked="checked", **{"data-place": str(place)})
            tag("span", text=member.text)
            if member.times > 1:
                tag("span", "bc-chip", f"×{member.times}")
            if member.guess:
                tag("span", "guess", f"{self.title_of(member.guess)} {member.confidence:.0%}")

    def _draw_actions(self, card: Any, one: ReviewGroup, shown: Sequence[Candidate]) -> None:
        """Each button sends the places that are ticked, and the select-box's or the field's value."""
        root = f"getHtmlElement({card.id})"
        ticked = f"[...{root}.querySelectorAll('input[data-place]:checked')].map(e => Number(e.dataset.place))"
        typed = f"{root}.querySelector('.bc-name').value.trim()"

        def add(words: str, label: str | None, classes: str) -> None:
            made = tag("button", f"hc-button {classes}", words, type="button")
            value = typed if label is None else repr(label)
            script = f"() => emit({ticked}, {value})"
            made.on("click", self.visit.handler("operator", self._labeller(shown)), js_handler=script)

        with tag("div", "bc-actions"):
            if one.suggestion:
                add(f"✓ {self.title_of(one.suggestion)}", one.suggestion, "agree bc-suggested")
            placeholder = f"{self.say(_TEXT['choose'])} / {self.say(_TEXT['new'])}"
            attributes = {"aria-label": placeholder, "list": "bc-choices"}
            tag("input", "bc-name", type="text", maxlength="64", placeholder=placeholder, **attributes)
            add(self.say(_TEXT["label"]), None, "bc-label")
            add(self.say(_TEXT["oos"]), OOS, "bc-oos")
            add(self.say(_TEXT["ignore"]), NONE, "bc-ignore")

    def _draw_labels(self) -> None:
        self.right.clear()
        counts: dict[str, list[Label]] = {}
        for one in reversed(self.labels):
            counts.setdefault(one.label, []).append(one)
        with self.right:
            tag("h2", text=f"{self.say(_TEXT['labels'])} ({len(self.labels)})")
            if self.labels:
                tag("div", "hc-note", self.say(_TEXT["export"]))
                tag("code", "bc-command", f"haechi bot review {self.name} export")
            for name, found in list(counts.items())[:_LATEST]:
                words = self.say(_TEXT["oos"]) if name == OOS else self.say(_TEXT["ignore"]) if name == NONE else name
                with tag("div", "label"):
                    tag("b", text=f"{words} ({len(found)})")
                    tag("div", "hc-note", found[0].text)
                    undo = self._undoer([(one.text, one.language) for one in found])
                    self.button(self.say(_TEXT["undo"]), "operator", undo, "hc-button small bc-undo")

    def _labeller(self, shown: Sequence[Candidate]) -> Callable[[Any], Any]:
        async def act(event: Any) -> None:
            places, label = event.args
            if label == "" and not isinstance(places, list):
                return
            chosen = [shown[int(place)] for place in places if 0 <= int(place) < len(shown)]
            who = self.visit.check("operator").name
            pairs = [(one.text, one.language) for one in chosen]
            await asyncio.to_thread(self.desk.review(self.name).label, pairs, str(label), who)
            ui.notify(self.say(_TEXT["done"]), type="positive", timeout=1500)
            await self._load()

        return act

    def _undoer(self, pairs: list[tuple[str, str]]) -> Callable[[], Any]:
        async def act() -> None:
            who = self.visit.check("operator").name
            await asyncio.to_thread(self.desk.review(self.name).withdraw, pairs, who)
            await self._load()

        return act
