"""LinUCB against linear Thompson sampling, on simulated customers and on replayed utterances of CLINC150.

    python -m benchmarks.bot_bandit [--data ../shared/data/contact_center] [--package PACKAGE] [--json bandit.json]

Both choose a rung for each message, see the reward of that rung alone, and learn. Regret is what the best rung of each
situation would have earned more. *Simulated*: calibrated confidences, rewards known. *Replayed*: a package trained on
CLINC150's training split decides about its validation split and the out-of-scope validation utterances; what every rung
would have cost is known there (the truth is), and the bandit is told that of the rung it takes. The ladder with the
package's thresholds is shown beside them. The mean of several seeds, with the time of a choice and its update.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from solutions.contact_center.bandit import FEATURES, LinUcb, context_of
from solutions.contact_center.compare import cost_of_decision
from solutions.contact_center.config import OOS, Bot, Costs, Settings
from solutions.contact_center.dialogue.events import RUNGS
from solutions.contact_center.dialogue.ladder import Decision, Limits, decide, options_of

Matrix = NDArray[np.float64]
_COSTS = Costs()
_WORST = _COSTS.wrong_answer
_CLOCK = dt.datetime(2026, 3, 2, 1, 0, tzinfo=dt.UTC)


class Thompson(LinUcb):
    """The same regressions; an arm's weights are drawn from their posterior, and the best draw wins."""

    def __init__(self, alpha: float, seed: int) -> None:
        super().__init__(RUNGS, len(FEATURES), alpha=alpha)
        self._rng = np.random.default_rng(seed)

    def best(self, x: Matrix, allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The allowed arm with the best drawn reward."""
        mean, spread = self.scores(x)  # x·θ is normal with this standard deviation: drawing it is drawing θ
        drawn = mean + spread * self._rng.standard_normal(mean.shape)
        return np.asarray(np.where(allowed, drawn, -np.inf).argmax(axis=1), dtype=np.int64)


def simulated(count: int, seed: int) -> tuple[Matrix, Matrix, NDArray[np.int64]]:
    """Contexts [N, d], the reward of every rung [N, 5], and the rung of a ladder that answers from 0.7 on [N]."""
    rng = np.random.default_rng(seed)
    confidence = rng.beta(2.5, 1.0, count)
    right = rng.random(count) < confidence
    channels = rng.choice(["web", "kakao", "rest"], count)
    rows = [
        context_of([first, (1 - first) / 2], min(first + 0.1, 1.0), 0.0, 2, 0, str(channel))
        for first, channel in zip(confidence, channels, strict=True)
    ]
    costs = np.tile([0.0, 1.0, 1.5, _COSTS.hand_over, _COSTS.hand_over], (count, 1))
    costs[:, 0] = np.where(right, 0.0, _COSTS.wrong_answer)
    costs[:, 1] += np.where(right, 0.0, _COSTS.hand_over)
    ladder = np.where(confidence >= 0.7, 0, np.where(confidence >= 0.35, 1, 3))
    return np.array(rows), 1 - costs / _WORST, ladder.astype(np.int64)


def replayed(package: Path, data: Path) -> tuple[Matrix, Matrix, NDArray[np.int64]]:
    """The same from real utterances and a trained package."""
    from solutions.contact_center.understanding import Understander

    splits = json.loads((data / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    understander = Understander.load(package)
    bot = understander.bot or Bot(settings=Settings(name="table"))
    limits = Limits.of(bot, understander.thresholds)
    rows, rewards, ladder = [], [], []
    for text, intent in [*splits["val"], *splits["oos_val"] * 10]:
        understood = understander.understand(text, _CLOCK)
        options = options_of(understood, bot)
        confidences = [option.confidence for option in options]
        rows.append(context_of(confidences, understood.scope, 0.0, 1, 0, "web"))
        shown = {"answer": options[:1], "confirm": options[:1], "choose": options[:2]}
        truth = OOS if intent == "oos" else intent
        costs = [cost_of_decision(Decision(rung, tuple(shown.get(rung, ())), "", 1.0), truth, _COSTS) for rung in RUNGS]
        rewards.append(1 - np.array(costs) / _WORST)
        ladder.append(RUNGS.index(decide(understood, bot, limits, 0).rung))
    return np.array(rows), np.array(rewards), np.array(ladder)


def regret(model: LinUcb, x: Matrix, rewards: Matrix, order: NDArray[np.int64]) -> tuple[float, float, float]:
    """Mean regret against the rung that turns out best, over all and over the last quarter; µs a choice."""
    everything = np.ones((1, len(RUNGS)), dtype=bool)
    found = []
    begun = time.perf_counter()
    for place in order:
        arm = int(model.best(x[place][None], everything)[0])
        model.update(arm, x[place], float(rewards[place, arm]))
        found.append(float(rewards[place].max() - rewards[place, arm]))
    took = 1e6 * (time.perf_counter() - begun) / len(order)
    return float(np.mean(found)), float(np.mean(found[-len(found) // 4 :])), took


def main() -> None:
    """Print, and write, the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/contact_center"))
    parser.add_argument("--package", type=Path, help="trained on CLINC150's training split; without it, no replay")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    worlds = {"simulated": simulated(options.count, 0)}
    if options.package is not None:
        worlds["replayed"] = replayed(options.package, options.data)
    found = []
    for name, (x, rewards, ladder) in worlds.items():
        best = rewards.max(axis=1)
        rows = np.arange(len(ladder))
        print(f"{name}: ladder regret {float((best - rewards[rows, ladder]).mean()):.4f}, {len(ladder)} situations")
        for kind in ("LinUCB", "Thompson"):
            for alpha in (0.1, 0.25, 0.5, 1.0):
                results = []
                for seed in range(options.seeds):
                    order = np.random.default_rng(seed).permutation(len(ladder))[: options.count]
                    linear = LinUcb(RUNGS, len(FEATURES), alpha=alpha)
                    results.append(regret(linear if kind == "LinUCB" else Thompson(alpha, seed), x, rewards, order))
                whole, late, took = np.mean(results, axis=0)
                spread = float(np.std([one[0] for one in results]))
                print(
                    f"  {kind:9} alpha {alpha:4}: regret {whole:.4f} ± {spread:.4f}, last quarter {late:.4f}, "
                    f"{took:.0f} µs a choice"
                )
                row = {"world": name, "kind": kind, "alpha": alpha, "regret": whole, "last_quarter": late, "us": took}
                found.append(row)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
