"""A message while a flow waits: an answer, a correction, a digression, or a word to the bot itself.

The answer to the question is tried first. What is plainly something else (a pattern word for word, a confident other
wish) is taken as that, and the flow goes on afterwards with its question put once more.
"""

from __future__ import annotations

from solutions.contact_center.config import WHOLE_TEXT, CollectStep, ConfirmStep
from solutions.contact_center.dialogue import corrections, flows, patience, wishes
from solutions.contact_center.dialogue.patterns import squeezed
from solutions.contact_center.dialogue.slots import Candidate, Refusal
from solutions.contact_center.dialogue.turn import Turn

_WHOLE = 0.6
"""An answer that is this much of the message's letters is the answer, whatever else it resembles."""


def answer(turn: Turn) -> None:
    """Take the message as what it is in the flow that waits."""
    word = patience.reserved(turn)
    if turn.state.pending.get("kind") == "change":
        _to_change(turn, word)
    elif isinstance(turn.step, ConfirmStep):
        _to_confirmation(turn, turn.step, word)
    elif isinstance(turn.step, CollectStep):
        _to_question(turn, turn.step, word)
    else:  # nothing was asked: the flow was interrupted between two steps
        flows.run(turn)


# --- a question -------------------------------------------------------------------------------------------------------


def _to_question(turn: Turn, step: CollectStep, word: str | None) -> None:
    found = turn.kit.answers.read(step, turn.message.text, turn.language, turn.now)
    is_whole = found is not None and step.kind != WHOLE_TEXT and found.coverage >= _WHOLE
    if word == "skip" and not is_whole:
        _skip(turn, step)
        return
    if word is not None and not (is_whole and word not in ("cancel", "agent")) and patience.inside_flow(turn, word):
        return
    if step.kind != WHOLE_TEXT:
        correction = _correction(turn, step, found)
        if correction is not None:
            _correct(turn, correction)
            return
    is_free_text = step.kind == WHOLE_TEXT
    if found is not None and not (
        wishes.is_question_itself(turn) if is_free_text else found.coverage < _WHOLE and wishes.is_confident_other(turn)
    ):
        _take(turn, step, found)
        return
    if wishes.digress(turn):
        return
    implicit = corrections.find(turn, mark_needed=False) if found is None and not is_free_text else None
    if implicit is not None and implicit.value is not None:
        _correct(turn, implicit)
        return
    _refuse(turn, step, None)


def _correction(turn: Turn, step: CollectStep, found: Candidate | None) -> corrections.Correction | None:
    """A correction of an earlier slot; not where the value is of the kind that was asked for and no slot is named."""
    correction = corrections.find(turn, mark_needed=True)
    if correction is None or found is None or correction.value is None:
        return correction
    same = correction.step.kind == step.kind or correction.value.surface == found.surface
    plain_answer = same and not corrections.contrasts(turn, correction)
    return None if plain_answer else correction


def _take(turn: Turn, step: CollectStep, found: Candidate) -> None:
    turn.emit("decided", rung="answer", kind="slot", name=step.collect, confidence=1.0)
    turn.take("answer")
    refusal = flows.put(turn, step, found, "answer")
    if refusal is not None:
        _refuse(turn, step, refusal)
        return
    rest = [one for one in _others(turn) if one.surface not in found.surface and found.surface not in one.surface]
    for refusal in flows.fill(turn, rest, "volunteered"):
        turn.explain(refusal)
    flows.run(turn)


def _others(turn: Turn) -> list[Candidate]:
    return turn.kit.answers.extract(turn.message.text, turn.language, turn.now)


def _refuse(turn: Turn, step: CollectStep, refusal: Refusal | None) -> None:
    """Say why, help, and ask again; a person after too many attempts."""
    turn.emit("slot_refused", flow=turn.frame.flow, slot=step.collect, reason=refusal.response if refusal else "kind")
    turn.take("ask_again")
    if turn.frame.attempts[step.collect] >= turn.bot.settings.policies.max_attempts:
        flows.stuck(turn, "attempts")
        return
    if refusal is not None:
        turn.explain(refusal)
    else:
        turn.say("refused_kind", title=turn.kit.answers.title(step, turn.language))
    if step.help is not None:
        turn.say(step.help, title=turn.kit.answers.title(step, turn.language))
    flows.ask(turn, step)


def _skip(turn: Turn, step: CollectStep) -> None:
    if step.optional:
        turn.emit("slot_set", flow=turn.frame.flow, slot=step.collect, shown="", source="skipped")
        turn.take("answer")
        flows.run(turn)
    else:
        turn.say("cannot_skip")
        flows.ask(turn, step)


# --- a confirmation ---------------------------------------------------------------------------------------------------


def _to_confirmation(turn: Turn, step: ConfirmStep, word: str | None) -> None:
    correction = corrections.find(turn, mark_needed=word != "deny") if step.correct else None
    bare = word is not None and (correction is None or correction.value is None)
    if word == "affirm" and bare:
        turn.emit("decided", rung="answer", kind="pattern", name="affirm", confidence=1.0)
        turn.take("answer")
        turn.emit("moved", flow=turn.frame.flow, step=turn.frame.step + 1)
        flows.run(turn)
    elif correction is not None and not _is_plain_word(turn):
        _correct(turn, correction)
    elif word in ("deny", "correct"):
        turn.take("answer")
        if step.correct:
            _ask_change(turn)
        else:
            patience.cancel(turn)
    elif (word is not None and patience.inside_flow(turn, word)) or wishes.digress(turn):
        return
    else:
        implicit = corrections.find(turn, mark_needed=False) if step.correct else None
        if implicit is not None and implicit.value is not None:
            _correct(turn, implicit)
        else:
            _refuse_confirmation(turn, step)


def _refuse_confirmation(turn: Turn, step: ConfirmStep) -> None:
    turn.emit("slot_refused", flow=turn.frame.flow, slot=flows.CONFIRMATION, reason="yes_or_no")
    turn.take("ask_again")
    if turn.frame.attempts[flows.CONFIRMATION] >= turn.bot.settings.policies.max_attempts:
        flows.stuck(turn, "attempts")
        return
    turn.say("yes_or_no", buttons=flows.yes_no(turn))
    flows.ask_confirmation(turn, step)


# --- a change ---------------------------------------------------------------------------------------------------------


def _ask_change(turn: Turn) -> None:
    titles = [
        turn.kit.answers.title(step, turn.language)
        for name, step in turn.flow.slots().items()
        if name in turn.frame.slots
    ]
    if not titles:
        patience.cancel(turn)
        return
    turn.emit("change_asked", flow=turn.frame.flow)
    turn.say("ask_change", choices=", ".join(titles), buttons=wishes.titled(titles))


def _to_change(turn: Turn, word: str | None) -> None:
    correction = corrections.find(turn, mark_needed=False)
    if correction is not None and not _is_plain_word(turn):
        _correct(turn, correction)
    elif word in ("deny", "affirm"):
        flows.ask_once_more(turn)
    elif word == "correct" or not ((word is not None and patience.inside_flow(turn, word)) or wishes.digress(turn)):
        turn.emit("slot_refused", flow=turn.frame.flow, slot=flows.CONFIRMATION, reason="change")
        turn.take("ask_again")
        if turn.frame.attempts[flows.CONFIRMATION] >= turn.bot.settings.policies.max_attempts:
            flows.stuck(turn, "attempts")
        else:
            _ask_change(turn)


def _is_plain_word(turn: Turn) -> bool:
    """Whether the message can be nothing but a word to the bot: what is only understood as one may name a slot."""
    return patience.word_for_word(turn) in ("cancel", "agent", "insult", "goodbye")


def _correct(turn: Turn, correction: corrections.Correction) -> None:
    """Change an earlier slot and walk again from there."""
    step = correction.step
    turn.emit("decided", rung="answer", kind="correction", name=step.collect, confidence=1.0)
    turn.take("answer")
    title = turn.kit.answers.title(step, turn.language)
    if correction.value is None:
        turn.emit("slot_cleared", flow=turn.frame.flow, slot=step.collect)
        flows.rewind(turn, step.collect)
        flows.run(turn)
        return
    refusal = flows.put(turn, step, correction.value, "corrected")
    if refusal is not None:
        turn.explain(refusal)
        flows.ask_once_more(turn)
        return
    turn.say("changed", title=title, value=turn.shown()[step.collect])
    rest = [one for one in _others(turn) if squeezed(one.surface) not in squeezed(correction.value.surface)]
    for refused in flows.fill(turn, rest, "volunteered"):
        turn.explain(refused)
    flows.rewind(turn, step.collect)
    flows.run(turn)
