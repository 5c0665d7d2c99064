"""Ids and secrets from the operating system; and seeded ones for simulations."""

import random
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable

_COUNTER_BITS = 74


class _Uuid7:
    """RFC 9562 §5.7 with §6.2 method 2: within a millisecond the random part counts up.

    The wall clock may step back; ids then go on from the newest millisecond.
    """

    def __init__(self, milliseconds: Callable[[], int], bits: Callable[[int], int]) -> None:
        self._milliseconds = milliseconds
        self._bits = bits
        self._at = -1
        self._counter = 0

    def next(self) -> str:
        now = self._milliseconds()
        if now > self._at:
            self._at, self._counter = now, self._bits(_COUNTER_BITS - 1)
        else:
            self._counter += 1 + self._bits(32)
            if self._counter >> _COUNTER_BITS:
                self._at, self._counter = self._at + 1, self._bits(_COUNTER_BITS - 1)
        high, low = self._counter >> 62, self._counter & ((1 << 62) - 1)
        digits = f"{self._at << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low:032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class SystemRandom:
    """Random from the operating system's generator."""

    def __init__(self) -> None:
        # ids are no secrets: asking the kernel for each would cost more than the rest of them
        seeded = random.Random(secrets.randbits(256))  # noqa: S311 - for ids only
        self._ids = _Uuid7(lambda: time.time_ns() // 1_000_000, seeded.getrandbits)
        self._generator = secrets.SystemRandom()

    def uuid7(self) -> str:
        return self._ids.next()

    def token(self, size: int = 24) -> str:
        return secrets.token_urlsafe(size)

    def uniform(self, low: float, high: float) -> float:
        return self._generator.uniform(low, high)


class SeededRandom:
    """Random that a seed repeats. For simulations only: its tokens can be guessed.

    `milliseconds` is the time that ids carry; one fixed instant by default.
    """

    def __init__(self, seed: int | str, milliseconds: Callable[[], int] = lambda: 1_767_225_600_000) -> None:
        self._generator = random.Random(seed)  # noqa: S311 - repeatable is what it is for
        self._ids = _Uuid7(milliseconds, self._generator.getrandbits)

    def uuid7(self) -> str:
        return self._ids.next()

    def token(self, size: int = 24) -> str:
        return urlsafe_b64encode(self._generator.randbytes(size)).rstrip(b"=").decode()

    def uniform(self, low: float, high: float) -> float:
        return self._generator.uniform(low, high)
