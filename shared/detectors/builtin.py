"""The person detector that Haechi brings, so that cameras work on a fresh machine without a model hub.

SSDLite with MobileNetV2, 300×300, one class, by Gary Burgmann (MIT); `shared/weights/README.md` tells how it was
converted. Sure of people nearby and blind under some 60 pixels of its 300: show it crops.
"""

from __future__ import annotations

import functools
from pathlib import Path

from shared.errors import HaechiError
from shared.package import Package, open_package

PERSON_DETECTOR = "pedestrian-ssdlite"
"""Its name, where a package's path or name is asked for."""
_FOLDER = Path(__file__).resolve().parents[1] / "weights" / PERSON_DETECTOR


@functools.cache
def person_detector() -> Package:
    """The package, verified by its hashes; it comes with Haechi itself, so no key needs to have signed it.

    Raises:
        HaechiError: the installation lacks it.
        PackageRefused: it was damaged.
    """
    if not _FOLDER.is_dir():
        raise HaechiError(f"the built-in person detector is missing at {_FOLDER}; install Haechi again.")
    return open_package(_FOLDER, public_keys=[])
