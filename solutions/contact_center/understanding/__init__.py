"""What a customer meant: intents with calibrated probabilities, whether it is in scope at all, questions, entities.

`Understander.load(package).understand(text, now)` needs the package alone: no folder, no torch. A message that asks for
two things at once has each of them in `parts`.
"""

from __future__ import annotations

from solutions.contact_center.understanding.questions import FaqHit
from solutions.contact_center.understanding.understander import (
    IntentScore,
    Thresholds,
    Understander,
    Understanding,
)

__all__ = ["FaqHit", "IntentScore", "Thresholds", "Understander", "Understanding"]
