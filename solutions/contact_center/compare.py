"""Champion against challenger on the same held-out utterances: which costs less, and is it surely so.

Both decide every utterance as they would in a conversation: understanding, thresholds, ladder. What a decision costs is
counted in the bot's own costs (`bot.yaml`). Utterances of one conversation stand or fall together, so conversations are
drawn again, not utterances.

- Cost: mean difference for each utterance, with a percentile interval by the paired bootstrap (Efron, 1979).
- Errors: McNemar's exact test on the utterances that only one of the two got right (McNemar, 1947).

The challenger may be promoted if it is cheaper beyond doubt, or not dearer by more than the margin beyond doubt, and
does not make significantly more errors.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput
from solutions.contact_center.config import OOS, Bot, Costs, Settings
from solutions.contact_center.dialogue.ladder import Decision, Limits, ThresholdsLike, decide
from solutions.contact_center.grouping import key_of

if TYPE_CHECKING:
    from solutions.contact_center.understanding import Understanding

SIGNIFICANT = 0.05
DRAWS = 10_000
LEAST = 30
"""Utterances to compare on; fewer decide nothing."""
MARGIN = 0.05
"""Cost an utterance by which a challenger may be dearer and still count as no worse."""
_CLOCK = dt.datetime(2026, 3, 2, 1, 0, tzinfo=dt.UTC)
"""Both are asked at the same moment; dates do not matter to intents."""


class Understands(Protocol):
    """One of the two; `understanding.Understander` is one."""

    @property
    def bot(self) -> Bot | None: ...

    @property
    def thresholds(self) -> ThresholdsLike: ...

    def understand(self, text: str, now: dt.datetime) -> Understanding: ...


@dataclass(frozen=True)
class HeldOut:
    """An utterance that neither has been trained on."""

    text: str
    intent: str
    """An intent, a question, or `oos`."""
    conversation: str = ""
    """Those of one conversation stand or fall together; empty: each for itself."""


@dataclass(frozen=True)
class Side:
    """How one of the two did."""

    right: int
    cost: float
    """Mean for each utterance."""
    rungs: Mapping[str, int]


@dataclass(frozen=True)
class Comparison:
    """Both, side by side."""

    utterances: int
    conversations: int
    left_out: int
    """Utterances that one of the bots has among its own examples."""
    champion: Side
    challenger: Side
    only_champion: int
    """Right with the champion alone."""
    only_challenger: int
    p_value: float
    """McNemar's exact, two-sided."""
    saved: float
    """Mean cost that the challenger saves for each utterance; negative: it is dearer."""
    low: float
    high: float
    """95 % interval of `saved`."""
    margin: float
    verdict: str
    """`better`, `not worse` or `refused`."""
    why: str

    @property
    def may_be_promoted(self) -> bool:
        """Whether the figures allow it."""
        return self.verdict != "refused"

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "may_be_promoted": self.may_be_promoted}


def read_held_out(path: Path) -> list[HeldOut]:
    """Utterances from a CSV or TSV with the columns `text`, `intent` and, where there is one, `conversation`.

    Raises:
        BadInput: the file cannot be read, or lacks a column or a value.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as UTF-8 text ({error}); give a CSV file.") from error
    rows = csv.DictReader(io.StringIO(content, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",")
    missing = {"text", "intent"} - set(rows.fieldnames or ())
    if missing:
        raise BadInput(f"{path} has no column {' or '.join(sorted(missing))}; add it to the first line.")
    found = []
    try:
        for row in rows:
            if not row["text"] or not row["intent"]:
                raise BadInput(f"{path}:{rows.line_num}: text and intent must both be there; fill or remove the line.")
            found.append(HeldOut(row["text"], row["intent"].strip(), row.get("conversation") or ""))
    except csv.Error as error:
        raise BadInput(f"{path}:{rows.line_num}: {error}; mend the line.") from error
    return found


def cost_of_decision(decision: Decision, truth: str, costs: Costs) -> float:
    """What deciding so costs where `truth` was meant.

    A clarification that offers what was meant costs itself. One that does not is followed by another attempt, which is
    charged as a hand-over, as is asking for other words; out of scope, asking for other words is what should be done.
    """
    offered = [option.name for option in decision.options]
    if decision.rung == "answer":
        return 0.0 if offered[:1] == [truth] else costs.wrong_answer
    if decision.rung == "hand_over":
        return costs.hand_over
    if decision.rung == "ask_again":
        return costs.clarification if truth == OOS else costs.hand_over
    return costs.clarification + (0.0 if truth in offered else costs.hand_over)


def is_right(decision: Decision, truth: str) -> bool:
    """Whether the decision leads where it should: out of scope is declined, else the truth is answered or offered."""
    if truth == OOS:
        return decision.rung in ("ask_again", "hand_over")
    return decision.rung in ("answer", "confirm", "choose") and decision.options[0].name == truth


def compare(
    champion: Understands,
    challenger: Understands,
    utterances: Sequence[HeldOut],
    *,
    costs: Costs | None = None,
    margin: float = MARGIN,
    seed: int = 0,
) -> Comparison:
    """Both on the same utterances.

    Args:
        costs: by default those of the champion's bot.

    Raises:
        BadInput: fewer than `LEAST` utterances are left after those that a bot was trained on are taken out.
    """
    bots = [side.bot or Bot(settings=Settings(name="table")) for side in (champion, challenger)]
    known = set[str]().union(*(_examples(bot) for bot in bots))
    kept = [one for one in utterances if key_of(one.text) not in known]
    if len(kept) < LEAST:
        raise BadInput(
            f"{len(kept)} utterances are left to compare on ({len(utterances) - len(kept)} are examples of a bot); "
            f"{LEAST} are needed: give more that neither was trained on."
        )
    costs = costs or bots[0].settings.costs
    sides = [_decided(side, bot, kept, costs) for side, bot in zip((champion, challenger), bots, strict=True)]
    (right_a, cost_a, rungs_a), (right_b, cost_b, rungs_b) = sides
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    groups = [one.conversation or f"\0{place}" for place, one in enumerate(kept)]
    saved, low, high = paired_bootstrap(cost_a - cost_b, groups, seed)
    p_value = mcnemar(only_a, only_b)
    verdict, why = _verdict(saved, low, only_a, only_b, p_value, margin)
    return Comparison(
        len(kept),
        len(set(groups)),
        len(utterances) - len(kept),
        Side(int(right_a.sum()), float(cost_a.mean()), rungs_a),
        Side(int(right_b.sum()), float(cost_b.mean()), rungs_b),
        only_a,
        only_b,
        p_value,
        saved,
        low,
        high,
        margin,
        verdict,
        why,
    )


def _verdict(saved: float, low: float, only_a: int, only_b: int, p_value: float, margin: float) -> tuple[str, str]:
    if only_a > only_b and p_value < SIGNIFICANT:
        return "refused", f"it errs on {only_a} that the champion has right, and mends {only_b} (p = {p_value:.2g})"
    if low > 0:
        return "better", f"it saves {saved:.3f} an utterance, surely {low:.3f}"
    if low >= -margin:
        return "not worse", f"it costs at most {max(-low, 0.0):.3f} more an utterance; {margin:g} is allowed"
    return "refused", f"it may cost {-low:.3f} more an utterance, and {margin:g} is allowed"


def mcnemar(first: int, second: int) -> float:
    """Exact two-sided p-value for `first` against `second` discordant pairs under even odds."""
    total, less = first + second, min(first, second)
    if not total:
        return 1.0
    tail = sum(math.comb(total, count) for count in range(less + 1))
    return min(1.0, 2 * tail / 2**total)


def paired_bootstrap(
    differences: NDArray[np.float64], groups: Sequence[str], seed: int, draws: int = DRAWS
) -> tuple[float, float, float]:
    """Mean difference and its 95 % percentile interval; whole groups are drawn. differences [N]."""
    index = np.unique(np.array(groups), return_inverse=True)[1]
    sums, sizes = np.bincount(index, weights=differences), np.bincount(index).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = []
    step = max(1, 2_000_000 // len(sums))
    for begin in range(0, draws, step):
        drawn = rng.integers(0, len(sums), (min(step, draws - begin), len(sums)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


def _decided(
    side: Understands, bot: Bot, utterances: Sequence[HeldOut], costs: Costs
) -> tuple[NDArray[np.bool_], NDArray[np.float64], dict[str, int]]:
    limits = Limits.of(bot, side.thresholds)
    right, cost, rungs = [], [], dict[str, int]()
    for one in utterances:
        decision = decide(side.understand(one.text, _CLOCK), bot, limits, 0)
        right.append(is_right(decision, one.intent))
        cost.append(cost_of_decision(decision, one.intent, costs))
        rungs[decision.rung] = rungs.get(decision.rung, 0) + 1
    return np.array(right), np.array(cost), rungs


def _examples(bot: Bot) -> set[str]:
    texts = [example.text for intent in bot.intents.values() for example in intent.examples]
    texts += [question for faq in bot.faqs.values() for question in faq.questions]
    return {key_of(text) for text in texts}
