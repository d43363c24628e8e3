"""What a user may set about training an inspection model: the sections of a YAML with `task: anomaly`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from shared.training.config import Strict

Kind = Literal["auto", "patchcore", "padim", "discriminator", "fusion"]
MODELS: tuple[str, ...] = get_args(Kind)[1:]
"""The models that `auto` chooses among."""
SIZES = (128, 512)
"""Smallest and largest side of the picture that the network sees, in pixels."""


class Data(Strict):
    """The section `data`."""

    path: Path
    """Folder of photographs, in one of the layouts of `data_tools.dataset`."""


class Model(Strict):
    """The section `model`."""

    kind: Kind = "auto"
    """`auto`: train them all and keep the best by an estimate that needs no defective part."""
    backbone: str = "efficientnet-lite0"
    """The frozen network whose features are used; see `shared.training.backbones`."""
    image_size: Annotated[int, Field(ge=SIZES[0], le=SIZES[1], multiple_of=32)] | None = None
    """Side of the square picture that the network sees, a multiple of 32. None: chosen from the pictures' own size."""
    max_overkill: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Accepted share of good parts that are not passed as OK."""
    max_escape: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Accepted share of defective parts that are not stopped as NG; used where defective parts are given."""
    bank_bytes: Annotated[int, Field(ge=1 << 14, le=1 << 26)] = 1 << 20
    """Cap of PatchCore's memory bank."""

    def settings(self, seed: int) -> dict[str, Any]:
        """As a package's lineage and `haechi inspection train --json` list them, `kind` under the name `model`."""
        return {
            "model": self.kind,
            "backbone": self.backbone,
            "image_size": self.image_size,
            "max_overkill": self.max_overkill,
            "max_escape": self.max_escape,
            "seed": seed,
            "bank_bytes": self.bank_bytes,
        }
