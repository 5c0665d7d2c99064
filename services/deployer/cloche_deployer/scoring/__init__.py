"""The data path of scoring: an ASGI front, and pools of workers behind Unix sockets."""
