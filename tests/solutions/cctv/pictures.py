"""Pictures that tests of the console and the API show."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIZE = (320, 180)


def picture(person: tuple[int, int] = (100, 60)) -> NDArray[np.uint8]:
    """Grey ground and a chequered person, whose pattern tells a clear picture from a hidden one."""
    image = np.full((SIZE[1], SIZE[0], 3), 96, np.uint8)
    left, top = person
    image[top : top + 80, left : left + 40] = 255 * (np.indices((80, 40)).sum(0) % 2)[..., None]
    return image
