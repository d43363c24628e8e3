"""Events over MQTT, through a real broker: events, states, discovery, last will; a broker that goes and refuses."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.outbox import Outbox
from solutions.cctv.config import Camera, Intrusion, MqttSink
from solutions.cctv.sinks.dispatcher import Dispatcher
from solutions.cctv.sinks.post import NotSent
from tests.solutions.cctv.told import eventually, post

BROKER = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


class Broker:
    """Mosquitto on a port of its own."""

    def __init__(self, folder: Path, *lines: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.config = folder / "mosquitto.conf"
        self.config.write_text("\n".join((f"listener {self.port} 127.0.0.1", "persistence false", *lines)) + "\n")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert BROKER is not None
        self.process = subprocess.Popen([BROKER, "-c", str(self.config)], stderr=subprocess.DEVNULL)
        eventually(self._answers)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if BROKER is None:
        pytest.skip("no mosquitto is installed")
    made = Broker(tmp_path, "allow_anonymous true")
    made.start()
    yield made
    made.stop()


class Listener:
    """Hears everything."""

    def __init__(self, port: int) -> None:
        import paho.mqtt.client as mqtt

        self.heard: dict[str, list[bytes]] = {}
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self.client.on_message = lambda _c, _d, one: self.heard.setdefault(one.topic, []).append(one.payload)
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def last(self, topic: str) -> bytes:
        return self.heard.get(topic, [b""])[-1]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


CAMERAS = {
    "gate": Camera(
        source="x",
        zones={"yard": [(0, 0), (1, 0), (1, 1)]},
        rules=(Intrusion(type="intrusion", name="night", zones=("yard",)),),
    )
}


def test_mqtt_says_events_states_and_sensors(broker: Broker) -> None:
    from solutions.cctv.sinks.mqtt import Mqtt

    sink = Mqtt(MqttSink(type="mqtt", port=broker.port), "Plant 1", CAMERAS)
    sink.send(post())
    late = Listener(broker.port)
    eventually(lambda: late.last("haechi/gate/rules/night") == b"ON")
    assert "haechi/gate/events" not in late.heard, "events are not retained"
    assert late.last("haechi/status") == late.last("haechi/gate/status") == b"online"
    told = json.loads(late.last("homeassistant/binary_sensor/haechi_plant_1_gate_night/config"))
    assert (told["state_topic"], told["device_class"]) == ("haechi/gate/rules/night", "motion")
    assert {one["topic"] for one in told["availability"]} == {"haechi/status", "haechi/gate/status"}
    sink.send(post("end", end_s=14.0))
    eventually(lambda: late.last("haechi/gate/rules/night") == b"OFF")
    assert json.loads(late.last("haechi/gate/events"))["end_s"] == 14.0
    sink.send(post(type="camera_offline", rule="camera_health", id="off"))
    eventually(lambda: late.last("haechi/gate/status") == b"offline")
    sink.send(post("end", type="camera_offline", rule="camera_health", id="off"))
    eventually(lambda: late.last("haechi/gate/status") == b"online")
    sink.close()
    eventually(lambda: late.last("haechi/status") == late.last("haechi/gate/status") == b"offline")
    late.close()


def test_the_last_will_is_told_when_it_dies(broker: Broker) -> None:
    from solutions.cctv.sinks.mqtt import Mqtt

    sink = Mqtt(MqttSink(type="mqtt", port=broker.port, home_assistant=False), "site", CAMERAS)
    late = Listener(broker.port)
    eventually(lambda: late.last("haechi/status") == b"online")
    assert not [topic for topic in late.heard if topic.startswith("homeassistant")]
    sink._client.loop_stop()
    sink._client._sock_close()  # as when the process is killed
    eventually(lambda: late.last("haechi/status") == b"offline")
    late.close()


@pytest.mark.usefixtures("quick")
def test_a_broker_that_goes_and_comes_back_gets_everything(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from solutions.cctv.sinks import mqtt

    monkeypatch.setattr(mqtt, "CONNECT_S", 0.2)
    monkeypatch.setattr(mqtt, "CONFIRM_S", 1.0)
    broker.stop()
    sink = mqtt.Mqtt(MqttSink(type="mqtt", port=broker.port), "site", CAMERAS)
    with Outbox(tmp_path / "o.db") as outbox, Dispatcher(outbox, {"mqtt": sink}) as sends:
        for number in range(3):
            sends.tell(post(id=f"e{number}"))
        eventually(lambda: sends.failing)
        broker.start()
        late = Listener(broker.port)
        eventually(lambda: outbox.standing("mqtt").waiting == 0)
        eventually(lambda: len(late.heard.get("haechi/gate/events", [])) >= 3)
    late.close()
    ids = [json.loads(one)["id"] for one in late.heard["haechi/gate/events"]]
    assert list(dict.fromkeys(ids)) == ["e0", "e1", "e2"]


def test_a_broker_that_refuses_us_is_said_without_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if BROKER is None:
        pytest.skip("no mosquitto is installed")
    from solutions.cctv.sinks import mqtt

    monkeypatch.setattr(mqtt, "CONNECT_S", 1.0)
    monkeypatch.setenv("MQTT_PASSWORD", "s3cret-word")
    broker = Broker(tmp_path, "allow_anonymous false")
    broker.start()
    config = MqttSink(type="mqtt", port=broker.port, username="h", password="${MQTT_PASSWORD}")
    sink = mqtt.Mqtt(config, "site", CAMERAS)
    with pytest.raises(NotSent, match="refuses us") as told:
        sink.send(post())
    sink.close()
    broker.stop()
    assert "s3cret-word" not in str(told.value) + caplog.text
