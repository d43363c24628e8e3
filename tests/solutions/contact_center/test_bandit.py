"""The learned policy: it learns, its value is known before it goes live, and it stays within bounds."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.errors import BadInput
from shared.records import Records
from shared.streams import Streams
from solutions.contact_center.bandit import (
    FEATURES,
    LEAST_TRIED,
    MOST_EXPLORED,
    LinUcb,
    LivePolicy,
    Policy,
    context_of,
    distribution,
)
from solutions.contact_center.bandit_evaluation import (
    LEAST_CONVERSATIONS,
    Estimate,
    Logs,
    approved,
    evaluate,
    gain,
    judge,
    judge_variants,
    learn,
)
from solutions.contact_center.config import Bot, Policies, Settings
from solutions.contact_center.dialogue.events import RUNGS
from solutions.contact_center.dialogue.ladder import Limits, decide
from solutions.contact_center.dialogue.store import Conversations
from solutions.contact_center.history import logged, turns_of, worst_cost
from solutions.contact_center.understanding import IntentScore, Understanding
from tests.solutions.contact_center.talking import Talk, make_bot

COSTS = {"answer": 10.0, "confirm": 1.0, "choose": 1.5, "ask_again": 2.0, "hand_over": 4.0}
TURNS = 4


@dataclass
class World:
    """Customers whose rewards are known for every rung: answering pays as often as the confidence says."""

    contexts: NDArray[np.float64]
    expected: NDArray[np.float64]
    allowed: NDArray[np.bool_]
    ladder: NDArray[np.int64]

    @classmethod
    def of(cls, count: int, seed: int, *, threshold: float = 0.9) -> World:
        """A ladder that answers from `threshold` on; costs would have it answer from 0.9 on."""
        rng = np.random.default_rng(seed)
        confidence = rng.beta(2.5, 1.0, count)
        scope = np.clip(confidence + rng.normal(0, 0.1, count), 0.05, 1.0)
        rows = []
        for first, inside, channel in zip(confidence, scope, rng.choice(["web", "kakao", "rest"], count), strict=True):
            rows.append(context_of([first, (1 - first) / 2], inside, 0.0, 3, 0, str(channel)))
        right = np.stack([confidence, *(np.zeros(count),) * 4], axis=1)
        costs = np.array([COSTS[rung] for rung in RUNGS])
        wrong = np.concatenate([(1 - right[:, :1]) * costs[0], np.tile(costs[1:], (count, 1))], axis=1)
        ladder = np.where(confidence >= threshold, 0, np.where(confidence >= 0.4, 1, 3))
        allowed = np.abs(np.arange(len(RUNGS)) - ladder[:, None]) <= 1
        return cls(np.array(rows), 1 - wrong / 10.0, allowed, ladder.astype(np.int64))

    def sample(self, count: int, seed: int) -> World:
        """Some of its customers, drawn with replacement."""
        drawn = np.random.default_rng(seed).integers(0, len(self.ladder), count)
        return World(self.contexts[drawn], self.expected[drawn], self.allowed[drawn], self.ladder[drawn])

    def rewards(self, taken: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
        """Of an answer, 1 or 0; of the other rungs what they cost, with some noise."""
        expected = self.expected[np.arange(len(taken)), taken]
        drawn = (rng.random(len(taken)) < expected).astype(np.float64)
        return np.where(taken == 0, drawn, np.clip(expected + rng.normal(0, 0.05, len(taken)), 0, 1))

    def logs(self, seed: int, explore: float = 0.2) -> Logs:
        """What the ladder with exploration leaves behind."""
        rng = np.random.default_rng(seed)
        shares = distribution(None, self.contexts, self.ladder, self.allowed, explore)
        taken = (shares.cumsum(axis=1) > rng.random((len(shares), 1))).argmax(axis=1)
        rows = np.arange(len(taken))
        return Logs(
            RUNGS,
            self.contexts,
            taken,
            shares[rows, taken],
            self.rewards(taken, rng),
            self.allowed,
            self.ladder,
            rows // TURNS,
        )

    def value(self, shares: NDArray[np.float64]) -> float:
        """The true one."""
        return float((shares * self.expected).sum(axis=1).mean())


# -- learning ---------------------------------------------------------------------------------------------------------


def regret_by_quarter(seed: int) -> list[float]:
    """Mean regret of LinUCB that learns as it goes, in the four quarters of 4,000 choices."""
    world = World.of(4000, seed, threshold=0.97)
    rng = np.random.default_rng(seed + 100)
    model = LinUcb(RUNGS, len(FEATURES))
    regrets = []
    for x, expected in zip(world.contexts, world.expected, strict=True):
        arm = int(model.best(x[None], np.ones((1, len(RUNGS)), dtype=bool))[0])
        reward = float(rng.random() < expected[arm]) if arm == 0 else float(expected[arm])
        model.update(arm, x, reward)
        regrets.append(float(expected.max() - expected[arm]))
    return [float(part.mean()) for part in np.array_split(np.array(regrets), 4)]


def test_regret_falls() -> None:
    quarters = np.mean([regret_by_quarter(seed) for seed in range(3)], axis=0)
    assert quarters[1] < quarters[0]
    assert quarters[3] < 0.5 * quarters[0]
    world = World.of(4000, 0)
    chance = float((world.expected.max(axis=1) - world.expected.mean(axis=1)).mean())
    assert quarters[3] < 0.1 * chance


def test_a_batch_teaches_what_single_updates_teach() -> None:
    logs = World.of(300, 1).logs(2)
    single = LinUcb(RUNGS, len(FEATURES))
    for x, arm, reward in zip(logs.contexts, logs.taken, logs.rewards, strict=True):
        single.update(int(arm), x, float(reward))
    batch = learn(logs)
    assert np.allclose(single.a, batch.a)
    assert np.allclose(single.weights(), batch.weights())
    assert batch.tried.sum() == 300
    mean, bonus = batch.scores(logs.contexts)
    assert bonus[:, 2].mean() > bonus[:, 1].mean(), "what was tried less is less sure"
    assert np.isfinite(mean).all()


# -- off-policy evaluation --------------------------------------------------------------------------------------------

RUNS = 160


@pytest.fixture(scope="module")
def estimates() -> list[dict[str, tuple[Estimate, float]]]:
    """For each simulated run the estimates of one fixed target policy, each with the truth."""
    everybody = World.of(4000, 999)
    target_model = learn(everybody.logs(999))
    truth = {
        "target": everybody.value(
            distribution(target_model, everybody.contexts, everybody.ladder, everybody.allowed, 0.05)
        ),
        "base": everybody.value(distribution(None, everybody.contexts, everybody.ladder, everybody.allowed, 0.0)),
    }
    found = []
    for run in range(RUNS):
        world = everybody.sample(1200, 10_000 + run)
        logs = world.logs(run)
        target = distribution(target_model, world.contexts, world.ladder, world.allowed, 0.05)
        base = distribution(None, world.contexts, world.ladder, world.allowed, 0.0)
        values = evaluate(logs, target)
        found.append(
            {
                "ips": (values.ips, truth["target"]),
                "snips": (values.snips, truth["target"]),
                "dr": (values.dr, truth["target"]),
                "gain": (gain(logs, target, base), truth["target"] - truth["base"]),
            }
        )
    return found


@pytest.mark.parametrize("name", ["ips", "snips", "dr", "gain"])
def test_intervals_cover_the_truth(name: str, estimates: list[dict[str, tuple[Estimate, float]]]) -> None:
    covered = [one[name][0].low <= one[name][1] <= one[name][0].high for one in estimates]
    assert np.mean(covered) >= 0.9
    values = np.array([one[name][0].value for one in estimates])
    truth = estimates[0][name][1]
    assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(RUNS), "no bias to speak of"
    widths = [one[name][0].high - one[name][0].low for one in estimates]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * values.std(), rel=0.25), "no wider than it must be"


def test_doubly_robust_is_the_narrowest(estimates: list[dict[str, tuple[Estimate, float]]]) -> None:
    width = {
        name: np.mean([one[name][0].high - one[name][0].low for one in estimates]) for name in ("ips", "snips", "dr")
    }
    assert width["dr"] < 0.8 * width["ips"]
    assert width["snips"] < width["ips"]


def test_an_improvement_is_approved_and_holds() -> None:
    world = World.of(12_000, 5, threshold=0.5)  # answers where it had better ask
    judgement = judge(world.logs(5), explore=0.05)
    assert judgement.approved, judgement.why
    assert judgement.gain is not None
    policy = approved(judgement)
    fresh = World.of(20_000, 6, threshold=0.5)
    target = policy.probabilities(fresh.contexts, fresh.ladder, fresh.allowed)
    base = distribution(None, fresh.contexts, fresh.ladder, fresh.allowed, 0.0)
    truth = fresh.value(target) - fresh.value(base)
    assert truth > 0
    assert judgement.gain.low - 0.01 <= truth <= judgement.gain.high + 0.01
    assert 0 < judgement.changed < 1
    assert json.loads(json.dumps(judgement.as_dict()))["approved"] is True


def test_a_better_wording_is_found_and_others_are_left_alone() -> None:
    rng = np.random.default_rng(4)

    def said(rates: tuple[float, ...]) -> Logs:
        entries = []
        for number in range(900):
            arm = int(rng.integers(len(rates)))
            entry = {"arm": str(arm), "ladder": "0", "propensity": 1 / len(rates), "conversation": f"c{number}"}
            context = list(context_of([0.9], 0.9, 0.0, 1, 0, "web"))
            reward = float(rng.random() < rates[arm])
            arms = [str(one) for one in range(len(rates))]
            entries.append({**entry, "allowed": arms, "context": context, "reward": reward})
        return Logs.of(entries, [str(one) for one in range(len(rates))])

    variants = judge_variants({"clear": said((0.5, 0.9, 0.5)), "alike": said((0.7, 0.7))}, explore=0.05)
    assert variants["clear"].approved
    assert not variants["alike"].approved
    policy = approved(judge(Logs.of([]), explore=0.05), variants)
    assert policy.rungs is None, "the rungs are still the ladder's"
    assert list(policy.variants) == ["clear"]
    context = context_of([0.9], 0.9, 0.0, 1, 0, "web")
    taken = [policy.variant(context, "clear", 3, draw / 100).arm for draw in range(100)]
    assert taken.count("1") >= 95


def test_where_nothing_can_be_gained_nothing_goes_live() -> None:
    refused = 0
    for seed in range(10):
        world = World.of(2000, seed)
        world.expected[:] = 0.6  # every rung is worth the same
        judgement = judge(world.logs(seed), explore=0.05)
        refused += not judgement.approved
        if not judgement.approved:
            with pytest.raises(BadInput, match="may not go live"):
                approved(judgement)
    assert refused >= 9, "an interval of 95 % errs upwards once in forty"


def test_too_few_conversations_say_nothing() -> None:
    judgement = judge(World.of(4 * TURNS, 1).logs(1), explore=0.05)
    assert not judgement.approved
    assert str(LEAST_CONVERSATIONS) in judgement.why
    nothing = Logs.of([])
    assert not judge(nothing, explore=0.05).approved
    with pytest.raises(BadInput, match="no logged choices"):
        evaluate(nothing, np.zeros((0, len(RUNGS))))


# -- bounds -----------------------------------------------------------------------------------------------------------


def eager() -> LinUcb:
    """A model that has learned, from a great deal, that answering is best everywhere."""
    model = LinUcb(RUNGS, len(FEATURES))
    for arm in range(len(RUNGS)):
        model.a[arm] += 1e4 * np.eye(len(FEATURES))
        model.tried[arm] = 10_000
    model.b[0] = 1e4
    return model


def understood(first: float, second: float, scope: float) -> Understanding:
    names = {"pay_bill": first, "change_plan": second}
    intents = tuple(IntentScore(name, confidence) for name, confidence in names.items() if confidence)
    return Understanding("…", intents, scope, scope, (), (), ())


LIMITS = Limits(answer=0.7, confirm=0.4, scope=0.5)


@pytest.mark.parametrize("people", [True, False])
def test_the_ladder_bounds_it(people: bool) -> None:
    bot = Bot(settings=Settings(name="test", policies=Policies(hand_over=people, max_clarifications=2)))
    policy = LivePolicy(Policy(MOST_EXPLORED, eager()))
    moved = set()
    for first, scope, asked in itertools.product((0.0, 0.1, 0.5, 0.95), (0.1, 0.9), (0, 1, 2)):
        for number in range(60):
            seen = understood(first, first / 3, scope)
            decision = decide(seen, bot, LIMITS, asked, policy, {"draw": number / 60, "web": 1.0})
            plain = decide(seen, bot, LIMITS, asked)
            if decision.rung != plain.rung:
                moved.add((plain.rung, decision.rung))
                assert scope > 0.5, "out of scope is the ladder's alone"
                assert asked < 2, "where patience is over it is handed over"
                assert decision.choice is not None
                assert decision.as_dict()["policy"]["arm"] == decision.rung  # type: ignore[index]
            if decision.rung == "answer":
                assert first >= LIMITS.confirm, "it answers only what the thresholds would at least ask about"
    assert ("confirm", "answer") in moved
    assert ("answer", "confirm") in moved
    assert people == any(after == "hand_over" for _, after in moved)
    assert not any(before == "ask_again" and after in ("answer", "confirm") for before, after in moved if first < 0.4)


def test_exploration_is_capped() -> None:
    with pytest.raises(BadInput, match="explore"):
        Policy(MOST_EXPLORED + 0.01)
    policy = Policy(0.1)
    allowed = ("answer", "confirm", "choose", "ask_again", "hand_over")
    context = context_of([0.7, 0.2], 0.9, 0.0, 1, 0, "web")
    choices = [policy.choose(context, "confirm", allowed, number / 4000) for number in range(4000)]
    changed = np.mean([choice.changed for choice in choices])
    assert changed == pytest.approx(0.08, abs=0.001), "a tenth is spread over five rungs, one of them the ladder's"
    by_arm = {rung: [c for c in choices if c.arm == rung] for rung in allowed}
    for found in by_arm.values():
        assert len(found) / 4000 == pytest.approx(found[0].propensity, abs=0.001), "as likely as it says"


def test_a_seldom_tried_rung_is_left_to_the_ladder() -> None:
    model = eager()
    model.tried[0] = LEAST_TRIED - 1
    context = context_of([0.99], 0.99, 0.0, 1, 0, "web")
    assert Policy(0.0, model).choose(context, "confirm", RUNGS, 0.5).arm != "answer"
    model.tried[0] = LEAST_TRIED
    assert Policy(0.0, model).choose(context, "confirm", RUNGS, 0.5).arm == "answer"


def test_variants_are_tried_evenly_until_one_is_known_to_be_better() -> None:
    context = context_of([0.9], 0.9, 0.0, 1, 0, "web")
    fresh = [Policy().variant(context, "ask_plan", 3, n / 900) for n in range(900)]
    assert all(choice.propensity == pytest.approx(1 / 3) for choice in fresh)
    assert np.bincount([int(choice.arm) for choice in fresh]) == pytest.approx([300] * 3, abs=1)
    model = LinUcb(("0", "1", "2"), len(FEATURES))
    x = np.array(context)
    for arm, reward in ((0, 0.2), (1, 0.9), (2, 0.5)):
        for _ in range(LEAST_TRIED):
            model.update(arm, x, reward)
    learned = Policy(0.06, variants={"ask_plan": model})
    taken = [learned.variant(context, "ask_plan", 3, n / 300).arm for n in range(300)]
    assert taken.count("1") == pytest.approx(288, abs=1)
    assert learned.variant(context, "ask_plan", 2, 0.1).propensity == 0.5, "the response has changed since"


# -- from conversations to a policy and back ---------------------------------------------------------------------------


def test_choices_come_from_conversations_with_what_they_cost(records: Records, tmp_path: Path) -> None:
    bot = make_bot(tmp_path / "clinic")
    settings = bot.settings.model_copy(update={"policies": Policies(bandit=True, max_clarifications=2)})
    bot = bot.model_copy(update={"settings": settings})
    path = tmp_path / "policy.json"
    Policy(MOST_EXPLORED).save(path)
    conversations = Conversations(Streams(records))
    entries = []
    for number in range(60):
        talk = Talk(bot, records, id=f"clinic/{number}", policy=LivePolicy.of(path))
        talk.say("주차장 얘긴데", ("parking", 0.55), ("price", 0.1))
        if talk.state.pending:
            talk.say("네")
        else:
            talk.say("상담원 연결해 주세요")
        turns = turns_of(conversations.events(talk.id), talk.id)
        entries += logged(turns, bot.settings.costs)
        assert turns[0].decided[0]["policy"]["arm"] == turns[0].decided[0]["rung"]
    entries = [entry for entry in entries if entry["ladder"] == "confirm"]  # others: what was asked afterwards
    assert len(entries) == 60
    assert {entry["arm"] for entry in entries} >= {"answer", "confirm"}
    worst = worst_cost(bot.settings.costs)
    for entry in entries:
        # an answer was regretted here (10), a question that was meant was affirmed (1)
        costs = round((1 - entry["reward"]) * worst, 6)
        if entry["arm"] in ("answer", "confirm"):
            assert costs == {"answer": 10.0, "confirm": 1.0}[entry["arm"]]
        assert entry["context"][FEATURES.index("confidence")] == 0.55
    logs = Logs.of(entries)
    assert len(logs) == 60
    assert logs.rewards.min() >= 0
    assert not judge(logs, explore=0.05).approved, "too few conversations"


def test_a_server_takes_up_a_new_policy_and_survives_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    live = LivePolicy.of(path)
    context = {"confidence": 0.99, "scope": 0.99, "margin": 0.9, "draw": 0.5}
    assert live.choose_rung(context, RUNGS, "confirm").rung == "confirm"
    Policy(0.0, eager()).save(path)
    assert live.choose_rung(context, RUNGS, "confirm").rung == "answer"
    path.write_text("{}")
    assert live.choose_rung(context, RUNGS, "confirm").rung == "confirm", "the ladder goes on"
    path.unlink()
    assert live.choose_rung(context, RUNGS, "confirm").rung == "confirm"


# -- on disk ----------------------------------------------------------------------------------------------------------


def test_a_policy_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    assert Policy.load(path).rungs is None
    world = World.of(500, 3)
    policy = Policy(0.07, learn(world.logs(3)), report={"gain": {"value": 0.1}})
    policy.save(path)
    loaded = Policy.load(path)
    assert loaded.explore == 0.07
    assert loaded.report == policy.report
    shares = [one.probabilities(world.contexts, world.ladder, world.allowed) for one in (policy, loaded)]
    assert np.array_equal(shares[0], shares[1])


def spoil(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        values = values[key]
    values[path[-1]] = value


@pytest.mark.parametrize(
    "change",
    [
        lambda v: spoil(v, ["schema"], 99),
        lambda v: spoil(v, ["features"], ["one"]),
        lambda v: spoil(v, ["explore"], 0.9),
        lambda v: spoil(v, ["rungs", "a"], [[[1.0]]]),
        lambda v: spoil(v, ["rungs", "b"], [["x"]]),
        lambda v: spoil(v, ["rungs", "a"], (-np.tile(np.eye(len(FEATURES)), (5, 1, 1))).tolist()),
        lambda v: spoil(v, ["rungs", "arms"], ["a", "b", "c", "d", "e"]),
        lambda v: v.pop("report"),
        lambda v: v["rungs"].pop("tried"),
    ],
)
def test_what_is_no_policy_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = tmp_path / "policy.json"
    values = Policy(0.05, learn(World.of(100, 3).logs(3))).as_dict()
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(BadInput):
        Policy.load(path)


def test_logs_are_checked() -> None:
    entry = {
        "arm": "confirm",
        "ladder": "confirm",
        "propensity": 0.9,
        "reward": 1.0,
        "allowed": ["confirm", "choose"],
        "context": [1.0] * len(FEATURES),
        "conversation": "c-1",
    }
    logs = Logs.of([entry, {**entry, "conversation": "c-2"}])
    assert logs.groups.tolist() == [0, 1]
    assert logs.allowed.sum() == 4
    for wrong in ({"arm": "sing"}, {"ladder": ""}, {"propensity": 0.0}):
        with pytest.raises(BadInput, match="logged choice"):
            Logs.of([{**entry, **wrong}])
