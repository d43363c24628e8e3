"""Where one message may be two: "cancel it and also tell me my balance", "요금제 바꾸고 로밍도 신청해 주세요".

Only places are found here. Whether both sides are wishes of their own is for the classifier to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_LINKS = (
    # Between the sides, and part of neither.
    r"\s*[,;.!?]*\s+(?:and\s+also|and\s+then|and|also|plus|as\s+well\s+as|then)\s+",
    r"\s*[,;.!?]*\s+(?:그리고(?:\s*또)?|그리구|또한|또|그\s?다음에|그러고\s?나서|아울러)\s+",
    r"\s*[;.!?]\s+",
    r"\s*,\s*",
)
_LINK = re.compile("|".join(f"(?:{each})" for each in _LINKS), re.IGNORECASE)
_ENDING = re.compile(r"(?<=[가-힣](?:고|며|구))[,.]?\s+")
"""`바꾸고 `: the ending that joins two clauses stays with the first. A noun may end so too, which is for the classifier
to find out."""
_LEAST = 4
"""Characters, spaces left out, of a side that may be a wish; `네` before a comma is none."""
MOST = 2
"""Places that are tried at most: each costs up to two answers of the model."""


def splits(text: str) -> Iterator[tuple[str, str]]:
    """The two sides of each place where a message may be two, from the clearest kind of link to the least."""
    seen: set[int] = set()
    for pattern in (_LINK, _ENDING):
        for found in pattern.finditer(text):
            if len(seen) == MOST:
                return
            left, right = text[: found.start()].strip(), text[found.end() :].strip()
            if min(_length(left), _length(right)) < _LEAST or found.end() in seen:
                continue
            seen.add(found.end())
            yield left, right


def _length(text: str) -> int:
    return sum(1 for each in text if not each.isspace())
