"""The functions behind the templates' actions: they stand where a company's own systems would be.

Nothing is stored and nothing is called. What they return is made from the arguments alone, so that a conversation
gives the same answers every time: a phone number always has the same bill. A number that ends in 0000 stands for a
customer who cannot be found, an order that ends in 0000 for one that does not exist, so that the way a bot takes when
an action fails can be tried.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from solutions.contact_center.dialogue.actions import ActionContext, ActionFailed, function, validator

_ORDER_STATES = ("preparing", "shipped", "delivered")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_REASONS = {
    "closed": {
        "ko": "그 시간에는 방문하지 않습니다. 월요일부터 토요일, 오전 9시부터 오후 6시 사이로 말씀해 주세요.",
        "en": "We do not visit at that time. Please choose Monday to Saturday, between 9 am and 6 pm.",
    },
    "same": {
        "ko": "보내는 계좌와 받는 계좌가 같습니다. 받는 계좌를 다시 말씀해 주세요.",
        "en": "Both accounts are the same. Please give me the account to send to once more.",
    },
}


def _number(arguments: Mapping[str, Any], salt: str) -> int:
    """A number made from the arguments: large, and the same every time."""
    canonical = json.dumps(arguments, ensure_ascii=False, sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(f"{salt}\n{canonical}".encode()).digest()[:8], "big")


def _digits(value: Any) -> str:
    return "".join(character for character in str(value) if character.isdigit())


def _money(won: int, language: str) -> tuple[int | float, str]:
    """An amount and how it is written: won in Korean, elsewhere a currency with hundredths, a thousandth as much."""
    if language == "ko":
        return won, f"{won:,}"
    return won / 1000, f"{won / 1000:,.2f}"


def _day(day: dt.date, language: str) -> str:
    """A day as it is said, without the year."""
    return f"{day.month}월 {day.day}일" if language == "ko" else f"{day.day} {_MONTHS[day.month - 1]}"


def _find_customer(arguments: Mapping[str, Any]) -> None:
    for key in ("phone", "account"):
        if _digits(arguments.get(key, "")).endswith("0000"):
            raise ActionFailed(f"no customer has this {key}")


@function("demo_receipt")
def receipt(arguments: Mapping[str, Any], _context: ActionContext) -> dict[str, Any]:
    """Accept anything; `receipt`: a letter and six digits."""
    _find_customer(arguments)
    return {"receipt": f"R{_number(arguments, 'receipt') % 1_000_000:06d}"}


@function("demo_bill")
def bill(arguments: Mapping[str, Any], context: ActionContext) -> dict[str, Any]:
    """The bill of `phone` for `month`: `amount` (25,000 to 125,000 won, or 25 to 125), `shown`, the day it is `due`."""
    _find_customer(arguments)
    # the last eight digits, however the number is written
    line = {"line": _digits(arguments.get("phone", ""))[-8:], "month": str(arguments.get("month", ""))}
    amount, shown = _money(25_000 + _number(line, "bill") % 1001 * 100, context.language)
    due = dt.datetime.fromisoformat(context.time).date().replace(day=25)
    return {"amount": amount, "shown": shown, "due": _day(due, context.language)}


@function("demo_balance")
def balance(arguments: Mapping[str, Any], context: ActionContext) -> dict[str, Any]:
    """The balance of `account`: `balance` (10,000 to 5,010,000 won, or 10 to 5,010) and `shown`."""
    _find_customer(arguments)
    won = 10_000 + _number({"account": _digits(arguments.get("account", ""))}, "balance") % 5_000_000
    amount, shown = _money(won, context.language)
    return {"balance": amount, "shown": shown}


@function("demo_order")
def order(arguments: Mapping[str, Any], context: ActionContext) -> dict[str, Any]:
    """Where `order` is: `state` (preparing, shipped, delivered), and the day it is to be there, `arrives`."""
    digits = _digits(arguments.get("order", ""))
    if not digits or digits.endswith("0000"):
        raise ActionFailed("no such order")
    state = _ORDER_STATES[int(digits[-1]) % len(_ORDER_STATES)]
    arrives = dt.datetime.fromisoformat(context.time).date() + dt.timedelta(days=1 + int(digits[-1]) % 3)
    return {"state": state, "arrives": _day(arrives, context.language)}


@validator("demo_working_hours")
def working_hours(value: Any, _slots: Mapping[str, Any], language: str) -> str | None:
    """A visit is made from Monday to Saturday, from 9 to 18."""
    try:
        moment = dt.datetime.fromisoformat(str(value))
    except ValueError:
        return None  # not a moment: the entity has its own complaint
    if moment.weekday() < 6 and 9 <= moment.hour < 18:
        return None
    return _REASONS["closed"]["ko" if language == "ko" else "en"]


@validator("demo_other_account")
def other_account(value: Any, slots: Mapping[str, Any], language: str) -> str | None:
    """Money is not sent to the account it comes from."""
    if _digits(value) and _digits(value) == _digits(slots.get("account", "")):
        return _REASONS["same"]["ko" if language == "ko" else "en"]
    return None
