"""Rules at work: what each section of SITE.yaml does with what is seen."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

from solutions.cctv.config import Rule
from solutions.cctv.scene import Runner, View

_RUNNERS = {
    "intrusion": "zones:IntrusionRunner",
    "loitering": "zones:LoiteringRunner",
    "crowding": "zones:CrowdingRunner",
    "working_alone": "zones:WorkingAloneRunner",
    "queue": "zones:QueueRunner",
    "line_crossing": "lines:LineCrossingRunner",
    "tailgating": "lines:TailgatingRunner",
    "wrong_direction": "ways:WrongDirectionRunner",
    "vehicle_near_person": "distance:VehicleNearPersonRunner",
    "ppe_missing": "ppe:PpeRunner",
    "fall": "falls:FallRunner",
    "fighting": "fighting:FightingRunner",
    "abandoned_object": "stationary:Abandoned",
    "removed_object": "stationary:Removed",
    "fire": "fire:FireRunner",
    "smoke": "fire:SmokeRunner",
    "camera_health": "health:Health",
}
"""Type of a rule: its module here and the class in it, imported when a site has such a rule."""


def runner_for(rule: Rule, view: View) -> Runner:
    """The rule at work on a camera.

    Raises:
        BadInput: what the rule needs (a package, points of the ground) cannot be used.
    """
    module, _, name = _RUNNERS[rule.type].partition(":")
    make = cast(Callable[[Any, View], Runner], getattr(import_module(f"{__name__}.{module}"), name))
    return make(rule, view)
