"""Handing over: the request for a person, with what they need to know, and what the customer is told meanwhile."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from solutions.contact_center.config import Hours

if TYPE_CHECKING:
    from solutions.contact_center.dialogue.turn import Turn

_DAYS_AHEAD = 60
"""How far ahead an opening is looked for."""


def hand_over(turn: Turn, reason: str) -> None:
    """Ask for a person. In office hours the bot falls silent; outside of them it says when somebody will look at it.

    Args:
        reason: `asked`, `not_understood`, `attempts`, `insult`, `stuck`, or what a flow's step says.
    """
    turn.take("hand_over")
    if not turn.bot.settings.policies.hand_over:
        turn.say("no_agents", topics=topics(turn))
        return
    hours = turn.bot.settings.hours
    is_open = hours is None or hours.open_at(turn.now)
    ahead = turn.kit.ahead(turn.state.conversation) if is_open else 0
    turn.emit("hand_over", reason=reason, summary=summary(turn), open=is_open, position=ahead + 1 if is_open else 0)
    if is_open:
        turn.say("hand_over")
        turn.say("hand_over_position", position=str(ahead + 1))
    else:
        opening = next_opening(hours, turn.now) if hours is not None else None
        turn.say("hand_over_closed", opens=_spoken(opening, turn.language))


def summary(turn: Turn) -> dict[str, Any]:
    """What a person should know at a glance: the flow under way and its slots as they may be shown."""
    state = turn.state
    frames = [
        {
            "flow": frame.flow,
            "title": turn.bot.title_of(frame.flow, turn.language),
            "slots": {name: str(slot.get("shown", "")) for name, slot in frame.slots.items()},
        }
        for frame in state.stack
    ]
    known = {name: str(slot.get("shown", "")) for name, slot in state.memory.items()}
    return {"flows": frames, "known": known, "language": turn.language, "channel": state.channel, "turns": state.turn}


def topics(turn: Turn, limit: int = 4) -> str:
    """Some of what the bot can do, named for the customer: flows first, in the order of the folder."""
    reserved = ("chitchat", "oos")
    titles: list[str] = []
    for name, intent in turn.bot.intents.items():
        given = intent.title.get(turn.language)
        if given and name not in reserved and turn.bot.flow_of(name) is not None and given not in titles:
            titles.append(given)
    for flow in turn.bot.flows.values():
        given = flow.title.get(turn.language)
        if given and given not in titles:
            titles.append(given)
    return ", ".join(titles[:limit])


def next_opening(hours: Hours, now: dt.datetime) -> dt.datetime | None:
    """When people are there next, in the zone of `now`; None where they never are."""
    for days in range(_DAYS_AHEAD):
        day = now + dt.timedelta(days=days)
        for clock in sorted(span.partition("-")[0] for span in _spans(hours, day)):
            hour, minute = (int(part) for part in clock.split(":"))
            opening = day.replace(hour=hour, minute=minute, second=0, microsecond=0)
            if opening > now and hours.open_at(opening):
                return opening
    return None


def _spans(hours: Hours, day: dt.datetime) -> list[str]:
    names = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    found: list[str] = getattr(hours, names[day.weekday()])
    return found


def _spoken(moment: dt.datetime | None, language: str) -> str:
    if moment is None:
        return ""
    if language == "ko":
        return f"{moment.month}월 {moment.day}일({'월화수목금토일'[moment.weekday()]}) {moment:%H:%M}"
    return f"{moment:%H:%M} on {moment:%A} {moment.day} {moment:%B}"
