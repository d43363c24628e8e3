"""The policy page: what a learned policy would do, what that is worth, and the switch; explained, not only shown."""

from __future__ import annotations

import asyncio
from typing import Any

from nicegui import ui

from shared.serving.console import Words, tag
from shared.serving.keys import Role
from solutions.contact_center.bandit import FEATURES, LinUcb, Policy
from solutions.contact_center.bandit_evaluation import Judgement, approved
from solutions.contact_center.console import BotPage

_TEXT: dict[str, Words] = {
    "title": ("학습된 정책", "The learned policy"),
    "what": (
        "임계값이 고른 사다리 칸을 한 칸까지 옮길 수 있습니다. 범위 밖의 말에는 답하지 않으며, 기록된 대화에서 "
        "이득이 확실할 때만 켤 수 있습니다.",
        "It may move the ladder's choice by one rung. It never answers what is out of scope, and it may be switched on "
        "only where logged conversations show a gain beyond doubt.",
    ),
    "off": (
        "꺼져 있습니다. bot.yaml의 policies에 bandit: true를 쓰면 선택을 기록하기 시작합니다.",
        "Off. With bandit: true under policies in bot.yaml the bot begins to log choices.",
    ),
    "exploring": ("임계값이 고르고, 일부를 시험합니다", "The thresholds choose, and some choices are tried"),
    "live": ("학습된 정책이 고릅니다", "The learned policy chooses"),
    "explored": ("시험하는 비율", "share that is tried"),
    "judge": ("기록으로 평가", "Judge on the logs"),
    "approve": ("이 정책 켜기", "Let it serve"),
    "stop": ("사다리로 돌아가기", "Back to the ladder"),
    "yes": ("켤 수 있습니다", "It may serve"),
    "no": ("켤 수 없습니다", "It may not serve"),
    "policy": ("정책", "policy"),
    "ladder": ("사다리", "ladder"),
    "gain": ("이득", "gain"),
    "value": ("보상 (0 나쁨, 1 좋음), 95 % 구간", "Reward (0 bad, 1 good), with 95 % intervals"),
    "judged": ("평가한 선택", "choices judged"),
    "learned": ("배운 선택", "choices learned from"),
    "conversations": ("대화", "conversations"),
    "changed": ("바뀌는 선택", "choices that change"),
    "effective": ("유효 선택", "effective choices"),
    "weights": ("무엇이 각 칸을 밀어 올리는가", "What speaks for each rung"),
    "variants": ("응답 문구별 평균 보상", "Mean reward of each wording"),
    "tried": ("기록된 수", "logged"),
}
FEATURE_WORDS: dict[str, Words] = {
    "one": ("기본값", "base"),
    "confidence": ("확신", "confidence"),
    "margin": ("둘째와의 차이", "lead over the second"),
    "scope": ("범위 안일 확률", "in scope"),
    "sureness": ("확신 × 범위", "confidence × scope"),
    "faq": ("질문과 닮음", "like a question"),
    "turn": ("지난 메시지", "messages so far"),
    "clarifications": ("되물은 횟수", "times asked back"),
    "web": ("웹", "web"),
    "kakao": ("카카오", "Kakao"),
    "voice": ("음성", "voice"),
}


class PolicyPage(BotPage):
    """State, judgement, weights."""

    role: Role = "viewer"

    async def draw(self) -> None:
        """All of it; the judgement when it is asked for."""
        self.judgement: Judgement | None = None
        self.variants: dict[str, Judgement] = {}
        self.area = tag("div", "bc-cards")
        await self._load()

    async def _load(self) -> None:
        self.path = await asyncio.to_thread(self.desk.policy_path, self.name)
        self.policy = await asyncio.to_thread(Policy.load, self.path)
        self.area.clear()
        with self.area:
            self._draw_state()
            report = self.judgement.as_dict() if self.judgement else dict(self.policy.report)
            if report:
                self._draw_judgement(report)
            self._draw_variants()
            model = self.judgement.policy.rungs if self.judgement else self.policy.rungs
            if model is not None:
                self._draw_weights(model)

    def _draw_state(self) -> None:
        on = self.bot.settings.policies.bandit
        live = on and self.policy.rungs is not None
        with tag("section", "hc-card wide bc-state"):
            tag("h2", text=self.say(_TEXT["title"]))
            tag("p", "hc-note", self.say(_TEXT["what"]))
            words = self.say(_TEXT["live" if live else "exploring" if on else "off"])
            explored = f" · {self.say(_TEXT['explored'])} {self.policy.explore:.0%}" if on else ""
            tag("p", f"bc-standing {'live' if live else 'off'}", f"{words}{explored}")
            with tag("div", "bc-actions"):
                self.button(self.say(_TEXT["judge"]), "operator", self._judge, "hc-button bc-judge")
                better = [one for one in (self.judgement, *self.variants.values()) if one is not None and one.approved]
                if better:
                    self.button(self.say(_TEXT["approve"]), "engineer", self._approve, "hc-button agree bc-approve")
                if self.policy.rungs is not None or self.policy.variants:
                    self.button(self.say(_TEXT["stop"]), "engineer", self._stop, "hc-button bc-stop")

    def _draw_judgement(self, report: dict[str, Any]) -> None:
        with tag("section", "hc-card wide bc-judgement"):
            verdict = "yes" if report["approved"] else "no"
            tag("h2", text=self.say(_TEXT[verdict]))
            tag("p", f"bc-why {verdict}", report["why"])
            counts = [("learned", report["learned_from"]), ("judged", report["judged_on"])]
            counts.append(("conversations", report["conversations"]))
            with tag("div", "bc-figures"):
                for key, value in counts:
                    self._figure(key, f"{value:,}")
                if report["policy"]:
                    self._figure("effective", f"{report['policy']['effective']:,.0f}")
                    self._figure("changed", f"{report['changed']:.1%}")
            if report["policy"]:
                tag("div", "hc-note", self.say(_TEXT["value"]))
                for key in ("policy", "ladder"):
                    self._draw_interval(self.say(_TEXT[key]), report[key]["dr"])
                gain = report["gain"]
                words = f"{gain['value']:+.4f} (95 %: {gain['low']:+.4f} – {gain['high']:+.4f})"
                tag("p", "bc-gain", f"{self.say(_TEXT['gain'])}: {words}")

    def _draw_variants(self) -> None:
        """The responses whose variants are chosen, or would be."""
        found = {name: one.policy.rungs for name, one in self.variants.items() if one.approved}
        shown = {**self.policy.variants, **{name: model for name, model in found.items() if model is not None}}
        if not shown:
            return
        with tag("section", "hc-card wide bc-variants"):
            tag("h2", text=self.say(_TEXT["variants"]))
            for name, model in shown.items():
                rewards = model.b[:, 0] / model.tried.clip(min=1)  # the first feature is 1: the sum of the rewards
                rows = [
                    (f"{name} #{int(arm) + 1}", float(reward), f"{float(reward):.3f} · {int(tried):,}")
                    for arm, reward, tried in zip(model.arms, rewards, model.tried, strict=True)
                ]
                self.bars(rows)

    def _figure(self, key: str, value: str) -> None:
        with tag("div", f"figure {key}"):
            tag("b", text=value)
            tag("span", text=self.say(_TEXT[key]))

    def _draw_interval(self, words: str, estimate: dict[str, float]) -> None:
        low, high = max(estimate["low"], 0.0), min(estimate["high"], 1.0)
        with tag("div", "bc-interval"):
            tag("span", "name", words)
            with tag("span", "track"):
                tag("i", style=f"left:{100 * low:.2f}%;width:{max(100 * (high - low), 0.5):.2f}%")
                tag("b", style=f"left:{100 * min(max(estimate['value'], 0.0), 1.0):.2f}%")
            tag("span", "value", f"{estimate['value']:.4f}")

    def _draw_weights(self, model: LinUcb) -> None:
        """A cell for each rung and feature, the redder against, the bluer for."""
        weights = model.weights()
        most = float(abs(weights).max()) or 1.0
        with tag("section", "hc-card wide bc-weights"):
            tag("h2", text=self.say(_TEXT["weights"]))
            with tag("div", "scroll"), tag("table"):
                with tag("thead"), tag("tr"):
                    tag("th", text="")
                    for name in FEATURES:
                        tag("th", text=self.say(FEATURE_WORDS[name]))
                    tag("th", text=self.say(_TEXT["tried"]))
                with tag("tbody"):
                    for arm, row, tried in zip(model.arms, weights, model.tried, strict=True):
                        with tag("tr"):
                            tag("th", text=self.rung(arm))
                            for value in row:
                                hue = "37, 99, 235" if value > 0 else "207, 39, 39"
                                share = min(abs(float(value)) / most, 1.0)
                                tag("td", text=f"{value:+.2f}", style=f"background:rgba({hue},{0.55 * share:.2f})")
                            tag("td", text=f"{int(tried):,}")

    async def _judge(self) -> None:
        self.judgement, self.variants = await asyncio.to_thread(self.desk.judge, self.name, self.policy.explore)
        await self._load()

    async def _approve(self) -> None:
        assert self.judgement is not None
        await asyncio.to_thread(approved(self.judgement, self.variants).save, self.path)
        self.judgement = None
        ui.notify(self.say(_TEXT["live"]), type="positive")
        await self._load()

    async def _stop(self) -> None:
        await asyncio.to_thread(Policy(self.policy.explore).save, self.path)
        self.judgement = None
        await self._load()
