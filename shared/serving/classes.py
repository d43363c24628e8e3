"""Triton's classification extension: the highest values of an output, with their places and labels, as text.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput
from shared.manifest import Manifest

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Classes:
    """How one output is wanted.

    Attributes:
        count: how many of the highest values.
        labels: of the model; used where it has one for each value.
        by_row: each row of the output is a part of its own, as in a batch; else all of it is one.
    """

    count: int
    labels: tuple[str, ...]
    by_row: bool

    @classmethod
    def of(cls, manifest: Manifest, count: int) -> Classes:
        """The `count` highest of a model's output, row by row where all its tensors begin with a free dimension."""
        return cls(count, tuple(manifest.labels), is_batched(manifest))

    def best(self, name: str, array: Array) -> Array:
        """`value:place` or `value:place:label` of the highest values, highest first.

        Returns:
            An object array of `bytes`, [N, count] or [count]; fewer where the output has fewer values.

        Raises:
            BadInput: the output holds no numbers.
        """
        if array.dtype.kind not in "iuf":
            raise BadInput(f"output {name}: classification needs numbers; request the tensor itself.")
        count = len(array) if self.by_row else 1
        rows = array.reshape(count, array.size // max(1, count))
        order = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, : self.count]
        labels = self.labels if len(self.labels) == rows.shape[1] else ()
        found = np.empty(order.shape, dtype=object)
        for (row, column), place in np.ndenumerate(order):
            value = rows[row, place]
            text = f"{value:f}:{place}" if array.dtype.kind == "f" else f"{value}:{place}"
            found[row, column] = (f"{text}:{labels[place]}" if labels else text).encode()
        return found if self.by_row else found[0]


def is_batched(manifest: Manifest) -> bool:
    """True if every input and output begins with a free dimension, which is then taken for the batch, as in Triton."""
    return all(spec.shape and spec.shape[0] == -1 for spec in [*manifest.inputs, *manifest.outputs])
