"""Events over MQTT, cameras' status, and what Home Assistant needs to find them by itself.

    <prefix>/<camera>/events         each message as JSON                            QoS 1
    <prefix>/<camera>/status         online or offline                               QoS 1, retained
    <prefix>/<camera>/rules/<rule>   ON while an event of this rule goes on, or OFF  QoS 1, retained
    <prefix>/status                  online; offline by the last will when we die    QoS 1, retained

A connection has one last will, so a killed process leaves its cameras' own status as it was: whoever reads it reads
the site's too, as Home Assistant is told to.
"""

from __future__ import annotations

import json
import re
import secrets
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any

import paho.mqtt.client as mqtt

from shared.errors import BadInput
from shared.log import get_logger
from solutions.cctv.config import Camera, MqttSink
from solutions.cctv.sinks.post import NotSent, Post, from_environment

CONNECT_S = 5.0
"""That a message waits for a connection before it is put off."""
CONFIRM_S = 10.0
"""That it waits for the broker's word."""
_DISCOVERY = "homeassistant"
_CLASSES = {"fire": "heat", "smoke": "smoke", "camera_health": "problem", "intrusion": "motion", "fall": "safety"}
"""Home Assistant's word for each kind of rule; others are occupancy."""
_log = get_logger(__name__)


class Mqtt:
    """Connects by itself, again and again; nothing is sent before the broker has answered.

    Args:
        site: its name; part of the identity that Home Assistant keeps.
        cameras: whose rules are announced.

    Raises:
        BadInput: the prefix is no topic, or a variable of the environment is missing.
    """

    def __init__(self, config: MqttSink, site: str, cameras: Mapping[str, Camera]) -> None:
        if not config.prefix or any(letter in config.prefix for letter in "+#\0") or config.prefix.startswith("$"):
            raise BadInput(f"mqtt.prefix {config.prefix!r} is no topic; write it without + and #, as haechi.")
        self._config, self._cameras = config, cameras
        self._prefix = config.prefix.strip("/")
        self._site = re.sub(r"[^a-z0-9_]+", "_", site.lower()) or "site"
        self._online = dict.fromkeys(cameras, True)
        self._open: dict[tuple[str, str], set[str]] = {}
        self._connected = threading.Event()
        self._lock = threading.Lock()
        self._why = "not connected yet"
        self._client = self._made()
        self._client.connect_async(config.host, config.port, keepalive=30)
        self._client.loop_start()

    def wants(self, _post: Post) -> bool:
        """All."""
        return True

    def send(self, post: Post) -> None:
        """Publish it, and what it changes of the retained topics.

        Raises:
            NotSent: there is no connection, or the broker did not confirm.
        """
        if not self._connected.wait(CONNECT_S):
            raise NotSent(f"the MQTT broker {self._config.host}:{self._config.port} cannot be used: {self._why}.")
        camera, rule = str(post.line["camera"]), str(post.line["rule"])
        self._confirmed(f"{self._prefix}/{camera}/events", post.json, retain=False)
        with self._lock:
            going_on = self._open.setdefault((camera, rule), set())
            if post.kind == "end":
                going_on.discard(str(post.line["id"]))
            else:
                going_on.add(str(post.line["id"]))
            state = b"ON" if going_on else b"OFF"
        self._confirmed(f"{self._prefix}/{camera}/rules/{rule}", state, retain=True)
        if post.line["type"] == "camera_offline" and camera in self._online:
            self.status(camera, online=post.kind == "end")

    def status(self, camera: str, *, online: bool) -> None:
        """Say how a camera is; kept for those who connect later. Does not wait."""
        with self._lock:
            self._online[camera] = online
        if self._connected.is_set():
            self._publish(f"{self._prefix}/{camera}/status", _state(online))

    def close(self) -> None:
        """Say good-bye, so that nobody waits for the last will. Safe to call again."""
        if self._connected.is_set():
            said = [self._publish(f"{self._prefix}/{camera}/status", _state(False)) for camera in self._online]
            said.append(self._publish(f"{self._prefix}/status", _state(False)))
            until = time.monotonic() + 2.0
            while time.monotonic() < until and not all(one.is_published() for one in said):
                time.sleep(0.02)
        self._client.disconnect()
        self._client.loop_stop()
        self._connected.clear()

    def _made(self) -> Any:
        config = self._config
        identity = f"haechi-{self._site}-{secrets.token_hex(4)}"
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=identity)
        user = from_environment(config.username, "mqtt.username")
        if user is not None:
            client.username_pw_set(user, from_environment(config.password, "mqtt.password"))
        if config.tls:
            client.tls_set_context(ssl.create_default_context())
        client.will_set(f"{self._prefix}/status", b"offline", qos=1, retain=True)
        client.reconnect_delay_set(1, 30)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_connect_fail = self._on_connect_fail
        return client

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._why = f"it refuses us ({reason})"
            return
        with self._lock:
            online = dict(self._online)
        self._publish(f"{self._prefix}/status", b"online")
        for camera, is_online in online.items():
            self._publish(f"{self._prefix}/{camera}/status", _state(is_online))
        for topic, content in self._retained().items():
            self._publish(topic, content)
        self._connected.set()
        _log.info("mqtt_connected", host=self._config.host)

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._connected.clear()
        if reason.is_failure and not self._why.startswith("it refuses"):
            self._why = f"it went away ({reason})"

    def _on_connect_fail(self, _client: Any, _data: Any) -> None:
        self._why = "it cannot be reached"

    def _publish(self, topic: str, content: bytes, *, retain: bool = True) -> Any:
        return self._client.publish(topic, content, qos=1, retain=retain)

    def _confirmed(self, topic: str, content: bytes, *, retain: bool) -> None:
        try:
            told = self._publish(topic, content, retain=retain)
            told.wait_for_publish(CONFIRM_S)
            arrived = told.is_published()
        except (ValueError, RuntimeError) as error:  # the queue is full, or the connection has gone
            raise NotSent(f"the MQTT broker {self._config.host} did not take it: {error}.") from error
        if not arrived:
            raise NotSent(f"the MQTT broker {self._config.host} did not confirm it in {CONFIRM_S:g} s.")

    def _retained(self) -> dict[str, bytes]:
        """Each rule's state, and with Home Assistant what makes it a sensor there."""
        made = {}
        for camera, drawn in self._cameras.items():
            kinds = {rule.name or rule.type: rule.type for rule in drawn.rules}
            kinds.setdefault("camera_health", "camera_health")  # on for every camera
            for rule, kind in kinds.items():
                state = f"{self._prefix}/{camera}/rules/{rule}"
                with self._lock:
                    made[state] = b"ON" if self._open.get((camera, rule)) else b"OFF"
                if self._config.home_assistant:
                    identity = f"haechi_{self._site}_{camera}_{rule}"
                    told = self._sensor(identity, camera, rule, kind, state)
                    made[f"{_DISCOVERY}/binary_sensor/{identity}/config"] = json.dumps(told).encode()
        return made

    def _sensor(self, identity: str, camera: str, rule: str, kind: str, state: str) -> dict[str, Any]:
        topics = [f"{self._prefix}/status", f"{self._prefix}/{camera}/status"]
        return {
            "name": rule.replace("_", " "),
            "unique_id": identity,
            "state_topic": state,
            "payload_on": "ON",
            "payload_off": "OFF",
            "device_class": _CLASSES.get(kind, "occupancy"),
            "availability": [{"topic": topic} for topic in topics],
            "availability_mode": "all",
            "device": {
                "identifiers": [f"haechi_{self._site}_{camera}"],
                "name": f"{camera} ({self._site})",
                "manufacturer": "Haechi",
            },
        }


def _state(online: bool) -> bytes:
    return b"online" if online else b"offline"
