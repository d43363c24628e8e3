"""The server: Open Inference Protocol v2, bounded queues, keys and roles, metrics, and the shell of the console."""
