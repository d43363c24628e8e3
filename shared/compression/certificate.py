"""What compression cost, before and after side by side: for the manifest, as JSON, and as one HTML page.

The figures are taken once more when the ladder has stopped, both packages in one run: the winner of several is a little
flattered by the run that chose it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared import machine, reports
from shared.bench import Timing, peak_memory
from shared.compression import targets
from shared.compression.candidate import Measured, size_of
from shared.compression.ladder import Climbed, Options
from shared.errors import HaechiError
from shared.evaluation import Evaluation, interval
from shared.package import Package
from shared.reports import escaped, figures, section, table
from shared.runtime import load

_LAYERS = 200
_LONGER = 2.0
"""How much longer than a rung's the last measurement takes."""


class Slower(HaechiError):
    """The last measurement took back what the ladder had found."""


def certify(climbed: Climbed, options: Options) -> dict[str, Any]:
    """Measure parent and child once more, and put everything that is known into one dictionary for JSON.

    Raises:
        Slower: the child is slower than its parent, or misses the budget, in this measurement.
    """
    bench, chosen = climbed.bench, climbed.chosen
    model = load(chosen.package, bench.target.provider, bench.threads)
    timings = bench.race(model, "measuring before and after", _LONGER)
    speed = timings["after"].ratio_to(timings["before"])
    final = dataclasses.replace(chosen, before=timings["before"], after=timings["after"], speed=speed)
    missed = options.budget.missed(final)
    if final.slower or missed:
        found = "; ".join(missed) or f"{speed.point:.2f} times the time of its parent"
        raise Slower(
            f"{chosen.candidate.rung!r} of {bench.package.manifest.name} met the budget when it was chosen and misses "
            f"it in the last measurement ({found}), so nothing was written; run it on a quieter machine, or relax the "
            f"budget."
        )
    warnings = [each for each in (targets.mismatch(bench.target), chosen.warning) if each]
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "parent": {
            "name": bench.package.manifest.name,
            "version": bench.package.manifest.version,
            "fingerprint": bench.package.fingerprint,
        },
        "target": {"name": bench.target.name, "is": bench.target.says, "types": chosen.candidate.note},
        "machine": machine.facts(),
        "provider": model.provider,
        "threads": bench.threads,
        "input": {name: [*array.shape] for name, array in bench.example.items()},
        "budget": dataclasses.asdict(options.budget),
        "seed": options.seed,
        "chosen": {"rung": chosen.candidate.rung, "why": climbed.why},
        "metric": chosen.evaluation.metric,
        "samples": chosen.evaluation.samples,
        "before": _side(bench.package, timings["before"], bench.evaluation, _memory(climbed, bench.package.path)),
        "after": _side(chosen.package, timings["after"], chosen.evaluation, _memory(climbed, chosen.path)),
        "ratios": {
            "smaller": size_of(bench.package) / size_of(chosen.package),
            "model_smaller": len(bench.package.model) / len(chosen.package.model),
            "faster": speed.faster,
            "faster_interval": [1 / speed.high, 1 / speed.low if speed.low else None],
        },
        "drop": dataclasses.asdict(chosen.drop) | {"allowed": options.budget.max_drop},
        "agreement": chosen.agreement,
        "changed": chosen.changed,
        "warnings": warnings,
        "layers": [dataclasses.asdict(layer) for layer in chosen.candidate.layers],
        "left_in_float": list(chosen.candidate.left),
        "stored": [dataclasses.asdict(each) for each in chosen.candidate.stored],
        "rungs": [step.as_dict() for step in climbed.steps],
    }


def _memory(climbed: Climbed, path: Path) -> int | None:
    """Peak memory in a process of its own; None where that process could not have the package."""
    try:
        return peak_memory(path, climbed.bench.threads, climbed.bench.target.provider, climbed.bench.example)
    except HaechiError:
        return None  # a machine that trusts only signed packages does not load an unsigned one


def _side(package: Package, timing: Timing, evaluation: Evaluation, memory: int | None) -> dict[str, Any]:
    low, high = interval(evaluation)
    return {
        "package_bytes": size_of(package),
        "model_bytes": len(package.model),
        "latency_ms_p50": timing.p50,
        "latency_ms_p95": timing.p95,
        "peak_memory_bytes": memory,
        "metric": evaluation.value,
        "metric_interval": [low, high],
        "extra": dict(evaluation.extra),
    }


def metrics_of(chosen: Measured) -> dict[str, float]:
    """For the manifest: what was measured of the child itself; the parent's other figures are the parent's."""
    return {chosen.evaluation.metric: chosen.evaluation.value, **chosen.evaluation.extra}


# -- the page -------------------------------------------------------------------------------------------------------


def page(certificate: Mapping[str, Any]) -> str:
    """The certificate as one HTML file that needs nothing beside it."""
    parent, drop, ratios = certificate["parent"], certificate["drop"], certificate["ratios"]
    metric = certificate["metric"]
    cards = [
        (f"{ratios['smaller']:.2f}×", "smaller"),
        (f"{ratios['faster']:.2f}×", "faster (p50)"),
        (f"{drop['point']:+.4f}", f"drop of {metric}, {drop['low']:+.4f} to {drop['high']:+.4f}"),
    ]
    if certificate["agreement"] is not None:
        cards.append((f"{100 * certificate['agreement']:.1f} %", f"same answer as the parent: {changed(certificate)}"))
    body = [
        _header(certificate),
        figures(cards),
        *(f'<p class="warning">{escaped(each)}</p>' for each in certificate["warnings"]),
        section("Before and after", _sides(certificate)),
        section("Rungs", _rungs(certificate["rungs"])),
    ]
    if certificate["layers"]:
        body.append(section("Error by layer", _layers(certificate["layers"])))
    body.append(section("Measured on", _facts(certificate)))
    title = f"Certificate: {parent['name']} {parent['version']} for {certificate['target']['name']}"
    return reports.page(title, body)


def changed(certificate: Mapping[str, Any]) -> str:
    """How many answers are no longer the parent's, in words; only where answers were compared."""
    return f"of {certificate['samples']:,} samples, {certificate['changed']:,} get another answer"


def _header(certificate: Mapping[str, Any]) -> str:
    parent, chosen = certificate["parent"], certificate["chosen"]
    name = f"{parent['name']} {parent['version']} for {certificate['target']['name']}"
    return (
        f"<header><h1>{escaped(name)}</h1>"
        f'<p class="soft">Chosen: <b>{escaped(chosen["rung"])}</b> ({escaped(certificate["target"]["types"])}): '
        f"{escaped(chosen['why'])}.<br>Parent <code>{escaped(parent['fingerprint'])}</code></p></header>"
    )


def _sides(certificate: Mapping[str, Any]) -> str:
    before, after = certificate["before"], certificate["after"]
    rows = [
        ("Package", _megabytes(before["package_bytes"]), _megabytes(after["package_bytes"])),
        ("Model", _megabytes(before["model_bytes"]), _megabytes(after["model_bytes"])),
        ("Latency, p50", f"{before['latency_ms_p50']:.2f} ms", f"{after['latency_ms_p50']:.2f} ms"),
        ("Latency, p95", f"{before['latency_ms_p95']:.2f} ms", f"{after['latency_ms_p95']:.2f} ms"),
        ("Peak memory", _megabytes(before["peak_memory_bytes"]), _megabytes(after["peak_memory_bytes"])),
        (f"{certificate['metric']} (95 % interval)", _with_interval(before), _with_interval(after)),
        *((name, f"{before['extra'].get(name, 0):.4f}", f"{value:.4f}") for name, value in after["extra"].items()),
    ]
    return table(("", "before", "after"), rows)


def _with_interval(side: Mapping[str, Any]) -> str:
    low, high = side["metric_interval"]
    return f"{side['metric']:.4f} ({low:.4f} to {high:.4f})"


def _rungs(steps: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for step in steps:
        figures = ("", "", "")
        if "drop" in step:
            figures = (_megabytes(step["package_bytes"]), f"{step['speedup']:.2f}×", f"{step['drop']['point']:+.4f}")
        rows.append((step["rung"], *figures, step["result"], step["why"]))
    return table(("rung", "package", "faster", "drop", "result", "why"), rows, words=(4, 5))


def _layers(layers: Sequence[Mapping[str, Any]]) -> str:
    """The worst ones first where there are more than a page can hold."""
    shown = sorted(layers, key=lambda layer: -layer["error"])[:_LAYERS] if len(layers) > _LAYERS else layers
    rows = [(each["name"], each["operator"], f"{each['error']:.4f}", f"{each['own']:.4f}") for each in shown]
    note = "Relative: ‖int8 − float‖ / ‖float‖ of the layer's output over calibration samples."
    return f'<p class="soft">{escaped(note)}</p>' + table(("layer", "operator", "error", "added here"), rows)


def _facts(certificate: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in certificate["input"].items())
    rows = [
        *certificate["machine"].items(),
        ("provider", certificate["provider"]),
        ("threads", certificate["threads"]),
        ("input", sizes),
        ("samples judged", certificate["samples"]),
        ("target", certificate["target"]["is"]),
        ("when", certificate["created"]),
    ]
    return table(("", ""), rows, words=(1,))


def _megabytes(size: int | None) -> str:
    return "not measured" if size is None else f"{size / 1e6:.2f} MB"
