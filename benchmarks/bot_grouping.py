"""How well the review page's groups match the intents that people would make of the same utterances.

    python -m benchmarks.bot_grouping ../shared/data/contact_center --json grouping.json

For each threshold on likeness: how often two utterances in one group really belong together (precision), and how many
of those that belong together are in one group (recall). For a click that labels a group, precision comes first: the
threshold is the one with the best F0.5. Utterances are CLINC150's training split (in scope) and half of paraKQC.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from solutions.contact_center.grouping import group

THRESHOLDS = (0.08, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.24, 0.28)


def pairs(labels: Sequence[str], groups: Sequence[str]) -> tuple[float, float]:
    """Precision and recall over pairs of utterances."""
    a = np.unique(np.array(labels), return_inverse=True)[1]
    b = np.unique(np.array(groups), return_inverse=True)[1]
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)
    both = (table * (table - 1)).sum()
    together = (table.sum(0) * (table.sum(0) - 1)).sum()
    belong = (table.sum(1) * (table.sum(1) - 1)).sum()
    return float(both / max(together, 1)), float(both / max(belong, 1))


def sets(folder: Path, seed: int) -> dict[str, tuple[list[str], list[str]]]:
    """Name -> utterances and what they belong to."""
    rng = np.random.default_rng(seed)
    train = json.loads((folder / "clinc150" / "data_full.json").read_text(encoding="utf-8"))["train"]
    intents = sorted({intent for _, intent in train})
    some = set(rng.choice(intents, 30, replace=False))
    english = [(text, intent) for text, intent in train if intent in some]
    english = [english[place] for place in rng.permutation(len(english))[:900]]
    lines = (folder / "parakqc" / "paraKQC_v1.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line.count("\t") >= 2]
    korean = [(row[-1], str(place // 10)) for place, row in enumerate(rows)][:900]
    return {
        "clinc150": ([text for text, _ in english], [label for _, label in english]),
        "parakqc": ([text for text, _ in korean], [label for _, label in korean]),
    }


def main() -> None:
    """Print, and write, the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = []
    for name, (texts, labels) in sets(options.data, options.seed).items():
        for threshold in THRESHOLDS:
            begun = time.perf_counter()
            groups = group(texts, threshold)
            seconds = time.perf_counter() - begun
            of = [""] * len(texts)
            for number, one in enumerate(groups):
                for member in one.members:
                    of[member] = str(number)
            precision, recall = pairs(labels, of)
            f = 1.25 * precision * recall / max(0.25 * precision + recall, 1e-9)
            several = sum(len(one.members) > 1 for one in groups)
            found.append({"set": name, "likeness": threshold, "precision": precision, "recall": recall, "f0.5": f})
            print(
                f"{name:9} likeness {threshold:.2f}: precision {precision:.3f} recall {recall:.3f} F0.5 {f:.3f} "
                f"groups {several} of several, {len(groups)} in all, {seconds:.1f} s"
            )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
