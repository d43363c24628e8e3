"""What a server says of itself, asked over HTTP before and after a load: its models, its statistics, its counters.

Any server of the Open Inference Protocol v2 will do. What it does not offer (statistics, metrics) is None.
"""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from shared.bench_serve_load import Address, plain_words
from shared.errors import BadInput, HaechiError

_SECONDS = 30.0
_MOST = 64 * 1024 * 1024
_SEVERAL = b"# HELP haechi_process_restarts "
"""In the metrics of a server with several worker processes."""
_AGREED_SECONDS = 1.2
_SAMPLE = re.compile(r"^(nv_inference_\w+)\{([^}]*)\} ([0-9.e+]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Statistics:
    """Counters of one model since its server started."""

    success: int
    """Requests answered."""
    executions: int
    """Runs of the model; with batching, fewer than requests."""
    compute_seconds: float
    """Spent in them."""
    one_thread_ms: float | None = None
    """What the server itself measured for one inference on one thread, if it says so (Haechi does)."""


def parse_url(url: str) -> Address:
    """The address in a URL such as http://127.0.0.1:8000.

    Raises:
        BadInput: it is no such URL.
    """
    parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
    try:
        port = parts.port
    except ValueError as error:
        raise BadInput(f"the URL {url}: {error}.") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise BadInput(f"the URL {url} must be a server's address, such as http://127.0.0.1:8000.")
    tls = parts.scheme == "https"
    return Address(parts.hostname, port or (443 if tls else 80), tls)


class Server:
    """A server and the key to it."""

    def __init__(self, address: Address, key: str) -> None:
        self.address = address
        self.headers = {"X-Api-Key": key} if key else {}
        if not key.isascii() or not key.isprintable():
            raise BadInput("the key holds characters that no key has; copy it again.")

    def path(self, model: str, version: str) -> str:
        """Where a model is, in a version or in the one that answers by default."""
        path = f"/v2/models/{quote(model, safe='')}"
        return f"{path}/versions/{quote(version, safe='')}" if version else path

    def metadata(self, model: str, version: str) -> dict[str, Any]:
        """Name, inputs and outputs of a model.

        Raises:
            BadInput: there is no such model, or the key is refused.
            HaechiError: the server cannot be reached, or does not speak the protocol.
        """
        status, body = self.request("GET", self.path(model, version))
        if status != 200:
            raise self.refusal(status, body, model)
        try:
            found = json.loads(body)
            if not isinstance(found["inputs"], list):
                raise TypeError
        except (ValueError, KeyError, TypeError) as error:
            words = "answers, but not in the Open Inference Protocol v2; check the URL."
            raise HaechiError(f"the server at {self.address.netloc} {words}") from error
        return dict(found)

    def statistics(self, model: str, version: str) -> Statistics | None:
        """The model's counters, from the statistics extension, else from the metrics; None where neither is.

        Where several worker processes answer at one address, statistics are of one of them and metrics of all: then
        the metrics count, once every worker has said what it did last.
        """
        status, metrics = self.request("GET", "/metrics")
        if status == 200 and _SEVERAL in metrics:
            time.sleep(_AGREED_SECONDS)
            _, metrics = self.request("GET", "/metrics")
        else:
            found, body = self.request("GET", f"{self.path(model, version)}/stats")
            if found == 200:
                return _from_statistics(body)
        return _from_metrics(metrics.decode("utf-8", "replace"), model, version) if status == 200 else None

    def refusal(self, status: int, body: bytes, model: str) -> HaechiError:
        """An answer that is not 200, as an error that says what to do."""
        words = plain_words(body).rstrip(".")
        if status == 401:
            have = "does not know this key" if self.headers else "asks for a key"
            mend = "make one with `haechi serve --create-key NAME:operator` and give it as HAECHI_KEY or --key"
            return BadInput(f"the server at {self.address.netloc} {have}; {mend}.")
        if status == 403:
            return BadInput(f"the key's role does not suffice: {words}; make one with the role operator.")
        if status == 404:
            return BadInput(f"--model {model}: {words}.")
        return HaechiError(f"the server at {self.address.netloc} answers {status} to {model}: {words}.")

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of one request on a connection of its own.

        Raises:
            HaechiError: no answer.
        """
        kind = http.client.HTTPSConnection if self.address.tls else http.client.HTTPConnection
        connection = kind(self.address.host, self.address.port, timeout=_SECONDS)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read(_MOST)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise HaechiError(
                f"no server can be reached at {self.address.netloc}: {reason}; check the address, and that it runs."
            ) from error
        finally:
            connection.close()


def _from_statistics(body: bytes) -> Statistics | None:
    """Triton's statistics of one or more versions, added up."""
    try:
        found = json.loads(body)
        rows = found["model_stats"]
        inference = [row["inference_stats"] for row in rows]
        return Statistics(
            success=sum(int(row["success"]["count"]) for row in inference),
            executions=sum(int(row["execution_count"]) for row in rows),
            compute_seconds=sum(int(row["compute_infer"]["ns"]) for row in inference) / 1e9,
            one_thread_ms=next(_one_thread(found, rows), None),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _one_thread(found: Any, rows: Any) -> Iterator[float]:
    for place in (*rows, found):
        measured = place.get("haechi")
        if isinstance(measured, dict) and isinstance(measured.get("one_thread_ms"), int | float):
            yield float(measured["one_thread_ms"])


def _from_metrics(text: str, model: str, version: str) -> Statistics | None:
    """The same from Prometheus' text, under Triton's names."""
    wanted = [f'model="{model}"'] + ([f'version="{version}"'] if version else [])
    sums: dict[str, float] = {}
    for name, labels, value in _SAMPLE.findall(text):
        if all(label in labels.split(",") for label in wanted):
            sums[name] = sums.get(name, 0.0) + float(value)
    if "nv_inference_request_success" not in sums:
        return None
    return Statistics(
        success=round(sums["nv_inference_request_success"]),
        executions=round(sums.get("nv_inference_exec_count", 0)),
        compute_seconds=sums.get("nv_inference_compute_infer_duration_us", 0.0) / 1e6,
    )
