"""The sinks that a site file names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import urlsplit

from solutions.cctv.config import EmailSink, LinesSink, MqttSink, Site, WebhookSink
from solutions.cctv.sinks.lines import Lines
from solutions.cctv.sinks.mail import Mail
from solutions.cctv.sinks.post import Sink
from solutions.cctv.sinks.webhook import Webhook


def open_sinks(site: Site, folder: Path | None = None) -> dict[str, Sink]:
    """One for each entry of `sinks`, under a name that is the same after a restart.

    Args:
        folder: in which relative paths are meant: the site file's.

    Raises:
        BadInput: an entry cannot be used.
    """
    opened: dict[str, Sink] = {}
    try:
        for config in site.sinks:
            name = _name(config)
            if name not in opened:  # the same entry twice is one sink
                opened[name] = _opened(config, site, folder)
    except BaseException:
        for sink in opened.values():
            sink.close()
        raise
    return opened


def _name(config: MqttSink | WebhookSink | EmailSink | LinesSink) -> str:
    """Says where to, in the words of the file: no secret's value, no place in the list, which may change."""
    match config:
        case MqttSink():
            return f"mqtt {config.host}:{config.port}/{config.prefix}"
        case WebhookSink():
            mark = hashlib.sha256(config.url.encode()).hexdigest()[:8]  # the address may hold a token
            return f"webhook {urlsplit(config.url).hostname or ''} {mark}"
        case EmailSink():
            return f"email {config.host}:{config.port} {','.join(config.to)}"
        case LinesSink():
            return f"jsonl {config.path}"


def _opened(config: MqttSink | WebhookSink | EmailSink | LinesSink, site: Site, folder: Path | None) -> Sink:
    match config:
        case MqttSink():
            from solutions.cctv.sinks.mqtt import Mqtt  # the library is part of an extra

            return Mqtt(config, site.name, site.cameras)
        case WebhookSink():
            return Webhook(config)
        case EmailSink():
            return Mail(config)
        case LinesSink():
            return Lines(config, folder)
