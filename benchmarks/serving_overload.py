"""What becomes of our server when far more is asked than it can do: part of `benchmarks.serving`.

64 clients ask again as soon as they have an answer, refusal or not; then, `paced`, they offer four times what was
answered at 8 clients. Wanted: as many answers as at the peak, soon; refusals at once; no growth; nothing lost.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.serving_servers import Running, Work, haechi
from shared import bench_serve_load
from shared.bench_serve import Run, measure

CLIENTS, MANY, TIMES = 8, 64, 4
_WARM_UP_SECONDS = 2.0
_PEAK_SECONDS = 5.0
_CALM = 200  # requests of one client, for the usual time
_SETTLE_SECONDS = 1.0


def overload(work: Work, seconds: float) -> dict[str, Any]:
    """Both bursts, each on a server of its own."""
    closed = _burst(work, seconds, paced=False)
    return closed | {"paced": _burst(work, seconds, paced=True)}


def _burst(work: Work, seconds: float, *, paced: bool) -> dict[str, Any]:
    with haechi(work) as running:
        peak_seconds = min(seconds, _PEAK_SECONDS)
        _run(running, CLIENTS, min(seconds, _WARM_UP_SECONDS))
        usual_ms = _first_ms(running, _CALM)
        before = _run(running, CLIENTS, peak_seconds)
        burst = _run(running, MANY, seconds, TIMES * before.requests_per_s if paced else None)
        first_ms = _first_ms(running, 1)
        time.sleep(_SETTLE_SECONDS)
        after = _run(running, CLIENTS, peak_seconds)
    # The machine's pace changes within a minute: the peak is that around the burst.
    peak = (before.requests_per_s + after.requests_per_s) / 2
    return {
        "peak_requests_per_s": peak,
        "accepted_requests_per_s": burst.requests_per_s,
        "share_of_peak": burst.requests_per_s / peak,
        "accepted_p99_ms": burst.p99_ms,
        "refusals": sum(burst.errors[status] for status in ("429", "503", "504")),
        "refusal_p99_ms": burst.refused_p99_ms,
        "rss_growth_mb": _growth(before, burst),
        "first_after_ms": first_ms,
        "usual_ms": usual_ms,
        "accepted": burst.accepted,
        "server_success": burst.server_success,
        "lost": None if burst.server_success is None else burst.server_success - burst.accepted,
        "other_errors": sum(burst.errors[kind] for kind in ("other", "broken", "unanswered", "wrong_id")),
        "unsent": burst.unsent,
        "cpu_ms_per_request": burst.cpu_ms_per_request,
        "words": burst.words,
    }


def _run(running: Running, clients: int, seconds: float, rate: float | None = None) -> Run:
    return measure(
        running.address,
        running.request,
        clients,
        seconds,
        rate=rate,
        processes=[running.process],
        success=running.success,
    )


def _first_ms(running: Running, requests: int) -> float | None:
    """Median milliseconds of so many requests of one client; of one: that one's."""
    answered = sorted(bench_serve_load.run(running.address, running.request, 1, 60, requests=requests).accepted)
    return 1000 * answered[len(answered) // 2] if answered else None


def _growth(before: Run, burst: Run) -> float | None:
    """MB that the server's processes hold more after the burst than just before it."""
    if before.rss_mb_after is None or burst.rss_mb_after is None:
        return None
    return burst.rss_mb_after - before.rss_mb_after
