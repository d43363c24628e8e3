"""Where events are sent: MQTT, webhooks, mail, files of JSON lines. `dispatcher.py` sends what waits in the outbox."""
