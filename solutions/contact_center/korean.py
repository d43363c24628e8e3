"""Korean for messages with filled-in words: particles, jamo, and how numbers and letters are read aloud.

A particle has two forms, chosen by the last sound of the word before it: `사과를` but `빵을`. What was filled in may
end in Hangul, in a digit (`7은`, read 칠), in Latin letters (`PC는`, read 피시; `Basic은`, read 베이직) or in a
closing bracket or quotation mark, which is not read. `(으)로` also has the plain form after ㄹ: `서울로`, `7로`.

Sounds follow the standard pronunciation: digits after a word are read one by one in the Sino-Korean way, a number as a
whole by its last place (`10은`, 십; `100은`, 백; `10000은`, 만), all-capital words without a name letter by letter.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from shared.errors import BadInput

INITIALS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
MEDIALS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
FINALS = ("", *"ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ")
_FIRST, _LAST = 0xAC00, 0xD7A3

_FORMS = {
    "은/는": ("은", "는"),
    "이/가": ("이", "가"),
    "을/를": ("을", "를"),
    "과/와": ("과", "와"),
    "으로/로": ("으로", "로"),
    "이라/라": ("이라", "라"),
    "이나/나": ("이나", "나"),
    "이랑/랑": ("이랑", "랑"),
    "이야/야": ("이야", "야"),
    "이에요/예요": ("이에요", "예요"),
    "이든/든": ("이든", "든"),
    "이고/고": ("이고", "고"),
    "이며/며": ("이며", "며"),
    "이란/란": ("이란", "란"),
    "이면/면": ("이면", "면"),
    "이었/였": ("이었", "였"),
    "아/야": ("아", "야"),
}
"""After a final consonant, and after a vowel."""
_NAMES = {name: forms for forms in _FORMS.values() for name in (f"{forms[0]}/{forms[1]}", f"{forms[1]}/{forms[0]}")}

_WRITTEN = {
    "은(는)": "은/는",
    "는(은)": "은/는",
    "이(가)": "이/가",
    "가(이)": "이/가",
    "을(를)": "을/를",
    "를(을)": "을/를",
    "와(과)": "과/와",
    "과(와)": "과/와",
    "(으)로": "으로/로",
    "으로(로)": "으로/로",
    "로(으로)": "으로/로",
    "(이)라": "이라/라",
    "(이)나": "이나/나",
    "(이)랑": "이랑/랑",
    "(이)든": "이든/든",
    "(이)고": "이고/고",
    "(이)며": "이며/며",
    "(이)란": "이란/란",
    "(이)면": "이면/면",
    "(이)었": "이었/였",
    "(이)야": "이야/야",
    "이에요(예요)": "이에요/예요",
    "예요(이에요)": "이에요/예요",
    "아(야)": "아/야",
    "야(아)": "아/야",
}
"""How a template writes a particle that is still to be chosen."""
_TO_CHOOSE = re.compile("|".join(re.escape(form) for form in sorted(_WRITTEN, key=len, reverse=True)))

_SILENT = re.compile(r"[\s\"'’”」』》〉\])}>*_~`.,!?:;…·\u200b-\u200f\ufeff\ufe0f\u00ad-]+\Z")
_BRACKETED = re.compile(r"\s*(?:\([^()]*\)|\[[^\[\]]*\])\Z")
_DIGIT_FINALS = ("ㅇ", "ㄹ", "", "ㅁ", "", "", "ㄱ", "ㄹ", "ㄹ", "")
"""Of 영 일 이 삼 사 오 육 칠 팔 구."""
_PLACE_FINALS = ((12, ""), (8, "ㄱ"), (4, "ㄴ"), (3, "ㄴ"), (2, "ㄱ"), (1, "ㅂ"))
"""Of 조 억 만 천 백 십, with their number of zeros."""
_LETTER_FINALS = {"l": "ㄹ", "m": "ㅁ", "n": "ㄴ", "r": "ㄹ"}
"""Of 엘 엠 엔 알; the names of the other letters end in a vowel (에프, 에이치, 에스, 엑스)."""
_SIGN_FINALS = {
    "%": "",
    "℃": "",
    "°": "",
    "㎏": "ㅁ",
    "₩": "ㄴ",
    "$": "",
    "€": "",
    "+": "",
    "#": "",
    "&": "",
    "@": "ㅇ",
}
"""Of 퍼센트 도 도 킬로그램 원 달러 유로 플러스 샵 앤드 골뱅이.

`#` and others read in several ways are taken as open.
"""
_UNITS = {
    "kg": "ㅁ",
    "g": "ㅁ",
    "mg": "ㅁ",
    "km": "",
    "m": "",
    "cm": "",
    "mm": "",
    "gb": "",
    "mb": "",
    "kb": "",
    "tb": "",
    "l": "",
    "ml": "",
    "kw": "",
    "kwh": "",
    "mbps": "",
    "gbps": "",
}
"""Read as units after a number: 킬로그램, 미터, 기가바이트, 리터, ..."""
_CAPITALS_READ_AS_WORDS = {
    "PIN": "ㄴ",
    "ARS": "",
    "LAN": "ㄴ",
    "SIM": "ㅁ",
    "USIM": "ㅁ",
    "ESIM": "ㅁ",
    "RAM": "ㅁ",
    "ROM": "ㅁ",
}
_VOWELS = "aeiou"
_ENDINGS = (
    *(("le", "ㄹ"), ("ng", "ㅇ"), ("ck", "ㄱ"), ("pp", "ㅂ"), ("me", "ㅁ"), ("ne", "ㄴ")),
    *(("l", "ㄹ"), ("m", "ㅁ"), ("n", "ㄴ")),
)
"""Of English words as Korean borrows them: 애플, 모바일, 링, 백, 앱, 홈, 라인, 콜, 프리미엄, 플랜."""
_STOPS = {"k": "ㄱ", "c": "ㄱ", "p": "ㅂ", "b": "ㅂ", "t": "ㅅ"}


# --- jamo -------------------------------------------------------------------------------------------------------------


def is_syllable(character: str) -> bool:
    """Whether it is one composed Hangul syllable."""
    return len(character) == 1 and _FIRST <= ord(character) <= _LAST


def decompose(text: str) -> str:
    """Every composed syllable as its letters (compatibility jamo), the rest as it is: `한글` → `ㅎㅏㄴㄱㅡㄹ`."""
    return "".join(map(_letters, text))


@lru_cache(maxsize=16384)
def _letters(character: str) -> str:
    return "".join(letters(character)) if is_syllable(character) else character


def letters(syllable: str) -> tuple[str, str, str]:
    """Initial, medial and final (or "") of one composed syllable.

    Raises:
        ValueError: it is not one.
    """
    if not is_syllable(syllable):
        raise ValueError(f"{syllable!r} is no composed Hangul syllable.")
    rest = ord(syllable) - _FIRST
    return INITIALS[rest // 588], MEDIALS[rest % 588 // 28], FINALS[rest % 28]


def compose(text: str) -> str:
    """Letters joined into syllables again, the way a keyboard does it: `ㅎㅏㄴㄱㅡㄹ` → `한글`.

    A consonant between two vowels begins the second syllable; of a double final (`ㄺ`) nothing moves, for `decompose`
    keeps it in one letter. So `compose(decompose(text)) == text` for composed text without loose jamo.
    """
    joined: list[str] = []
    place = 0
    while place < len(text):
        here = text[place]
        if here not in INITIALS or text[place + 1 : place + 2] not in tuple(MEDIALS):
            joined.append(here)
            place += 1
            continue
        syllable = _FIRST + INITIALS.index(here) * 588 + MEDIALS.index(text[place + 1]) * 28
        final = text[place + 2 : place + 3]
        starts_next = final in tuple(INITIALS) and text[place + 3 : place + 4] in tuple(MEDIALS)
        if final and final in FINALS and not starts_next:
            syllable += FINALS.index(final)
            place += 1
        joined.append(chr(syllable))
        place += 2
    return "".join(joined)


# --- the last sound ---------------------------------------------------------------------------------------------------


def final_sound(word: str) -> str | None:
    """The final consonant with which a word ends when read aloud: a jamo, "" after a vowel, None: it cannot be told."""
    word = _without_silence(unicodedata.normalize("NFKC", word))
    if not word:
        return None
    last = word[-1]
    if is_syllable(last):
        return letters(last)[2]
    if last in INITIALS or last in FINALS:
        return last if last == "ㄹ" else "ㄱ"  # the names of consonants all end in one: 기역, 니은, 리을
    if last in MEDIALS:
        return ""
    if last.isdecimal():
        return _number_final(word)
    if last in _SIGN_FINALS:
        return _SIGN_FINALS[last]
    if last.isascii() and last.isalpha():
        return _latin_final(word)
    return None


def _without_silence(word: str) -> str:
    """Less what is written and not read: closing quotation marks, stops, and a bracket after the word."""
    for _ in range(4):  # `"프리미엄"(월)`: some layers; more do not occur
        shorter = _SILENT.sub("", _BRACKETED.sub("", word))
        if not shorter:
            return _SILENT.sub("", word)
        if shorter == word:
            return word
        word = shorter
    return word


def _number_final(word: str) -> str:
    run = re.search(r"\d[\d,.]*\Z", word)
    assert run is not None  # the word ends in a digit
    written = run[0].replace(",", "")
    whole = written.rpartition(".")[2] if "." in written else written
    digit = unicodedata.decimal(whole[-1])
    before = word[run.start() - 1 : run.start()]
    read_one_by_one = "." in written or before == "-" or (whole[0] == "0" and len(whole) > 1) or len(whole) > 16
    if digit or read_one_by_one or not whole.strip("0"):
        return _DIGIT_FINALS[digit]
    zeros = len(whole) - len(whole.rstrip("0"))
    return next(final for place, final in _PLACE_FINALS if zeros >= place)


def _latin_final(word: str) -> str:
    run = re.search(r"[A-Za-z]+\Z", word)
    assert run is not None  # the word ends in a Latin letter
    written, low = run[0], run[0].lower()
    before = word[: run.start()].rstrip()
    if before[-1:].isdigit() and low in _UNITS and (len(low) > 1 or written == low):
        return _UNITS[low]  # 5g is five grams, 5G a network
    if written in _CAPITALS_READ_AS_WORDS:
        return _CAPITALS_READ_AS_WORDS[written]
    if len(written) == 1 or (written.isupper() and (len(written) <= 5 or not set(low) & set(_VOWELS))):
        return _LETTER_FINALS.get(low[-1], "")
    return _word_final(low)


def _word_final(low: str) -> str:
    """Of an English word as Korean borrows it: 베이직, 스탠다드, 프리미엄, 플랜, 콜, 웹, 숍."""
    for ending, sound in _ENDINGS:
        if low.endswith(ending):
            return sound
    long_vowel = low[-3:-1] in {"ee", "ea", "oa", "ai"} or low[-3:] in {"oot", "oop"}
    if low[-1] in _STOPS and low[-2:-1] in tuple(_VOWELS) and not long_vowel:
        return _STOPS[low[-1]]  # a short vowel before a stop keeps it as a final: 북, 팝, 인터넷, 베이직, 웹
    return ""


# --- particles --------------------------------------------------------------------------------------------------------


def particle(word: str, kind: str) -> str:
    """The form of a particle after a word: `particle("사과", "을/를")` → `를`.

    Args:
        word: what stands before it.
        kind: both forms in either order, as `은/는`, `이/가`, `을/를`, `와/과`, `으로/로`, `아/야`.

    Where the last sound cannot be told (an emoji, a foreign script, nothing at all), both are given: `을(를)`.

    Raises:
        BadInput: no such particle.
    """
    forms = _NAMES.get(kind)
    if forms is None:
        raise BadInput(f"{kind!r} is no Korean particle; write one of {', '.join(_FORMS)}.")
    closed, open_ = forms
    sound = final_sound(word)
    if sound is None:
        if closed.endswith(open_):  # 으로/로, 이라/라
            return f"({closed[: -len(open_)]}){open_}"
        return f"{closed}({open_})"
    if closed == "으로" and sound == "ㄹ":
        return open_
    return closed if sound else open_


def with_particles(text: str) -> str:
    """A message with `을(를)`, `(으)로` and the like chosen by the word before each, as after slots were filled in.

    Every other character stays. A particle with nothing readable before it keeps both forms.
    """
    parts: list[str] = []
    position = 0
    for found in _TO_CHOOSE.finditer(text):
        parts.append(text[position : found.start()])
        before = text[max(0, found.start() - 80) : found.start()]
        directly = before and not before[-1].isspace()
        chosen = particle(before, _WRITTEN[found[0]]) if directly else found[0]
        parts.append(found[0] if "(" in chosen else chosen)
        position = found.end()
    parts.append(text[position:])
    return "".join(parts)


# --- numbers read aloud -----------------------------------------------------------------------------------------------

_SINO = "영일이삼사오육칠팔구"
_NATIVE_ONES = ("", "하나", "둘", "셋", "넷", "다섯", "여섯", "일곱", "여덟", "아홉")
_NATIVE_TENS = ("", "열", "스물", "서른", "마흔", "쉰", "예순", "일흔", "여든", "아흔")


def sino(number: int) -> str:
    """A number from 0 below 10^16 in Sino-Korean words, as amounts and dates are read: 230 → `이백삼십`.

    Raises:
        ValueError: it is out of range.
    """
    if not 0 <= number < 10**16:
        raise ValueError(f"{number} is not from 0 to 9,999,999,999,999,999.")
    if number == 0:
        return "영"
    words = ""
    for power, place in ((12, "조"), (8, "억"), (4, "만"), (0, "")):
        four = number // 10**power % 10_000
        if not four:
            continue
        group = ""
        for tens, name in ((1000, "천"), (100, "백"), (10, "십"), (1, "")):
            digit = four // tens % 10
            if digit:
                group += name if digit == 1 and name else _SINO[digit] + name
        words += "만" if place == "만" and group == "일" else group + place
    return words


def native(number: int) -> str:
    """A number from 1 to 99 in native words, as things and hours are counted: 12 → `열둘`.

    Raises:
        ValueError: it is out of range.
    """
    if not 1 <= number <= 99:
        raise ValueError(f"{number} is not from 1 to 99.")
    return _NATIVE_TENS[number // 10] + _NATIVE_ONES[number % 10]


def digits(text: str) -> str:
    """Every digit of a text read by itself, zero as 공, as telephone numbers are: `010` → `공일공`."""
    return "".join("공" if one == "0" else _SINO[int(one)] if one in "123456789" else one for one in text)
