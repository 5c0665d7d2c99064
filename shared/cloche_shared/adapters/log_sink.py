"""Where log lines go when what takes them may refuse: the process lives on, and the log says what it lacks."""

from collections.abc import Callable


class LogSink:
    """Writes log lines. What is not taken (a full disk, a closed pipe) is counted, never raised.

        log = Log("cloche", write=(sink := LogSink(partial(os.write, 2))), clock=clock)
        sink.tell = lambda lost: log.line("warning", "log_lines_lost", count=lost)

    As soon as lines are taken again, the line that `tell` renders says how many were lost. A line of which only a
    part was taken is ended there, so that the next one stands alone. `write` returns how many bytes it took.
    """

    def __init__(self, write: Callable[[bytes], int]) -> None:
        self.tell: Callable[[int], bytes | None] = lambda _lost: None
        self._write = write
        self._lost = 0
        self._torn = False

    def __call__(self, lines: bytes) -> None:
        """Write one or more whole lines."""
        if self._lost:
            told = self.tell(self._lost) or b""
            if self._put(told):
                self._lost = 0
        if self._lost or not self._put(lines):
            self._lost += lines.count(b"\n")

    def _put(self, lines: bytes) -> bool:
        """Write all of it, or say that it was not taken."""
        left = b"\n" + lines if self._torn else lines
        try:
            while left:
                count = self._write(left)
                left = left[count:]
                self._torn = bool(left)
        except OSError:
            return False
        return True
