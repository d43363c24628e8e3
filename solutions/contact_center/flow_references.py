"""Whether a flow can be walked: its names lead somewhere, every step is reached, and no way goes round for ever."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from shared.yaml_files import did_you_mean
from solutions.contact_center.flow_models import (
    ActStep,
    BranchStep,
    CollectStep,
    ConfirmStep,
    EndStep,
    FlowConfig,
    GotoStep,
    HandOverStep,
    SayStep,
    Step,
)

if TYPE_CHECKING:
    from solutions.contact_center.folder import Source

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_Place = tuple[str | int, ...]


def check_flow(source: Source, name: str, flow: FlowConfig) -> None:
    """Note what is wrong with one flow."""
    from solutions.contact_center.references import check_languages

    check_languages(source, "flows", name, "title", flow.title, required=False)
    slots = flow.all_slots()
    for index, slot in enumerate(flow.personal):
        if slot not in slots:
            source.note(
                "flows", name, ("personal", index), f"{slot} is no slot of the flow; {did_you_mean(slot, slots)}"
            )
    for index, step in enumerate(flow.steps):
        for path, what in _wrong_names(source, flow, step):
            source.note("flows", name, ("steps", index, *path), what)
        for path, what in _wrong_slots(source, slots, step):
            source.note("flows", name, ("steps", index, *path), what)
    _check_ways(source, name, flow)


def _wrong_names(source: Source, flow: FlowConfig, step: Step) -> list[tuple[_Place, str]]:
    """Responses, entities, actions and labels that are not there, and where they are named."""
    from solutions.contact_center.references import known_entities, known_responses

    responses, labels = known_responses(source), flow.labels()
    wanted: list[tuple[_Place, str | None, str, set[str]]] = []
    if isinstance(step, CollectStep):
        wanted = [
            (("entity",) if step.entity else ("collect",), step.kind, "entity", known_entities(source) | {"text"}),
            (("ask",) if step.ask else ("collect",), _question(source, step), "response", responses),
            (("help",), step.help, "response", responses),
        ]
    elif isinstance(step, SayStep):
        wanted = [(("say",), step.say, "response", responses)]
    elif isinstance(step, ConfirmStep):
        wanted = [(("confirm",), step.confirm, "response", responses)]
    elif isinstance(step, ActStep):
        wanted = [
            (("act",), step.act, "action", set(source.written["actions"])),
            (("failed",), step.failed, "response", responses),
            (("otherwise",), step.otherwise, "label", set(labels)),
        ]
    elif isinstance(step, GotoStep):
        wanted = [(("goto",), step.goto, "label", set(labels))]
    elif isinstance(step, BranchStep):
        wanted = [(("branch", at, "goto"), case.goto, "label", set(labels)) for at, case in enumerate(step.branch)]
    found = []
    for path, name, kind, known in wanted:
        if name is not None and name not in known:
            implied = "" if len(path) > 1 or path[0] != "collect" else f"; or name the slot's {kind} otherwise"
            found.append((path, f"{name} is no {kind}{_of(kind)}; {did_you_mean(name, known)}{implied}"))
    return found


def _question(source: Source, step: CollectStep) -> str | None:
    """The response that asks; None where none is written and a title serves: "Please tell me: TITLE"."""
    entity = source.items["entities"].get(step.kind)
    titled = step.title or (entity is not None and entity.title)
    return None if titled and step.ask is None else step.question


def _of(kind: str) -> str:
    return " of this flow" if kind == "label" else ""


def _wrong_slots(source: Source, slots: set[str], step: Step) -> list[tuple[_Place, str]]:
    """Slots that the flow never fills."""
    used: list[tuple[_Place, str]] = []
    if isinstance(step, BranchStep):
        used = [(("branch", at, "when", "slot"), case.when.slot) for at, case in enumerate(step.branch) if case.when]
    elif isinstance(step, ActStep):
        used = [
            (("arguments", argument), slot)
            for argument, value in step.arguments.items()
            if isinstance(value, str)
            for slot in _PLACEHOLDER.findall(value)
        ]
    for key in ("ask", "help", "say", "confirm", "failed"):
        named = step.question if key == "ask" and isinstance(step, CollectStep) else getattr(step, key, None)
        response = source.items["responses"].get(named) if isinstance(named, str) else None
        if response is not None:
            used += [((key,), slot) for slot in _placeholders_of(response, source)]
    return [
        (path, f"{slot} is no slot of this flow; {did_you_mean(slot, slots)}")
        for path, slot in used
        if slot not in slots
    ]


def _placeholders_of(response: object, source: Source) -> list[str]:
    """The slots of other flows that a response speaks of; those that no flow has are said at the response itself."""
    from solutions.contact_center.flow_models import ResponseConfig
    from solutions.contact_center.references import provided_responses, texts_of

    assert isinstance(response, ResponseConfig)
    everywhere = {slot for flow in source.items["flows"].values() for slot in flow.all_slots()}
    provided = provided_responses().get(response.response, frozenset())
    found = {slot for _, text in texts_of(response) for slot in _PLACEHOLDER.findall(text)}
    return sorted((found & everywhere) - provided)


# --- ways -------------------------------------------------------------------------------------------------------------


def _next(flow: FlowConfig, index: int) -> list[int]:
    """The steps that may come after one; the number of steps stands for the flow's end."""
    step, labels = flow.steps[index], flow.labels()
    after = index + 1
    if isinstance(step, EndStep | HandOverStep):
        return []
    if isinstance(step, GotoStep):
        return [labels[step.goto]] if step.goto in labels else []
    if isinstance(step, BranchStep):
        ways = [labels[case.goto] for case in step.branch if case.goto in labels]
        return ways if step.branch[-1].otherwise else [*ways, after]
    if isinstance(step, ActStep) and step.otherwise in labels:
        return [labels[step.otherwise], after]
    return [after]


def _check_ways(source: Source, name: str, flow: FlowConfig) -> None:
    seen: dict[str, int] = {}
    for index, step in enumerate(flow.steps):
        if step.label is not None and seen.setdefault(step.label, index) != index:
            what = f"{step.label} is the label of step {seen[step.label] + 1} already; choose another"
            source.note("flows", name, ("steps", index, "label"), what)
    unknown_ways = any(target not in flow.labels() for target in _targets(flow))
    reached, left = set[int](), [0]
    while left:
        index = left.pop()
        if index not in reached and index < len(flow.steps):
            reached.add(index)
            left += _next(flow, index)
    for index, step in enumerate(flow.steps):
        if index not in reached and (index - 1 in reached or step.label is not None) and not unknown_ways:
            what = "is never reached; lead to it with `goto`, or remove it"
            source.note("flows", name, ("steps", index), what)
    _check_circles(source, name, flow)


def _targets(flow: FlowConfig) -> list[str]:
    found: list[str] = []
    for step in flow.steps:
        if isinstance(step, GotoStep):
            found.append(step.goto)
        elif isinstance(step, BranchStep):
            found += [case.goto for case in step.branch]
        elif isinstance(step, ActStep) and step.otherwise is not None:
            found.append(step.otherwise)
    return found


def _check_circles(source: Source, name: str, flow: FlowConfig) -> None:
    """A way back that passes no question would be walked for ever."""
    for start, step in enumerate(flow.steps):
        if not isinstance(step, GotoStep | BranchStep):
            continue
        seen, left = set[int](), _next(flow, start)
        while left:
            index = left.pop()
            if index == start:
                what = "leads back to itself without a question on the way; collect or confirm something in between"
                source.note("flows", name, ("steps", start), what)
                break
            waits = index < len(flow.steps) and isinstance(flow.steps[index], CollectStep | ConfirmStep)
            if index in seen or index >= len(flow.steps) or waits:
                continue
            seen.add(index)
            left += _next(flow, index)
