"""The core. Nothing here knows a solution."""

import os

# ONNX Runtime's official builds report their use to their maker, and leave a device id and a database in the user's
# cache, unless this is set before they are first imported; calls of its API come too late. What runs in a factory
# reports to nobody. Here, because every path to ONNX Runtime leads through this package.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
