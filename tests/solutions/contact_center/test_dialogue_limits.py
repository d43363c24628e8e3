"""What a conversation cannot do without end: wait for people who are not there, or go round in circles."""

from __future__ import annotations

from pathlib import Path

from shared.records import Records
from tests.solutions.contact_center.talking import FILES, Talk, make_bot


def test_a_bot_without_people_hands_nothing_over(tmp_path: Path, records: Records) -> None:
    settings = FILES["bot.yaml"].replace("policies: {", "policies: {hand_over: false, ")
    talk = Talk(make_bot(tmp_path, bot=settings), records)
    reply = talk.say("상담원 연결해 주세요")
    assert not reply.handed_over
    assert talk.pipeline.handover.open() == []
    for _ in range(4):
        assert talk.say("흠", ("book", 0.1)).texts


def test_a_flow_that_goes_round_and_round_is_stopped(tmp_path: Path, records: Records) -> None:
    circle = """
- flow: order
  steps:
    - {label: again, collect: size}
    - {set: {count: 1}}
    - {branch: [{when: {slot: size, set: true}, goto: again}]}
"""
    flows = FILES["flows/all.yaml"].partition("- flow: order")[0] + circle
    talk = Talk(make_bot(tmp_path, flows__all=flows), records)
    talk.say("주문할게요", "order")
    assert talk.say("큰 거").handed_over
    assert talk.state.hand_over["reason"] == "stuck"
