"""Korean morphemes by Kiwi, where the extra `korean` is installed: what was said, without particles and endings.

Content words (nouns, verb and adjective stems, adverbs, numbers, foreign words) survive what breaks words and n-grams:
other endings, another word order, spaces left out. Kiwi finds spaces by itself, so text is given to it as it is.
"""

from __future__ import annotations

import functools
import importlib.util
import threading
from typing import Any

from shared.errors import BadInput

CONTENT = frozenset(
    {"NNG", "NNP", "NNB", "NR", "NP", "VV", "VA", "VX", "VCN", "MM", "MAG", "XR", "SL", "SN", "SW", "SH"}
)
"""Tags of the Sejong tag set whose words carry meaning."""
_LOCK = threading.Lock()


def available() -> bool:
    """Whether Kiwi is installed."""
    return importlib.util.find_spec("kiwipiepy") is not None


def tagged(text: str) -> list[tuple[str, str]]:
    """All morphemes with their tags, in order: `메일/NNG`, `지우/VV`, `어/EF`.

    Raises:
        BadInput: Kiwi is not installed.
    """
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # Kiwi takes no lone surrogates
    return [(str(token.form), str(token.tag)) for token in _analyser().tokenize(whole)]


def is_content(tag: str) -> bool:
    """Whether a morpheme carries meaning. `VV-I`, an irregular verb, is a verb."""
    return tag.split("-", 1)[0] in CONTENT


def version() -> str:
    """Of Kiwi; another one may cut words differently."""
    _analyser()
    import kiwipiepy

    return str(kiwipiepy.__version__)


def _analyser() -> Any:
    with _LOCK:
        return _loaded()


@functools.cache
def _loaded() -> Any:
    if not available():
        raise BadInput(
            "this model reads Korean morphemes, and Kiwi is not installed; `pip install 'haechi[korean]'` brings it."
        )
    from kiwipiepy import Kiwi

    return Kiwi(num_workers=1)
