"""Things left and things taken: what is new and stays, and what is gone.

Both leave the same mark: a region that differs from the background and then stays as it is. Which of the two it is says
the outline of the region: where something stands there now, the picture has an edge along it, where it stood before,
the background has (Spengler and Schiele 2003; Ferrando et al. 2006). People and vehicles, moving or at rest, are
tracked and are no objects; where one stood while the background was learned, nothing is concluded from its going.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.io.frames import Bgr
from solutions.cctv.config import MOVERS, PERSON, AbandonedObject, RemovedObject
from solutions.cctv.reduced import Colours, Plane, apart, edges, grey, largest, softened
from solutions.cctv.rules.subjects import place_of
from solutions.cctv.scene import MOVING, Box, Scene, Signal, View

_EVERY_S = 0.2
_DIFFERS = 22.0
_STILL = 9.0
_LEARN_S = 1.0
_SLOW_S = 40.0
_FAST_S = 0.3
_OUTLINE = 1.35
"""By which the edge along an outline must be stronger in one picture than in the other."""
_LEAST_EDGE = 30.0
_SAME_EDGES = 0.6
_LIGHT = 0.35
"""Of the picture: where so much differs it is the light."""
_MOST_AREA = 0.08
_SAME_PLACE, _PART = 0.5, 0.7
_HELD_S = 2.0
_HANDED_S = 1.5
"""Nobody near for so long: whoever comes now is a passer-by."""


@dataclass(slots=True)
class Change:
    """A region that is not what it was."""

    box: Box
    """In pixels of the frame."""
    area: float
    """Share of the picture."""
    since_s: float
    left: bool
    """True: something is there now; False: it was there before."""

    def lasts(self, rule: AbandonedObject | RemovedObject, now_s: float) -> bool:
        """Whether it has stayed long enough for a rule, and is large enough."""
        return now_s - self.since_s >= rule.min_s and self.area >= rule.min_area


class Changes:
    """Regions of one camera's picture that changed and stay so. Rules of a camera share one."""

    def __init__(self) -> None:
        self._min_s = self._min_area = math.inf
        self._found: list[Change] = []
        self._background: Colours = np.zeros((0, 0, 3), dtype=np.float32)
        self._recent: Colours = np.zeros((0, 0, 3), dtype=np.float32)
        self._tainted = np.zeros((0, 0), dtype=bool)
        """Where people or vehicles were while the background was learned."""
        self._unchanged_s = self._moved_s = np.zeros((0, 0))
        """[h, w] when each pixel was last as the background, and last in motion."""
        self._began_s = self._last_s = -math.inf

    @classmethod
    def of(cls, view: View, min_s: float, min_area: float) -> Changes:
        """The camera's, looking for what stays for `min_s` or longer and covers `min_area` of the picture or more."""
        shared: Changes = view.shared.setdefault(__name__, cls())
        shared._min_s, shared._min_area = min(shared._min_s, min_s), min(shared._min_area, min_area)
        return shared

    def update(self, scene: Scene) -> list[Change]:
        """Those that have stayed, as they were found last: looks every `_EVERY_S`."""
        if scene.time_s - self._last_s >= _EVERY_S - 1e-6:
            self._found = self._look(scene)
        return self._found

    def _look(self, scene: Scene) -> list[Change]:
        now = scene.time_s
        picture, scale = scene.reduced
        small = softened(picture)
        if self._background.shape != small.shape:
            self._start(small, now)
        step, self._last_s = min(now - self._last_s, 2.0), now
        movers = _covered(scene, small.shape[:2], scale)
        learning = now - self._began_s < _LEARN_S
        if learning:
            self._background += min(step / 0.5, 1.0) * (small - self._background)
            self._tainted |= movers
            self._recent = small.copy()
            return []
        even = small * _gain(small, self._background)
        differs = _beyond(even, self._background) > _DIFFERS
        still = apart(small, self._recent) < _STILL
        cv2.accumulateWeighted(small, self._recent, 1 - float(np.exp(-step / _FAST_S)))
        self._unchanged_s[~differs] = now
        # A pixel counts as at rest again only after it has been still for a while.
        self._moved_s[~still | movers] = now
        calm = (~differs & ~movers).view(np.uint8)
        cv2.accumulateWeighted(small, self._background, 1 - float(np.exp(-step / _SLOW_S)), calm)
        if differs.mean() > _LIGHT:
            return []
        lasting = differs & (now - self._moved_s > min(1.0, self._min_s / 2)) & ~movers
        return self._judged(lasting, even, scale, now)

    def _start(self, small: Colours, now: float) -> None:
        shape = small.shape[:2]
        self._background, self._recent = small.copy(), small.copy()
        self._tainted = np.zeros(shape, dtype=bool)
        self._unchanged_s, self._moved_s = np.full(shape, now), np.full(shape, now)
        self._began_s = self._last_s = now

    def _judged(self, lasting: NDArray[np.bool_], even: Colours, scale: float, now: float) -> list[Change]:
        mask = cv2.morphologyEx(lasting.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
        found = []
        for row in range(1, count):
            if not self._min_area * mask.size <= stats[row, cv2.CC_STAT_AREA] <= _MOST_AREA * mask.size:
                continue
            region = labels == row
            since = float(np.median(self._unchanged_s[region]))
            if now - since < self._min_s:
                continue
            if self._tainted[region].mean() > 0.3:
                self._background[region] = even[region]
                self._tainted[region] = False
                continue
            left = _is_there(region, even, self._background)
            if left is None or _only_light(region, even, self._background):
                continue
            x, y, width, height = (float(each) * scale for each in stats[row, :4])
            area = stats[row, cv2.CC_STAT_AREA] / mask.size
            found.append(Change((x, y, x + width, y + height), area, since, left))
        return found


class _Told:
    """Changes that were signalled: each keeps its name while its outline wavers or somebody stands before it."""

    def __init__(self) -> None:
        self._known: list[tuple[Change, int, float]] = []
        """With number and the time until which it is held though it is not seen."""
        self._next = 1

    def find(self, box: Box) -> Change | None:
        """The change that was signalled here."""
        known = self._at(box)
        return None if known is None else known[0]

    def now(self, changes: list[Change], scene: Scene) -> list[tuple[Change, int]]:
        """What is signalled now: each change with its number."""
        found: list[tuple[Change, int, float]] = []
        for change in changes:
            if any(_overlap(each[0].box, change.box, of_second=True) > _PART for each in found):
                continue  # another part of it
            known = self._at(change.box)
            if known is None:
                number, self._next = self._next, self._next + 1
            else:
                self._known.remove(known)
                change, number = known[0], known[1]
            found.append((change, number, scene.time_s + _HELD_S))
        for change, number, until_s in self._known:
            hidden = any(_overlap(track.box, change.box, of_second=True) > 0.2 for track in scene.tracks)
            if hidden or scene.time_s < until_s:
                found.append((change, number, scene.time_s + _HELD_S if hidden else until_s))
        self._known = found
        return [(change, number) for change, number, _ in found]

    def _at(self, box: Box) -> tuple[Change, int, float] | None:
        """The known one in the same place, or of which this is a part (of the rest somebody hides the sight)."""
        for known in self._known:
            part = _overlap(known[0].box, box, of_second=True)
            if part > _PART or _overlap(known[0].box, box) > _SAME_PLACE:
                return known
        return None


class _Minders:
    """Where people were lately, so that of a thing that turns out to lie there it can be told whose it was."""

    def __init__(self, rule: AbandonedObject) -> None:
        self._rule = rule
        self._seen: deque[tuple[float, list[tuple[int, Box]]]] = deque()

    def update(self, scene: Scene) -> None:
        """Remember who is where, every `_EVERY_S`, for half a minute longer than a thing must lie to be told."""
        now = scene.time_s
        if self._seen and now - self._seen[-1][0] < _EVERY_S - 1e-6:
            return
        self._seen.append((now, [(track.id, track.box) for track in scene.tracks if track.label == PERSON]))
        while self._seen[0][0] < now - self._rule.min_s - 30.0:
            self._seen.popleft()

    def left_s(self, thing: Change) -> float:
        """When its owner was last near: who was there as it was put down, and who took over from them without a gap (a
        track that broke off goes on under another number). Passers-by do not mind it."""
        owners: set[int] = set()
        left_s = thing.since_s
        for time_s, people in self._seen:
            near = {number for number, box in people if self._near(thing.box, box)}
            if thing.since_s - 1.0 <= time_s <= left_s + _HANDED_S:
                owners |= near
            if near & owners:
                left_s = max(left_s, time_s)
        return left_s

    def _near(self, thing: Box, person: Box) -> bool:
        apart_x = max(person[0] - thing[2], thing[0] - person[2], 0.0)
        apart_y = max(person[1] - thing[3], thing[1] - person[3], 0.0)
        return math.hypot(apart_x, apart_y) < self._rule.owner_distance * (person[3] - person[1])


class Abandoned:
    """Something new that stays, and nobody with it. It begins when the owner leaves."""

    def __init__(self, rule: AbandonedObject, view: View) -> None:
        self.rule, self.view = rule, view
        self._changes = Changes.of(view, rule.min_s, rule.min_area)
        self._minders = _Minders(rule)
        self._told = _Told()

    def update(self, scene: Scene) -> list[Signal]:
        """What lies there."""
        self._minders.update(scene)
        meant = []
        for each in self._changes.update(scene):
            if not (
                each.left
                and each.lasts(self.rule, scene.time_s)
                and place_of(self.rule.zones, self.view, _middle(each.box))[0]
            ):
                continue
            left_s = self._minders.left_s(each)
            if self._told.find(each.box) is not None or scene.time_s - left_s > _HANDED_S:
                meant.append(replace(each, since_s=left_s))
        return [
            _signal(
                "abandoned_object",
                place_of(self.rule.zones, self.view, _middle(each.box))[1],
                each.box,
                each.since_s,
                number,
            )
            for each, number in self._told.now(meant, scene)
        ]


class Removed:
    """Something that was there is gone; with zones, each is a place of its own."""

    def __init__(self, rule: RemovedObject, view: View) -> None:
        self.rule = rule
        self._changes = None if rule.zones else Changes.of(view, rule.min_s, rule.min_area)
        self._zones = {name: view.zones[name] for name in rule.zones}
        self._places = {name: _Place(polygon, rule.min_s) for name, polygon in self._zones.items()}
        self._told = _Told()

    def update(self, scene: Scene) -> list[Signal]:
        """What is gone."""
        if self._changes is None:
            found = [(name, place.update(scene)) for name, place in self._places.items()]
            return [
                _signal("removed_object", name, _around(self._zones[name]), since)
                for name, since in found
                if since is not None
            ]
        changes = [each for each in self._changes.update(scene) if each.lasts(self.rule, scene.time_s)]
        gone = self._told.now([each for each in changes if not each.left], scene)
        return [_signal("removed_object", None, each.box, each.since_s, number) for each, number in gone]


class _Place:
    """One watched place: what it looks like with its object and without."""

    def __init__(self, polygon: NDArray[np.float32], min_s: float) -> None:
        self._polygon, self._min_s = polygon, min_s
        self._full: Colours | None = None
        self._empty: Colours | None = None
        self._last: Colours | None = None
        self._last_s = self._moved_s = self._full_s = -1e9
        self._gone_since: float | None = None

    def update(self, scene: Scene) -> float | None:
        """Since when its object is gone; None: it is there, or nothing was ever there."""
        now = scene.time_s
        if now - self._last_s < _EVERY_S - 1e-6:
            return self._gone_since
        patch, mask = self._cut(scene.frame.image)
        before, self._last, self._last_s = self._last, patch, now
        if before is None:
            self._moved_s = self._full_s = now
            return None
        if _share(patch, before, mask, _STILL) > 0.02:
            self._moved_s = now
        rests = now - self._moved_s >= 0.6
        if self._full is None:
            self._full = patch.copy() if rests else None
            self._full_s = now
            return None
        like_full = _share(patch, self._full, mask, _DIFFERS)
        if self._gone_since is None:
            self._watch(patch, mask, like_full, now, rests=rests)
        elif rests and self._empty is not None and _share(patch, self._empty, mask, _DIFFERS) > 0.15:
            self._full, self._full_s, self._gone_since = patch.copy(), now, None
        return self._gone_since

    def _watch(self, patch: Colours, mask: NDArray[np.bool_], like_full: float, now: float, *, rests: bool) -> None:
        assert self._full is not None
        if like_full < 0.08:
            self._full_s = now
            if rests:
                self._full += 0.02 * (patch - self._full)
        elif rests and now - self._full_s >= self._min_s:
            changed = (apart(patch, self._full) > _DIFFERS) & mask
            if _is_there(changed, patch, self._full) is False:
                self._empty, self._gone_since = patch.copy(), self._full_s
            else:  # another thing, or one more: from now on that is what must stay
                self._full, self._full_s = patch.copy(), now

    def _cut(self, image: Bgr) -> tuple[Colours, NDArray[np.bool_]]:
        left, top, right, bottom = (int(each) for each in _around(self._polygon))
        pad = max((right - left) // 8, 2)
        height, width = image.shape[:2]
        left, top, right, bottom = (
            max(left - pad, 0),
            max(top - pad, 0),
            min(right + pad, width),
            min(bottom + pad, height),
        )
        scale = min(1.0, 96 / max(right - left, bottom - top, 1))
        size = (max(int((right - left) * scale), 8), max(int((bottom - top) * scale), 8))
        patch = cv2.resize(
            image[top : max(bottom, top + 1), left : max(right, left + 1)], size, interpolation=cv2.INTER_AREA
        )
        mask = np.zeros(size[::-1], dtype=np.uint8)
        cv2.fillPoly(mask, [((self._polygon - (left, top)) * scale).astype(np.int32)], (1,))
        return softened(np.asarray(patch, dtype=np.uint8)), mask > 0


def _share(one: Colours, other: Colours, mask: NDArray[np.bool_], level: float) -> float:
    """Of the place, how much differs, light evened out."""
    gain = float(np.clip(np.median(other[mask] + 1) / np.median(one[mask] + 1), 0.8, 1.25))
    return float((apart(one * gain, other)[mask] > level).mean())


def _is_there(region: NDArray[np.bool_], now: Colours, before: Colours) -> bool | None:
    """Whether a thing stands in a region now (True) or stood there before (False); None: the outline does not say."""
    if not region.any():
        return None
    core = region.astype(np.uint8)
    outline = (cv2.dilate(core, np.ones((3, 3), np.uint8)) - cv2.erode(core, np.ones((3, 3), np.uint8))) > 0
    strengths = [float(edges(each)[outline].mean()) for each in (now, before)]
    if max(strengths) < _LEAST_EDGE:
        return None
    if strengths[0] > _OUTLINE * strengths[1]:
        return True
    return False if strengths[1] > _OUTLINE * strengths[0] else None


def _only_light(region: NDArray[np.bool_], now: Colours, before: Colours) -> bool:
    """Whether a region, with a rim around it, shows what it showed before in another light."""
    rows, columns = np.nonzero(region)
    pad = 4
    part = (
        slice(max(rows.min() - pad, 0), rows.max() + pad + 1),
        slice(max(columns.min() - pad, 0), columns.max() + pad + 1),
    )
    one, two = edges(now[part]), edges(before[part])
    one, two = one - one.mean(), two - two.mean()
    alike = float((one * two).sum()) / max(float(np.sqrt((one**2).sum() * (two**2).sum())), 1e-6)
    return alike > _SAME_EDGES


def _beyond(picture: Colours, background: Colours) -> Plane:
    """[h, w] by how much a pixel is brighter or darker than everything around it in the background: cameras sway."""
    around = np.ones((5, 5), np.uint8)
    high, low = cv2.dilate(background, around), cv2.erode(background, around)
    return largest(np.maximum(picture - high, low - picture))


def _gain(small: Colours, background: Colours) -> float:
    now, before = grey(small[::4, ::4]), grey(background[::4, ::4])
    return float(np.clip(np.median((before + 1) / (now + 1)), 0.6, 1.6))


def _covered(scene: Scene, shape: tuple[int, int], scale: float) -> NDArray[np.bool_]:
    """[h, w] where people, vehicles and other moving things are."""
    mask = np.zeros(shape, dtype=np.uint8)
    for track in scene.tracks:
        if track.label in MOVERS or (track.label == MOVING and track.still_since_s is None):
            left, top, right, bottom = (int(each / scale) for each in track.box)
            pad = max((right - left) // 10, 1)
            cv2.rectangle(mask, (left - pad, top - pad), (right + pad, bottom + pad), (1,), -1)
    return mask > 0


def _middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _around(polygon: NDArray[np.float32]) -> Box:
    left, top = (float(each) for each in polygon.min(axis=0))
    right, bottom = (float(each) for each in polygon.max(axis=0))
    return left, top, right, bottom


def _overlap(one: Box, two: Box, *, of_second: bool = False) -> float:
    """Shared area by that of both together, or by that of the second."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    return width * height / (areas[1] if of_second else sum(areas) - width * height)


def _signal(type_: str, zone: str | None, box: Box, since_s: float, number: int | None = None) -> Signal:
    return Signal(
        type=type_,
        subject=number,
        since_s=since_s,
        zone=zone,
        box=box,
        why={"method": "a region differs from the background and stays; its outline says which way"},
    )
