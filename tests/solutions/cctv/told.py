"""Events and messages that tests of what is kept and sent tell."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
from collections.abc import Callable
from typing import Any

from solutions.cctv.scene import Event, EventKind, Message
from solutions.cctv.sighting import Seen
from solutions.cctv.sinks.post import Post

PATIENCE_S = 30.0
ZERO = dt.datetime(2026, 3, 2, 10, 0, tzinfo=dt.UTC)
EVENT = Event(
    id="01jd00000000000000000000aa",
    camera="gate",
    clip=None,
    type="intrusion",
    rule="night",
    start_s=12.5,
    end_s=None,
    zone="yard",
    line=None,
    direction=None,
    track_ids=(3,),
    severity="warning",
    why={"rule": "night", "score": 0.8},
    box=(40.0, 20.0, 80.0, 120.0),
)


def message(kind: EventKind = "start", **changes: Any) -> Message:
    """A message of `EVENT`, changed."""
    return Message(kind, dataclasses.replace(EVENT, **changes))


def seen(**changes: Any) -> Seen:
    """What a camera whose clock began at `ZERO` saw."""
    return Seen(**({"zero": ZERO, "labels": ("person",)} | changes))


def post(kind: EventKind = "start", **changes: Any) -> Post:
    """What a sink is given for a message of `EVENT`, changed."""
    return Post.of(message(kind, **changes), ZERO)


def eventually(holds: Callable[[], Any]) -> Any:
    """What `holds` returns once it is true; waits for it, `PATIENCE_S` at most."""
    until = time.monotonic() + PATIENCE_S
    while not (found := holds()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)
    return found
