"""Running a flow: step after step until it needs an answer, ends, or hands over.

The flow stands at the step that waits. When an answer has filled the slot, `run` goes on. After a correction the flow
goes back to the slot that changed and walks again, so that branches are taken anew and actions whose arguments changed
are done anew; what would only be said or done the same again is passed over.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from solutions.contact_center.config import (
    WHOLE_TEXT,
    ActStep,
    BranchStep,
    CollectStep,
    Condition,
    ConfirmStep,
    EndStep,
    GotoStep,
    HandOverStep,
    SayStep,
    SetStep,
)
from solutions.contact_center.dialogue import patterns
from solutions.contact_center.dialogue.actions import ActionResult
from solutions.contact_center.dialogue.events import Button, to_json
from solutions.contact_center.dialogue.handing import hand_over
from solutions.contact_center.dialogue.slots import Candidate, Refusal, number_of
from solutions.contact_center.dialogue.turn import Turn
from solutions.contact_center.masking import mask

MAX_STEPS = 100
"""Steps in one turn; a sound flow needs a tenth, so this is a circle."""
MAX_STACK = 5
"""Flows begun inside of one another."""
_WHOLE_SLOT = re.compile(r"\{([^\W\d]\w*)\}")
CONFIRMATION = "?confirm"
"""Under this name the attempts to understand a yes or no are counted; no slot can be called so."""


def start(turn: Turn, flow: str, entities: Iterable[Candidate], *, queued: bool = False) -> None:
    """Begin a flow above the running one, with what was said already, and run it."""
    turn.emit("flow_started", flow=flow, queued=queued)
    refusals = fill(turn, entities, "volunteered")
    for refusal in refusals:
        turn.explain(refusal)
    run(turn)


def fill(turn: Turn, entities: Iterable[Candidate], source: str) -> list[Refusal]:
    """Put entities into the slots that are still empty and take their kind, each only where it is plain which."""
    found = list(entities)
    open_slots = [step for name, step in turn.flow.slots().items() if name not in turn.frame.slots]
    refusals: list[Refusal] = []
    for kind in {step.kind for step in open_slots if step.kind != WHOLE_TEXT}:
        wanting = [step for step in open_slots if step.kind == kind]
        given = _different(turn.kit.answers.fitting(found, kind))
        if not given or len(given) > len(wanting):
            continue  # nothing, or more than there is room for: asking is safer than guessing
        for step, candidate in zip(wanting, given, strict=False):
            refusal = put(turn, step, candidate, source)
            if refusal is not None:
                refusals.append(refusal)
    return refusals


def _different(candidates: Iterable[Candidate]) -> list[Candidate]:
    kept: dict[str, Candidate] = {}
    for candidate in candidates:
        kept.setdefault(to_json(candidate.value), candidate)
    return list(kept.values())


def put(turn: Turn, step: CollectStep, candidate: Candidate, source: str) -> Refusal | None:
    """Set a slot if the value holds; else the reason."""
    values = turn.values()
    refusal = turn.kit.answers.check(step, candidate, values, turn.language, turn.now)
    personal = turn.personal(step.collect, step.kind) or turn.kit.answers.is_personal(candidate)
    shown = turn.kit.answers.shown(candidate, personal=personal)
    if personal:
        turn.hide(candidate.surface, shown)
        turn.hide(candidate.shown, shown)
    if refusal is not None:
        masked = {**refusal.values, "value": shown} if "value" in refusal.values else refusal.values
        return Refusal(refusal.response, masked)
    kept = {"sealed": turn.seal(candidate.value)} if personal else {"value": _stored(candidate, step)}
    turn.emit("slot_set", flow=turn.frame.flow, slot=step.collect, shown=shown, source=source, **kept)
    return None


def _stored(candidate: Candidate, step: CollectStep) -> Any:
    """A whole message may hold what nobody expected there: it is kept masked."""
    return mask(candidate.value).text if step.kind == WHOLE_TEXT else candidate.value


def run(turn: Turn) -> None:
    """Go on with the running flow until it waits for an answer or is over, then with the one below it."""
    for _ in range(MAX_STEPS):
        if turn.state.frame is None:
            _next_wish(turn)
            return
        if turn.state.mode != "bot" or _one(turn):
            return
    stuck(turn, "stuck")


def _one(turn: Turn) -> bool:
    """One step; True where the bot now waits for an answer."""
    step = turn.step
    if step is None or isinstance(step, EndStep):
        finish(turn, "completed")
        return turn.state.frame is not None  # what lies below has been asked again by `finish`
    if isinstance(step, CollectStep):
        if step.collect in turn.frame.slots:
            _go(turn, turn.frame.step + 1)
            return False
        ask(turn, step)
        return True
    if isinstance(step, ConfirmStep):
        ask_confirmation(turn, step)
        return True
    if isinstance(step, ActStep):
        return _act(turn, step)
    if isinstance(step, HandOverStep):
        hand_over(turn, step.hand_over)
        if turn.state.frame is not None:
            finish(turn, "handed_over")
        return True
    _simple(turn, step)
    return False


def _simple(turn: Turn, step: Any) -> None:
    """Steps that neither wait nor fail."""
    at = turn.frame.step
    if isinstance(step, SayStep):
        shown = _fingerprint(turn.kit.wording.say(step.say, turn.language, "", turn.shown(), lambda *_: 0).text)
        if turn.frame.until < 0 or turn.frame.done.get(str(at)) != shown:
            turn.say(step.say)
        _go(turn, at + 1, done=shown)
    elif isinstance(step, SetStep):
        for slot, value in step.set.items():
            if value is None:
                turn.emit("slot_cleared", flow=turn.frame.flow, slot=slot)
            else:
                turn.emit("slot_set", flow=turn.frame.flow, slot=slot, value=value, shown=str(value), source="set")
        _go(turn, at + 1)
    elif isinstance(step, GotoStep):
        _go(turn, turn.flow.labels()[step.goto])
    elif isinstance(step, BranchStep):
        taken = next((case for case in step.branch if case.when is None or _holds(turn, case.when)), None)
        _go(turn, turn.flow.labels()[taken.goto] if taken else at + 1)


def _go(turn: Turn, step: int, **more: Any) -> None:
    turn.emit("moved", flow=turn.frame.flow, step=step, **more)


def rewind(turn: Turn, slot: str) -> None:
    """Walk again from the step that collects a slot, as far as the flow had come."""
    steps = turn.flow.steps
    at = turn.frame.step
    to = next((i for i, step in enumerate(steps) if isinstance(step, CollectStep) and step.collect == slot), at)
    if to < at:
        turn.emit("moved", flow=turn.frame.flow, step=to, until=max(at, turn.frame.until))


# --- asking -----------------------------------------------------------------------------------------------------------


def ask(turn: Turn, step: CollectStep) -> None:
    """Ask for a slot."""
    turn.emit("slot_asked", flow=turn.frame.flow, slot=step.collect, attempt=turn.frame.attempts.get(step.collect, 0))
    title = turn.kit.answers.title(step, turn.language)
    known = turn.kit.wording.has(step.question)
    turn.say(step.question if known else "ask_default", title=title)


def ask_confirmation(turn: Turn, step: ConfirmStep) -> None:
    """Ask yes or no, with buttons for both where the response has none of its own."""
    turn.emit("confirm_asked", flow=turn.frame.flow, step=turn.frame.step)
    own = turn.kit.wording.buttons(step.confirm, turn.language, turn.shown())
    turn.say(step.confirm, buttons=own or yes_no(turn))


def yes_no(turn: Turn) -> tuple[Button, ...]:
    """Buttons for yes and no."""
    return patterns.load(turn.language).buttons["did_you_mean"]


def ask_once_more(turn: Turn) -> None:
    """Put the question that is open once again, after something else was said."""
    step = turn.step
    if isinstance(step, CollectStep):
        ask(turn, step)
    elif isinstance(step, ConfirmStep):
        ask_confirmation(turn, step)
    elif turn.state.frame is not None:
        run(turn)


# --- ending -----------------------------------------------------------------------------------------------------------


def finish(turn: Turn, reason: str) -> None:
    """End the running flow; the one below goes on, or a further wish of the same message begins."""
    turn.emit("flow_ended", flow=turn.frame.flow, reason=reason)
    if turn.state.mode != "bot":
        return
    if turn.state.frame is not None:
        turn.say("resume", title=turn.title(turn.frame.flow))
        ask_once_more(turn)
    else:
        _next_wish(turn)


def _next_wish(turn: Turn) -> None:
    if not turn.state.queue or turn.state.mode != "bot":
        return
    wish = turn.state.queue[0]
    turn.say("next_wish", title=turn.title(wish["intent"]))
    flow = turn.bot.flow_of(wish["intent"])
    assert flow is not None  # only intents with a flow are queued
    start(turn, flow.flow, unpacked(turn, wish["entities"]), queued=True)


def stuck(turn: Turn, reason: str) -> None:
    """The flow cannot be finished by the bot: a person takes it over, where there are any."""
    turn.say("stuck")
    hand_over(turn, reason)
    if turn.state.frame is not None and turn.state.mode == "bot":
        finish(turn, reason)


# --- entities that are kept for later ---------------------------------------------------------------------------------


def packed(turn: Turn, entities: Iterable[Candidate]) -> list[dict[str, Any]]:
    """Candidates as an event keeps them: personal ones sealed."""
    kept = []
    for one in entities:
        personal = turn.kit.answers.is_personal(one)
        shown = turn.kit.answers.shown(one, personal=personal)
        if personal:
            turn.hide(one.surface, shown)
            kept.append({"kind": one.kind, "sealed": turn.seal([one.value, one.shown, one.surface]), "shown": shown})
        else:
            kept.append({"kind": one.kind, "value": one.value, "shown": one.shown, "surface": one.surface})
    return kept


def unpacked(turn: Turn, kept: Iterable[Mapping[str, Any]]) -> list[Candidate]:
    """The reverse of `packed`."""
    found = []
    for one in kept:
        if "sealed" in one:
            value, shown, surface = turn.kit.vault.open(one["sealed"], turn.state.conversation)
        else:
            value, shown, surface = one["value"], one["shown"], one["surface"]
        found.append(Candidate(one["kind"], value, shown, surface))
    return found


# --- branching and acting ---------------------------------------------------------------------------------------------


def _holds(turn: Turn, condition: Condition) -> bool:
    value = turn.value(condition.slot)
    number = number_of(value)
    given = condition.model_fields_set
    checks = {
        "equals": lambda: _same(value, condition.equals),
        "not_": lambda: not _same(value, condition.not_),
        "in_": lambda: any(_same(value, one) for one in condition.in_ or ()),
        "set": lambda: (value is not None) == condition.set,
        "missing": lambda: (value is None) == condition.missing,
        "above": lambda: number is not None and condition.above is not None and number > condition.above,
        "below": lambda: number is not None and condition.below is not None and number < condition.below,
    }
    return all(check() for name, check in checks.items() if name in given)


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    return value == wanted or (value is not None and str(value) == str(wanted))


def _act(turn: Turn, step: ActStep) -> bool:
    """Run an action; True where it ended the flow and something else is being asked already."""
    at = turn.frame.step
    arguments = _arguments(turn, step)
    kept = {name: slot.get("sealed", slot.get("value")) for name, slot in turn.frame.slots.items()}
    used = {name: value for name, value in kept.items() if name not in step.save}
    fingerprint = _fingerprint([step.act, {**step.arguments} or used, used if step.arguments else {}])
    if turn.frame.until >= 0 and turn.frame.done.get(str(at)) == fingerprint:
        _go(turn, at + 1, done=fingerprint)
        return False
    context = turn.context()
    result = turn.kit.actions.run(turn.bot.actions[step.act], arguments, context)
    turn.emit(
        "action_done",
        action=step.act,
        flow=turn.frame.flow,
        step=at,
        ok=result.ok,
        status=result.status,
        error=mask(result.error).text[:500],
        attempts=result.attempts,
        latency_ms=result.latency_ms,
        key=context.key,
    )
    if result.ok:
        _save(turn, step, result)
        _go(turn, at + 1, done=fingerprint)
        return False
    turn.say(step.failed or "action_failed")
    if step.otherwise is not None:
        _go(turn, turn.flow.labels()[step.otherwise])
        return False
    finish(turn, "failed")
    return True


def _arguments(turn: Turn, step: ActStep) -> dict[str, Any]:
    values = turn.values()
    if not step.arguments:
        return values
    made: dict[str, Any] = {}
    for name, given in step.arguments.items():
        whole = _WHOLE_SLOT.fullmatch(given) if isinstance(given, str) else None
        if whole is not None:
            made[name] = values.get(whole[1])
        elif isinstance(given, str):
            made[name] = _WHOLE_SLOT.sub(lambda found: str(values.get(found[1], "")), given)
        else:
            made[name] = given
    return made


def _save(turn: Turn, step: ActStep, result: ActionResult) -> None:
    for slot, path in step.save.items():
        value: Any = result.result
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is None:
            turn.emit("slot_cleared", flow=turn.frame.flow, slot=slot)
            continue
        shown = str(value)
        if slot in turn.flow.personal:
            shown = turn.kit.answers.shown(Candidate("", value, shown, shown), personal=True)
            kept: dict[str, Any] = {"sealed": turn.seal(value)}
        else:
            kept = {"value": value}
        turn.emit("slot_set", flow=turn.frame.flow, slot=slot, shown=shown, source="action", **kept)


def _fingerprint(value: Any) -> str:
    return hashlib.sha256(to_json(value).encode("utf-8", "replace")).hexdigest()[:16]
