"""A site from a truth file: its zones and lines, with every type that it is annotated for at default settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from shared.errors import BadInput
from shared.log import get_logger
from solutions.cctv.config import Camera, Detector, Evidence, Rule, RuleBase, Site
from solutions.cctv.evaluation import Truth

CAMERA = "clip"
_RULE: TypeAdapter[RuleBase] = TypeAdapter(Rule)
_IN_ZONES = ("intrusion", "loitering", "crowding", "working_alone", "queue", "removed_object", "ppe_missing")
"""Types that are about the zones of a truth file; all others about the whole picture."""
_NEED_ZONES = ("intrusion", "queue")
_ON_LINES = ("line_crossing", "tailgating")
_HEALTH = ("camera_frozen", "camera_covered", "camera_defocused", "camera_moved", "camera_dark")
_log = get_logger(__name__)


def site_of(truth: Truth, clip: Path, size: tuple[int, int], detector: str | None = None) -> Site:
    """The site of a clip.

    Args:
        size: width and height of the clip's pictures, which the truth's pixels are of where it names no size.
        detector: a package; None: the built-in one.

    Raises:
        BadInput: a zone, a line or a parameter is not what it should be.
    """
    width, height = truth.raw.get("size") or size
    zones = _places(truth.raw.get("zones"), "zones", width, height)
    lines = _places(truth.raw.get("lines"), "lines", width, height)
    settings = truth.raw.get("params") or {}
    if not isinstance(settings, Mapping):
        raise BadInput(f"params of the truth of {truth.clip} must be names and values, not {settings!r}.")
    raw: dict[str, Any] = {"source": str(clip), "zones": zones, "lines": lines}
    rules = [_rule(type_, zones, lines, settings) for type_ in truth.types]
    if any(type_ in _HEALTH for type_ in truth.types):
        rules.append({"type": "camera_health"})
    try:
        camera = Camera.model_validate(raw | {"rules": [rule for rule in rules if rule]})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"the truth of {truth.clip}: {where}: {first['msg']}.") from error
    return Site(
        detector=Detector(package=detector), evidence=Evidence(record=False), cameras={CAMERA: camera}, name="judged"
    )


def _places(raw: Any, what: str, width: float, height: float) -> dict[str, list[tuple[float, float]]]:
    if not isinstance(raw, Mapping | None):
        raise BadInput(f"{what} of a truth file must be names and points, not {raw!r}.")
    try:
        return {
            str(name): [(_within(x / width), _within(y / height)) for x, y in points]
            for name, points in (raw or {}).items()
        }
    except (TypeError, ValueError) as error:
        raise BadInput(f"{what} of a truth file must be lists of [x, y] in pixels ({error}).") from error


def _within(share: float) -> float:
    return min(max(float(share), 0.0), 1.0)


def _rule(
    type_: str, zones: Mapping[str, Any], lines: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The rule of a type as a dictionary; empty where there is none that could be switched on."""
    rule: dict[str, Any] = {"type": type_}
    if type_ in _HEALTH:
        return {}
    if type_ in _IN_ZONES and zones:
        rule["zones"] = list(zones)
    if type_ in _ON_LINES and lines:
        rule["lines"] = list(lines)
    if (type_ in _NEED_ZONES and not zones) or (type_ in _ON_LINES and not lines):
        return {}
    try:
        known = set(type(_RULE.validate_python(rule)).model_fields)
    except ValidationError as error:
        _log.warning("type_not_judged", type=type_, why=error.errors(include_url=False)[0]["msg"])
        return {}
    return rule | _parameters(type_, known, settings)


def _parameters(type_: str, known: set[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a truth's parameters that are this type's: `crowding_min_persons` is `min_persons` of crowding."""
    found = {}
    for name, value in settings.items():
        for prefix in (type_, type_.partition("_")[0]):
            field = name.removeprefix(f"{prefix}_")
            if field != name and field in known:
                found[field] = value
            elif field in ("s", "seconds") and "min_s" in known:
                found["min_s"] = value
    return found
