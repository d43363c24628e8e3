"""A mail for each event that starts, with its snapshot."""

from __future__ import annotations

import email.policy
import smtplib
import ssl
import time
from email.message import EmailMessage
from pathlib import Path

from shared.errors import BadInput
from solutions.cctv.config import EmailSink
from solutions.cctv.sinks.post import Later, NotSent, Post, Refused, from_environment

BURST, EVERY_S = 10, 60.0
"""So many mails at once, then one in so many seconds: a storm of events must not fill a mailbox in minutes."""
_RANKS = ("info", "warning", "critical")
_TIMEOUT_S = 20.0


class Mail:
    """One connection for each mail: they are few, and servers close what idles.

    Args:
        burst, every_s: the bound on mails.

    Raises:
        BadInput: a variable of the environment is missing, or an address is none.
    """

    def __init__(self, config: EmailSink, *, burst: int = BURST, every_s: float = EVERY_S) -> None:
        self._config = config
        self._user = from_environment(config.username, "email.username")
        self._password = from_environment(config.password, "email.password")
        for address in (config.sender, *config.to):
            if "@" not in address or any(letter in address for letter in "\r\n"):
                raise BadInput(f"email: {address!r} is no address; write it as name@example.org.")
        self._burst, self._every_s = burst, every_s
        self._left, self._filled = float(burst), time.monotonic()

    def wants(self, post: Post) -> bool:
        """Events that start, at least as severe as wanted."""
        severity = str(post.line.get("severity"))
        return post.kind == "start" and severity in _RANKS[_RANKS.index(self._config.least) :]

    def send(self, post: Post) -> None:
        """Mail it.

        Raises:
            NotSent: the server cannot be reached, or will not have it now.
            Refused: it will have none of the addresses.
            Later: there have been too many mails.
        """
        now = time.monotonic()
        self._left = min(float(self._burst), self._left + (now - self._filled) / self._every_s)
        self._filled = now
        if self._left < 1:
            raise Later((1 - self._left) * self._every_s, "there have been too many mails")
        config = self._config
        try:
            with smtplib.SMTP(config.host, config.port, timeout=_TIMEOUT_S) as server:
                if config.starttls:
                    server.starttls(context=ssl.create_default_context())
                if self._user is not None:
                    server.login(self._user, self._password or "")
                server.send_message(self._written(post))
        except smtplib.SMTPRecipientsRefused as error:
            codes = {code for code, _ in error.recipients.values()}
            failure = Refused if all(500 <= code < 600 for code in codes) else NotSent
            raise failure(f"{config.host} takes none of the addresses: {sorted(codes)}.") from error
        except smtplib.SMTPResponseException as error:
            raise NotSent(f"{config.host} answered {error.smtp_code}; see its log.") from error
        except (smtplib.SMTPException, OSError) as error:  # the message of neither holds a password
            raise NotSent(f"{config.host} could not be used: {error}.") from error
        self._left -= 1

    def close(self) -> None:
        """Nothing is held."""

    def _written(self, post: Post) -> EmailMessage:
        line = post.line
        place = line.get("zone") or line.get("line") or ""
        mail = EmailMessage(policy=email.policy.SMTP)
        mail["From"], mail["To"] = self._config.sender, ", ".join(self._config.to)
        title = f"[{line['severity']}] {line['type']} {line['camera']} {place}"
        mail["Subject"] = " ".join(title.split())
        mail["Message-ID"] = f"<{post.key}@haechi>"  # mailboxes pass over a double
        told = {"when": line.get("time"), "camera": line["camera"], "type": line["type"], "place": place}
        why = ", ".join(f"{name}: {value}" for name, value in dict(line.get("why") or {}).items())
        told |= {"severity": line["severity"], "why": why, "event": line["id"]}
        mail.set_content("".join(f"{name}: {value}\n" for name, value in told.items() if value))
        if post.snapshot is not None:
            try:
                picture = Path(post.snapshot).read_bytes()
            except OSError:
                return mail  # deleted meanwhile: the words still matter
            mail.add_attachment(picture, maintype="image", subtype="jpeg", filename=f"{line['id']}.jpg")
        return mail
