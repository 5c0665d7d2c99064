"""Asks this container's own server whether it is well: `python -m cloche_shared.cluster.health [/readyz]`.

For the health checks of containers, whose images have no other HTTP client.
"""

import http.client
import sys

PORT = 8571
WAIT_S = 4.0


def well(path: str, port: int = PORT) -> bool:
    """Whether the server on loopback answers the path with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if well(sys.argv[1] if len(sys.argv) > 1 else "/livez") else 1)
