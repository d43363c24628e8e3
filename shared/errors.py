"""The errors a person sees: one sentence that names the file, the field and the mend.

Every error that is the user's to mend is a `HaechiError`; the command line prints its message after `error: ` and
exits with `exit_code`, the server answers it as `{"error": message}`. Anything else that escapes is a bug of ours.
"""

from __future__ import annotations


class HaechiError(Exception):
    """Something failed and the message says what and how to mend it. Exit code 1."""

    exit_code = 1


class BadInput(HaechiError):
    """What the user gave cannot be used: a file, a field, an option. Exit code 2."""

    exit_code = 2


class PackageRefused(HaechiError):
    """A model package failed a check (hash, signature, schema, self-test) and was not loaded."""
