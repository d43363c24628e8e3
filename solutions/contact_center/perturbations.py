"""What people do to text without changing what they mean: spaces, slips of the finger, other forms of the same letters.

Each perturbation is a function from text to text, drawn from a seed and the text alone, so that two models are asked
about the same distorted text.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Callable, Sequence

import numpy as np

Change = Callable[[str, np.random.Generator], str]

_HANGUL = re.compile(r"[가-힣]")
_NEAR = {  # neighbours on the keyboard
    "q": "wa", "w": "qes", "e": "wrd", "r": "etf", "t": "ryg", "y": "tuh", "u": "yij", "i": "uok", "o": "ipl",
    "p": "ol", "a": "qsz", "s": "adw", "d": "sfe", "f": "dgr", "g": "fht", "h": "gjy", "j": "hku", "k": "jli",
    "l": "ko", "z": "xa", "x": "zcs", "c": "xvd", "v": "cbf", "b": "vng", "n": "bmh", "m": "nj",
}  # fmt: skip
_VOWELS = {0: 4, 4: 0, 1: 5, 5: 1, 8: 13, 13: 8, 18: 20, 20: 18}
"""Index of a medial jamo → its likeliest slip: ㅏ/ㅓ, ㅐ/ㅔ, ㅗ/ㅜ, ㅡ/ㅣ."""
_TENSE = {0: 1, 3: 4, 7: 8, 9: 10, 12: 13}
"""Plain initial → tense one, as when Shift is held."""
_ENGLISH = {
    "예약": "booking", "취소": "cancel", "변경": "change", "요금": "price", "날씨": "weather", "메일": "mail",
    "결제": "payment", "계좌": "account", "카드": "card", "비밀번호": "password", "시간": "time", "일정": "schedule",
    "확인": "check", "주문": "order", "배송": "delivery", "환불": "refund", "쇼핑": "shopping", "음악": "music",
    "영화": "movie", "여행": "travel",
}  # fmt: skip


def of(texts: Sequence[str], seed: int) -> dict[str, Callable[[str], str]]:
    """The perturbations that mean something for these texts, by name."""
    korean = sum(bool(_HANGUL.search(text)) for text in texts) > 0.2 * len(texts)
    chosen: dict[str, Change] = {"typing error": _typing_error, "two typing errors": _two_errors}
    if korean:
        chosen = {
            "no spaces": lambda text, _: "".join(text.split()),
            "wrong spaces": _wrong_spaces,
            "jamo slip": _jamo_slip,
            "two jamo slips": lambda text, rng: _jamo_slip(_jamo_slip(text, rng), rng),
            "English words": lambda text, _: _in_english(text),
            "decomposed jamo": lambda text, _: unicodedata.normalize("NFD", text),
        }
    else:
        chosen["no spaces"] = lambda text, _: "".join(text.split())
        chosen["capitals"] = lambda text, _: text.upper()
    chosen["full-width forms"] = lambda text, _: _full_width(text)
    return {name: _seeded(change, name, seed) for name, change in chosen.items()}


def _seeded(change: Change, name: str, seed: int) -> Callable[[str], str]:
    def changed(text: str) -> str:
        key = zlib.crc32(f"{name}\n{text}".encode("utf-8", "surrogatepass"))
        return change(text, np.random.default_rng([seed, key]))

    return changed


def _typing_error(text: str, rng: np.random.Generator) -> str:
    """One letter replaced by its neighbour, left out, doubled, or exchanged with the next."""
    places = [index for index, each in enumerate(text) if each.lower() in _NEAR]
    if not places:
        return text
    place = int(rng.choice(places))
    letter = text[place]
    kind = int(rng.integers(4))
    if kind == 0:
        new = str(rng.choice(list(_NEAR[letter.lower()])))
    else:
        new = ("", letter * 2, text[place + 1 : place + 2] + letter)[kind - 1]
    return text[:place] + new + text[place + (2 if kind == 3 else 1) :]


def _two_errors(text: str, rng: np.random.Generator) -> str:
    return _typing_error(_typing_error(text, rng), rng)


def _wrong_spaces(text: str, rng: np.random.Generator) -> str:
    """Each space goes with a probability of a half; between other syllables one comes with a tenth."""
    made = []
    for index, each in enumerate(text):
        if each == " " and rng.random() < 0.5:
            continue
        made.append(each)
        following = text[index + 1 : index + 2]
        if _HANGUL.match(each) and _HANGUL.match(following or " ") and rng.random() < 0.1:
            made.append(" ")
    return "".join(made)


def _jamo_slip(text: str, rng: np.random.Generator) -> str:
    """One syllable with another vowel, a tense initial, or without its final consonant."""
    places = [index for index, each in enumerate(text) if _HANGUL.match(each)]
    if not places:
        return text
    place = int(rng.choice(places))
    initial, rest = divmod(ord(text[place]) - 0xAC00, 588)
    medial, final = divmod(rest, 28)
    ways = [(initial, _VOWELS.get(medial, 20 if medial != 20 else 18), final)]
    if initial in _TENSE:
        ways.append((_TENSE[initial], medial, final))
    if final:
        ways.append((initial, medial, 0))
    initial, medial, final = ways[int(rng.integers(len(ways)))]
    return text[:place] + chr(0xAC00 + initial * 588 + medial * 28 + final) + text[place + 1 :]


def _in_english(text: str) -> str:
    for korean, english in _ENGLISH.items():
        text = text.replace(korean, english)
    return text


def _full_width(text: str) -> str:
    """Letters and digits in their full-width forms."""
    return "".join(chr(ord(each) + 0xFEE0) if "!" <= each <= "~" else each for each in text)
