"""One picture in, one recorded decision out: the only way by which the server decides, for programs and the console.

decode → the model's queue → `pipeline.decide` → records → kept picture. The record comes before the answer: a decision
that could not be recorded is an error, never a silent loss. The picture is kept for people to look at, within a bound
(`shared.pictures`), and a picture that could not be kept is only logged.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request

from shared import images
from shared.errors import BadInput, HaechiError
from shared.images import Rgb
from shared.log import get_logger
from shared.pictures import PictureStore
from shared.records import Result, StoredResult
from shared.serving.errors import NotFound, TooLarge
from solutions.inspection.overlay import overlay
from solutions.inspection.pipeline import TASK, THRESHOLDS, Decision, decide

if TYPE_CHECKING:
    from shared.serving.models import ServedModel
    from shared.serving.state import ServerState

SOLUTION = "inspection"
THUMBNAIL_SIDE = 192
OVERLAY_SIDE = 800
"""Longest side of a heat map drawn over its picture, in pixels: enough for a screen, small enough for an answer."""

_MAX_NAME = 255
_T = TypeVar("_T")
_log = get_logger(__name__)


@dataclass(frozen=True)
class Inspection:
    """A decision that is on record."""

    result: StoredResult
    decision: Decision
    picture: Rgb
    """uint8 [H, W, 3], as the model saw it."""


class InspectionService:
    """Inspects pictures with the server's models and remembers what came of it.

    Args:
        state: the server's models, records and limits.
        pictures: where pictures are kept; by default `<home>/pictures`.
    """

    def __init__(self, state: ServerState, pictures: PictureStore | None = None) -> None:
        self.state = state
        self.pictures = pictures or PictureStore(state.settings.home / "pictures")
        # A picture of 100 megapixels takes 300 MB: as many are decoded at once as there are cores, the others wait.
        self._workers = anyio.CapacityLimiter(os.cpu_count() or 1)

    def models(self) -> list[str]:
        """Names of the inspection models served here, sorted."""
        return sorted(served.name for served in self.state.of_task(TASK))

    def model(self, name: str | None) -> ServedModel:
        """The model of this name, or the only one.

        Raises:
            BadInput: no name, and several models to choose from.
            NotFound: no inspection model of that name, or none at all.
        """
        names = self.models()
        if not names:
            raise NotFound("this server has no inspection model; train one with haechi inspection train and add it.")
        if not name:
            if len(names) > 1:
                raise BadInput(f"this server has several inspection models; name one as model: {', '.join(names)}.")
            name = names[0]
        if name not in names:
            raise NotFound(f"there is no inspection model {name[:64]}; this server has: {', '.join(names)}.")
        return self.state.find(name)

    async def inspect(
        self,
        data: bytes,
        file: str,
        *,
        model: str | None = None,
        actor: str,
        actor_id: str = "",
        request_id: str = "",
        request: Request | None = None,
    ) -> Inspection:
        """Decide on one picture and record it.

        Args:
            data: the bytes of a PNG, JPEG, BMP or TIFF file.
            file: its name, for the record.
            model: which model; may be left out where there is only one.
            actor: name of the key or person that asks, and its id.
            request_id: for the record.
            request: whose client may go away; then nothing is computed or recorded.

        Raises:
            BadInput: the picture cannot be read.
            TooLarge: it has more pixels than the server's limit.
            Busy: the model's queue is full.
            NotFound: there is no such model.
            HaechiError: the model failed, or the decision could not be recorded.
        """
        served = self.model(model)
        served.check_ready()
        served.queue.check_admission()  # before the work of decoding
        started = time.perf_counter()
        file = clean_file_name(file)
        thresholds = _thresholds_of(served)
        picture, fingerprint = await self.in_thread(_decode, data, file, self.state.limits.max_pixels)
        height, width = picture.shape[:2]
        inputs: dict[str, NDArray[Any]] = {
            "image": picture[None],
            "pixel_threshold": np.array([thresholds["pixel"]], dtype=np.float32),
        }
        outputs = await served.infer(inputs, request=request)
        decision = await self.in_thread(decide, outputs, thresholds, width, height)
        decision = replace(decision, latency_ms=(time.perf_counter() - started) * 1000)
        if not np.isfinite(decision.score):
            raise HaechiError(f"model {served.name} gave the score {decision.score} for {file}; roll it back.")
        result = Result(
            solution=SOLUTION,
            source=file,
            input_fingerprint=fingerprint,
            package=served.name,
            package_version=served.version,
            package_fingerprint=served.package.fingerprint,
            score=float(decision.score),
            thresholds=thresholds,
            verdict=decision.verdict,
            regions=[{"box": list(r.box), "score": float(r.score), "area": int(r.area)} for r in decision.regions],
            latency_ms=decision.latency_ms,
            request_id=request_id,
            actor=actor,
            details={"width": width, "height": height, "actor_id": actor_id},
        )
        number = await self.in_thread(self.state.records.add_result, result)
        stored = StoredResult(**{name: getattr(result, name) for name in Result.__dataclass_fields__}, id=number)
        await self.in_thread(keep_picture, self.pictures, stored, data, picture, decision.heatmap)
        return Inspection(stored, decision, picture)

    # -- what was kept -----------------------------------------------------------------------------------------------

    async def overlay_of(self, inspection: Inspection) -> bytes:
        """The heat map over its picture with the regions' boxes, as PNG with at most `OVERLAY_SIDE` pixels a side."""
        return await self.in_thread(_overlay, inspection.picture, inspection.decision.heatmap, inspection.result)

    async def kept_overlay(self, result: StoredResult) -> bytes | None:
        """As `overlay_of`, from what was kept; None if it has made room for newer ones."""
        return await self.in_thread(self._kept_overlay, result)

    async def kept_picture(self, result: StoredResult) -> tuple[bytes, str] | None:
        """The picture as a browser can show it, and its media type; None as above."""
        return await self.in_thread(self._kept_picture, result)

    async def kept_thumbnail(self, result: StoredResult) -> bytes | None:
        """A JPEG of at most `THUMBNAIL_SIDE` pixels a side; None as above."""
        return await self.in_thread(self.pictures.read, result.id, result.input_fingerprint, "thumbnail.jpg")

    def _kept_picture(self, result: StoredResult) -> tuple[bytes, str] | None:
        data = self.pictures.read(result.id, result.input_fingerprint, "picture")
        if data is None:
            return None
        for start, media_type in ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg")):
            if data.startswith(start):
                return data, media_type
        return images.encode_png(images.decode_image(data, result.source)), "image/png"  # browsers show no TIFF

    def _kept_overlay(self, result: StoredResult) -> bytes | None:
        read = functools.partial(self.pictures.read, result.id, result.input_fingerprint)
        data, levels, scale = read("picture"), read("heatmap.png"), read("heatmap.json")
        if data is None or levels is None or scale is None:
            return None
        heatmap = _unpack_heatmap(levels, json.loads(scale))
        picture, _ = images.decode_reduced(data, result.source, OVERLAY_SIDE)
        return _overlay(picture, heatmap, result)

    async def in_thread(self, function: Callable[..., _T], *arguments: Any) -> _T:
        return await anyio.to_thread.run_sync(functools.partial(function, *arguments), limiter=self._workers)


def keep_picture(
    pictures: PictureStore, result: StoredResult, data: bytes, picture: Rgb, heatmap: NDArray[np.float32]
) -> None:
    """Keep what the console shows of a result; where that fails it is logged, because the decision stands anyway.

    Args:
        data: the file as it came.
        picture, heatmap: as the model saw it and what it gave.
    """
    try:
        low, high, levels = _pack_heatmap(heatmap)
        parts = {
            "picture": data,
            "thumbnail.jpg": images.encode_jpeg(_fit(picture, THUMBNAIL_SIDE), 80),
            "heatmap.png": levels,
            "heatmap.json": json.dumps({"low": low, "high": high}).encode(),
        }
        if not pictures.keep(result.id, result.input_fingerprint, parts):
            _log.warning("picture_not_kept", result=result.id, reason="it alone is over the bound of kept pictures")
    except HaechiError as error:
        _log.warning("picture_not_kept", result=result.id, reason=str(error))


def _thresholds_of(served: ServedModel) -> dict[str, float]:
    values = {name: threshold.value for name, threshold in served.manifest.thresholds.items()}
    missing = [name for name in THRESHOLDS if name not in values]
    if missing:
        raise HaechiError(f"model {served.name} has no threshold {missing[0]} in its manifest; train it again.")
    return values


def _decode(data: bytes, name: str, max_pixels: int) -> tuple[Rgb, str]:
    """The picture, and the SHA-256 of its bytes."""
    try:
        return images.decode_image(data, name, max_pixels), hashlib.sha256(data).hexdigest()
    except BadInput as error:
        if _promised_pixels(data) > max_pixels:
            raise TooLarge(str(error)) from None
        raise


def _promised_pixels(data: bytes) -> float:
    """Width times height by the file's header; 0 where it cannot be read."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.width * image.height
    except Image.DecompressionBombError:
        return float("inf")
    except Exception:  # whatever is wrong with it, decoding has said so already
        return 0


def clean_file_name(name: str) -> str:
    """The last part of a name that a client sent, without control characters, never empty, at most 255 characters."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    printable = "".join(letter if letter.isprintable() else "\ufffd" for letter in last).strip()
    return printable[-_MAX_NAME:] or "picture"


def _overlay(picture: Rgb, heatmap: NDArray[np.float32], result: Result) -> bytes:
    width = int(result.details.get("width", picture.shape[1]))
    small = _fit(picture, OVERLAY_SIDE)
    scale = small.shape[1] / width
    boxes = [tuple(round(edge * scale) for edge in region["box"]) for region in result.regions]
    drawn = overlay(small, heatmap, [(b[0], b[1], b[2], b[3]) for b in boxes], result.thresholds)
    return images.encode_png(drawn)


def _fit(picture: Rgb, side: int) -> Rgb:
    """The picture scaled down so that no side is longer than `side`; never up."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _pack_heatmap(heatmap: NDArray[np.float32]) -> tuple[float, float, bytes]:
    """Lowest and highest value, and a 16-bit PNG between them: fewer bytes, and off by 1/65535 of the range at most."""
    values = np.nan_to_num(np.asarray(heatmap, dtype=np.float32))
    low, high = float(values.min()), float(values.max())
    levels = np.rint((values - low) * (65535 / max(high - low, 1e-12))).astype(np.uint16)
    _, encoded = cv2.imencode(".png", levels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return low, high, bytes(encoded.tobytes())


def _unpack_heatmap(levels: bytes, scale: Mapping[str, float]) -> NDArray[np.float32]:
    values: Any = cv2.imdecode(np.frombuffer(levels, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    return (values.astype(np.float32) * ((scale["high"] - scale["low"]) / 65535) + scale["low"]).astype(np.float32)
