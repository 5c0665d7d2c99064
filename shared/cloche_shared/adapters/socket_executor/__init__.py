"""Executor in a process of its own, driven over a Unix socket.

User code never runs beside credentials: `python -m cloche_shared.adapters.socket_executor` holds
nursery, supervisors and their groups, as a user of its own and without a secret or a way to the
stores. `SocketExecutor` is the service's side of it.

Who trusts whom: the executor acts for peers whose uid the kernel vouches for, and checks the form of
all that they send. A service takes everything that comes from the executor as a hostile program's
word: frames are bounded, every member has a type and a range, and nothing in it names a path.
"""

from cloche_shared.adapters.socket_executor.client import SocketExecutor

__all__ = ["SocketExecutor"]
