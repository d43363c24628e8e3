"""Figures of stored conversations: every one is counted by hand here as well."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from shared.records import Records
from shared.streams import Streams
from solutions.contact_center import analytics as module
from solutions.contact_center.analytics import Analytics, Tally
from solutions.contact_center.config import Bot
from solutions.contact_center.dialogue.events import Event, iso
from tests.solutions.contact_center.talking import MONDAY, Talk

NOW = MONDAY + dt.timedelta(hours=1)


def conversations(bot: Bot, records: Records) -> dict[str, Talk]:
    """Five: an order that ends well, one that is left at a question, one cancelled, one handed over, one not
    understood."""
    talks = {name: Talk(bot, records, id=f"clinic/{name}") for name in ("done", "left", "cancelled", "asked", "lost")}
    done = talks["done"]
    done.say("주문할게요", "order")
    done.say("작은 거")
    done.say("네")
    left = talks["left"]
    left.say("주문할게요", "order")
    left.say("큰 거")
    left.say("아주 많이요")  # no number
    cancelled = talks["cancelled"]
    cancelled.say("주문할게요", "order")
    cancelled.say("취소")
    talks["asked"].say("주차 되나요", "parking")
    talks["asked"].say("상담원 연결해 주세요")
    for text in ("쿠폰 적용이 안 돼요", "쿠폰이 적용이 안 돼요", "쿠폰 적용 안 되는데요"):
        talks["lost"].say(text, ("parking", 0.2))
    return talks


def report(bot: Bot, records: Records, **options: Any) -> dict[str, Any]:
    analytics = Analytics(Streams(records), bot)
    analytics.refresh()
    return analytics.report(now=options.pop("now", NOW), **options)


def test_every_figure(clinic: Bot, records: Records) -> None:
    conversations(clinic, records)
    found = report(clinic, records)
    assert found["conversations"] == 5
    assert found["messages"] == 13
    assert found["turns_per_conversation"] == 2.6
    assert found["handed_over"] == 2
    assert found["containment"] == 0.6
    assert found["hand_over_reasons"] == {"asked": 1, "not_understood": 1}
    assert found["intents"] == {"order": 3, "parking": 1}
    assert 0 < found["answer_ms_p50"] <= found["answer_ms_p95"] < 5000
    assert found["rungs"]["hand_over"] == 2
    assert sum(found["rungs"].values()) == 13
    assert [day["name"] for day in found["by_day"]] == ["2026-03-02"]
    (topic,) = found["unknown_topics"]
    assert topic["count"] == 3
    assert "쿠폰" in topic["name"]


def test_drop_off_by_step(clinic: Bot, records: Records) -> None:
    conversations(clinic, records)
    (flow,) = report(clinic, records)["flows"]
    assert (flow["flow"], flow["started"], flow["ended"]) == ("order", 3, {"completed": 1, "cancelled": 1})
    steps = {step.pop("step"): step for step in flow["steps"]}
    # three came to the size; one cancelled there. Of the two others one was confirmed, one waits for a number.
    assert steps["size"] == {"entered": 3, "passed": 2, "refused": 0, "waiting": 0, "dropped": 1}
    assert steps["?confirm"] == {"entered": 1, "passed": 1, "refused": 0, "waiting": 0, "dropped": 0}
    # Whether a conversation that stands still has been left is a matter of time.
    assert steps["count"]["dropped"] + steps["count"]["waiting"] == 1
    soon = report(clinic, records, now=MONDAY + dt.timedelta(minutes=5))["flows"][0]["steps"]
    late = report(clinic, records, now=MONDAY + dt.timedelta(hours=5))["flows"][0]["steps"]
    waits, dropped = (next(step for step in steps if step["step"] == "count") for steps in (soon, late))
    assert (waits["waiting"], waits["dropped"], waits["refused"]) == (1, 0, 1)
    assert (dropped["waiting"], dropped["dropped"]) == (0, 1)


def test_a_correction_counts_no_step_twice(clinic: Bot, records: Records) -> None:
    talk = Talk(clinic, records, id="clinic/c")
    talk.say("주문할게요", "order")
    talk.say("작은 거")
    talk.say("아니요")
    talk.say("크기")
    talk.say("큰 거")
    talk.say("세 개")
    talk.say("네")
    (flow,) = report(clinic, records)["flows"]
    assert flow["ended"] == {"completed": 1}
    for step in flow["steps"]:
        assert (step["entered"], step["passed"], step["dropped"]) == (1, 1, 0), step


def test_only_what_is_new_is_counted(clinic: Bot, records: Records) -> None:
    analytics = Analytics(Streams(records), clinic)
    assert analytics.refresh() == 0
    talks = conversations(clinic, records)
    assert analytics.refresh() > 0
    assert analytics.refresh() == 0
    talks["done"].say("고마워요")
    assert analytics.refresh() > 0
    found = analytics.report(now=NOW)
    assert (found["conversations"], found["messages"]) == (5, 14)
    whole = report(clinic, records)
    assert found == whole, "step by step or at once"


def test_by_day_channel_and_language(clinic: Bot, records: Records) -> None:
    conversations(clinic, records)
    english = Talk(clinic, records, language="en", id="clinic/e")
    english.time += dt.timedelta(days=1, hours=14)  # the day after in Seoul, and past midnight
    english.say("where do I park", "parking")
    later = NOW + dt.timedelta(days=3)
    found = report(clinic, records, now=later)
    assert [(day["name"], day["conversations"]) for day in found["by_day"]] == [("2026-03-02", 5), ("2026-03-04", 1)]
    assert {one["name"]: one["containment"] for one in found["by_language"]} == {"ko": 0.6, "en": 1.0}
    assert report(clinic, records, now=later, language="en")["conversations"] == 1
    assert report(clinic, records, now=later, channel="kakao")["containment"] is None
    assert report(clinic, records, now=later, days=2)["conversations"] == 1


def test_other_bots_of_the_same_server_are_left_out(clinic: Bot, records: Records) -> None:
    Talk(clinic, records, id="bank/c").say("주문할게요", "order")
    Talk(clinic, records, id="alone").say("주문할게요", "order")
    assert report(clinic, records)["conversations"] == 1


def test_a_thumb_that_turns_is_counted_once(clinic: Bot, records: Records) -> None:
    talk = Talk(clinic, records, id="clinic/c")
    talk.say("주차 되나요", "parking")
    for value in ("up", "down"):
        data = {"message": "m1", "value": value, "note": "", "who": "customer"}
        talk.pipeline.conversations.change("clinic/c", lambda _, data=data: [Event("feedback", data, iso(NOW))])
    assert report(clinic, records)["feedback"] == {"down": 1, "up": 0}


def test_what_is_deleted_is_no_topic(clinic: Bot, records: Records) -> None:
    talk = Talk(clinic, records, id="clinic/c")
    talk.say("쿠폰이 안 돼요", ("parking", 0.2), customer="kim")
    analytics = Analytics(Streams(records), clinic)
    analytics.refresh()
    assert len(analytics.report(now=NOW)["unknown_topics"]) == 1
    talk.pipeline.forget("kim", "test")
    assert analytics.report(now=NOW)["unknown_topics"] == []


def test_memory_is_bounded(clinic: Bot, records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_OPEN", 5)
    monkeypatch.setattr(module, "PAGE", 7)
    analytics = Analytics(Streams(records), clinic)
    for number in range(20):
        Talk(clinic, records, id=f"clinic/{number}").say("주문할게요", "order")
    analytics.refresh()
    assert analytics.report(now=NOW)["conversations"] == 20
    assert len(analytics._open) == 5


def test_quantiles_are_within_six_percent() -> None:
    from bisect import bisect_left

    tally = Tally()
    values = [0.3 * 1.01**step for step in range(1000)]
    for value in values:
        tally.times[bisect_left(module._EDGES, value)] += 1
    for share in (0.05, 0.5, 0.95):
        found = tally.quantile(share)
        assert found is not None
        assert found == pytest.approx(values[int(share * 1000)], rel=0.13)
    assert Tally().quantile(0.5) is None
