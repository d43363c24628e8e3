"""Entities: the details in what customers say. `Extractor` finds all of them, and reads the answer to one question.

Kinds are the names that the bot's folder declares; built-ins may be used by their own names without declaration. Every
span is of the original text; `value` is JSON, `text` the form to show. Values of the built-ins:

    datetime  ISO 8601 with offset       date  2026-03-02    time  15:30    duration  ISO 8601, as PT2H30M
    money     a number; `unit` has the currency (KRW, USD, ...)             number    a number
    phone     010-1234-5678, +14155552671      email  lower case            card      1234-5678-...  (Luhn)
    account, address, order_number, name       as written, tidied

Where spans overlap, the longest wins, then the kind declared first, then the built-ins in the order above, `number`
last. `fits` gives an entity as another kind where that makes sense: a datetime answers a question for a date.
"""

from __future__ import annotations

from solutions.contact_center.entities.extractor import BUILTINS, Entity, Extractor, fits, resolve

__all__ = ["BUILTINS", "Entity", "Extractor", "fits", "resolve"]
