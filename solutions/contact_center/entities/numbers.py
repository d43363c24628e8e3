"""Numbers in digits and words, Korean and English: `12,000`, `3만 5천`, `이백삼십`, `열두`, `two hundred and five`.

`KOREAN` and `ENGLISH` are patterns for one written number, to be built into larger ones (dates, money); `value` reads
what they matched. `find` finds the numbers that stand for themselves: `이` or `사` alone is far more often a word
than a number, so single syllables count only before a counter (`이 개월`, `두 대`).

`dictated` gives a second reading of a text, in which digits read one by one (`공일공 일이삼사`, `oh one oh`, `double
five`) are digits, for the patterns of telephone and card numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from solutions.contact_center.entities.reading import Reading

_ONES = {"영": 0, "공": 0, "일": 1, "이": 2, "삼": 3, "사": 4, "오": 5, "육": 6, "륙": 6, "칠": 7, "팔": 8, "구": 9}
_TENS = {"십": 10, "백": 100, "천": 1000}
_GROUPS = {"만": 10**4, "억": 10**8, "조": 10**12}
_NATIVE_TENS = {
    "열": 10, "스물": 20, "스무": 20, "서른": 30, "마흔": 40, "쉰": 50, "예순": 60, "일흔": 70, "여든": 80, "아흔": 90,
}  # fmt: skip
_NATIVE_ONES = {
    "하나": 1, "한": 1, "둘": 2, "두": 2, "셋": 3, "세": 3, "석": 3, "넷": 4, "네": 4, "넉": 4, "다섯": 5, "여섯": 6,
    "일곱": 7, "여덟": 8, "여덜": 8, "아홉": 9,
}  # fmt: skip
_ENGLISH_ONES = {
    word: value
    for value, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
        ]
    )
}
_ENGLISH_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fourty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80,
    "ninety": 90,
}  # fmt: skip
_ENGLISH_GROUPS = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "grand": 1000}

DIGITS = r"(?:\d{1,3}(?:,\d{3}){1,4}(?:\.\d{1,6})?|\d{1,15}(?:\.\d{1,6})?)"
"""In Arabic digits, with thousands in commas and a decimal point."""
_TENS_WORD = "|".join(_NATIVE_TENS)
_ONES_WORD = "|".join(sorted(_NATIVE_ONES, key=len, reverse=True))
NATIVE = rf"(?:(?:{_TENS_WORD})(?:{_ONES_WORD})?|{_ONES_WORD})"
SINO = (
    rf"(?:(?:{DIGITS}\s?[십백천만억조]|[일이삼사오육륙칠팔구십백천만영공])"
    rf"(?:\s?{DIGITS}\s?[십백천만억조]|\s?[일이삼사오육륙칠팔구]?[십백천만억조]"
    rf"|[일이삼사오육륙칠팔구]){{0,16}}(?:\s?\d{{1,4}}(?![\d,.]))?)"
)
KOREAN = rf"(?:{SINO}|{DIGITS}|{NATIVE})"
_ENGLISH_WORD = "|".join(sorted([*_ENGLISH_ONES, *_ENGLISH_TENS, *_ENGLISH_GROUPS, "dozen"], key=len, reverse=True))
_SPELT_OUT = (
    rf"(?:an?\s(?=hundred|thousand|million|dozen)|half\sa\s(?=dozen))?\b(?:{_ENGLISH_WORD})(?:(?:\s|-"
    rf"|,\s|\sand\s)(?:{_ENGLISH_WORD})\b){{0,12}}\b(?!-)"
)
ENGLISH = rf"(?:{_SPELT_OUT}|{DIGITS})"
COUNTERS = (
    "개월|가지|군데|사람|박스|회선|번째|시간|종류|켤레|마리|그릇|송이|자루|묶음|세트|봉지|차례|달"
    "|개|명|분|대|번|장|잔|권|건|곳|"
    "벌|살|세|회|차|층|호|병|통|채|쌍|줄|판|칸|인|점|군|단|배|주|년|기가|메가|원|위|등|프로|퍼센트|kg|g|%"
)
_COUNTED = re.compile(
    rf"(?<![가-힣])(?!열대|[영공일이삼사오육륙칠팔구]{{2}}(?!\s?[십백천만억조]))(?P<number>(?:{SINO}(?<=[^\s][^\s])|{_TENS_WORD}(?:{_ONES_WORD})?|다섯|여섯|일곱"
    rf"|여덟|아홉))\s?(?:{COUNTERS})|"
    rf"(?<![가-힣])(?P<one>한|두|세|네|석|넉|하나|둘|셋|넷)(?:\s(?:{COUNTERS})|개|명|번|장|잔|시간"
    "|달|가지|사람|군데|박스|대만|대를)|"
    r"(?<![가-힣])(?P<few>[일이삼사오육칠팔구])(?:개월|년|층|호선|퍼센트|프로|기가|메가)"
)
_FIGURES = re.compile(rf"(?<![\d.,])(?<![a-z\d][-/])(?P<number>(?:(?<![\w)])[-−])?{DIGITS})(?!\d|[.,]\d|[-/:]\d)")
_PLACED = re.compile(
    rf"(?<![\d.,])(?P<number>{DIGITS}\s?[십백천만억조](?:\s?{DIGITS}\s?[십백천만억조]){{0,8}}(?:\s?\d{{1,4}})?)"
)
_SPELT = re.compile(
    "(?<![가-힣])(?P<number>"
    f"(?:[일이삼사오육륙칠팔구]?[십백천만억조]){{1,8}}[일이삼사오육륙칠팔구]?|(?:{_TENS_WORD})"
    f"(?:{_ONES_WORD})|"
    "하나(?=이?요|만|를|더|도|씩|입)|둘|셋|넷|다섯|여섯|일곱|여덟|아홉|열|스물|서른|마흔|쉰)(?=$|[^가-힣]"
    "|[은는이가을를도만요]|으로|이요|입니다|이에요)"
)
_ENGLISH_SPELT = re.compile(rf"(?<![a-z\d])(?P<number>{_SPELT_OUT})(?![a-z\d])")


def value(written: str) -> int | float | None:
    """The number that is written, or None where it is none. Whole numbers are int."""
    written = written.strip().replace(",", "").replace("−", "-")
    if not written:
        return None
    if re.fullmatch(r"-?\d+(?:\.\d+)?", written, re.ASCII):
        return _plain(Decimal(written))
    if re.search("[가-힣]", written):
        return _native(written) or _sino(written)
    return _english(written)


def _plain(number: Decimal) -> int | float:
    return int(number) if number == int(number) and abs(number) < 10**18 else float(number)


def _native(written: str) -> int | None:
    found = re.fullmatch(rf"({_TENS_WORD})?\s?({_ONES_WORD})?", written)
    if not found or not written:
        return None
    return _NATIVE_TENS.get(found[1] or "", 0) + _NATIVE_ONES.get(found[2] or "", 0)


def _sino(written: str) -> int | float | None:
    total, group, last = Decimal(0), Decimal(0), None
    for part in re.findall(r"\d+(?:\.\d+)?|[^\s\d.]", written):
        if part[0].isdigit():
            last = Decimal(part)
        elif part in _ONES:
            last = Decimal(_ONES[part]) if last is None else last * 10 + _ONES[part]
        elif part in _TENS:
            group += (1 if last is None else last) * _TENS[part]
            last = None
        elif part in _GROUPS:
            group += last or 0
            total += (group or 1) * _GROUPS[part]
            group, last = Decimal(0), None
        else:
            return None
    return _plain(total + group + (last or 0))


def _english(written: str) -> int | float | None:
    total = group = Decimal(0)
    seen = False
    for word in re.findall(r"[a-z]+|\d+(?:\.\d+)?", written.lower()):
        if word in ("a", "an", "and"):
            continue
        if word == "half":
            return 6  # half a dozen: nothing else gets here
        if word == "dozen":
            group = (group or Decimal(1)) * 12
        elif word == "hundred":
            group = (group or Decimal(1)) * 100
        elif word in _ENGLISH_GROUPS:
            total += (group or 1) * _ENGLISH_GROUPS[word]
            group = Decimal(0)
        elif word in _ENGLISH_ONES or word in _ENGLISH_TENS:
            group += _ENGLISH_ONES.get(word, _ENGLISH_TENS.get(word, 0))
        elif word[0].isdigit():
            group += Decimal(word)
        else:
            return None
        seen = True
    return _plain(total + group) if seen else None


def find(text: str, korean: bool) -> Iterator[tuple[int, int, int | float]]:
    """Start, end and value of the numbers in a normalised text; of overlapping ones all, for the caller to choose."""
    patterns = [_FIGURES, _ENGLISH_SPELT]
    if korean:
        patterns += [_COUNTED, _PLACED, _SPELT]
    for pattern in patterns:
        for found in pattern.finditer(text):
            group = found.lastgroup or "number"
            number = value(found[group])
            if number is not None:
                yield found.start(group), found.end(group), number


# --- digits read one by one -------------------------------------------------------------------------------------------

_KOREAN_DIGITS = {
    **{k: str(v) for k, v in _ONES.items() if k != "륙"},
    "빵": "0",
    "령": "0",
    "륙": "6",
    "하나": "1",
    "둘": "2",
}
_ATOM = r"(?:\d|[공영빵령일삼사오육륙칠팔구]|이(?!에요|요|라|고|며|구요)|하나|둘)"
_GAP = r"(?:\s{0,2}[-–—.,·/]?\s{0,2}|\s?(?:다시|에|의|국에|대시)\s?)"
_KOREAN_RUN = re.compile(rf"(?:(?<![가-힣])|(?<=번호)|(?<=[은는])){_ATOM}(?:{_GAP}{_ATOM}){{5,40}}")
_ENGLISH_DIGITS = {word: str(value) for word, value in _ENGLISH_ONES.items() if value < 10} | {"oh": "0", "o": "0"}
_SPOKEN = rf"(?:(?:double|triple)\s)?(?:{'|'.join(_ENGLISH_DIGITS)})"
_ENGLISH_RUN = re.compile(rf"(?<![a-z]){_SPOKEN}(?:[\s,.-]{{1,3}}(?:dash\s|hyphen\s)?{_SPOKEN}){{3,40}}(?![a-z])")
_ENGLISH_ATOM = re.compile(rf"(?:(double|triple)\s)?({'|'.join(_ENGLISH_DIGITS)})(?![a-z])")
_KOREAN_ATOM = re.compile(_ATOM)


def dictated(reading: Reading, korean: bool = True) -> Reading:
    """The reading with digits that are read one by one as digits; the same object where there are none.

    A run in Hangul needs six digits or more, at least four of them read: shorter ones (`이사`, `오이`) are words.
    """
    text = reading.text
    runs: list[tuple[int, int, list[tuple[str, int, int]]]] = []
    if korean:
        for found in _KOREAN_RUN.finditer(text):
            atoms = [(m[0], m.start(), m.end()) for m in _KOREAN_ATOM.finditer(text, found.start(), found.end())]
            spoken = [atom for atom in atoms if not atom[0].isdigit()]
            if len(spoken) >= 4:
                runs.append((found.start(), found.end(), [(_KOREAN_DIGITS.get(one, one), s, e) for one, s, e in atoms]))
    for found in _ENGLISH_RUN.finditer(text):
        english = []
        for atom in _ENGLISH_ATOM.finditer(text, found.start(), found.end()):
            times = {"double": 2, "triple": 3}.get(atom[1] or "", 1)
            english.append((_ENGLISH_DIGITS[atom[2]] * times, atom.start(), atom.end()))
        runs.append((found.start(), found.end(), english))
    return _replaced(reading, sorted(runs)) if runs else reading


def _replaced(reading: Reading, runs: list[tuple[int, int, list[tuple[str, int, int]]]]) -> Reading:
    parts: list[str] = []
    starts: list[int] = []
    ends: list[int] = []

    def keep(begin: int, end: int) -> None:
        parts.append(reading.text[begin:end])
        starts.extend(reading.starts[begin:end])
        ends.extend(reading.ends[begin:end])

    position = 0
    for begin, end, atoms in runs:
        if begin < position:
            continue
        keep(position, begin)
        for written, start, stop in atoms:
            parts.append(written)
            starts += [reading.starts[start]] * len(written)
            ends += [reading.ends[stop - 1]] * len(written)
        position = end
    keep(position, len(reading.text))
    return Reading("".join(parts), tuple(starts), tuple(ends))
