"""What every refusal must be: a problem with a stable code, a sentence that helps, and nothing that leaks."""

import re
from typing import Any

import httpx2

from cloche import ClocheError
from tests.e2e.topology import Ended

LEAKS = re.compile(r"Traceback|site-packages|cloche_[a-z]+/|\.py\", line|/homes/|0x[0-9a-f]{6,}")
MARKUP = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def problem(answer: httpx2.Response, status: int, code: str, *, pointer: str = "", names: str = "") -> dict[str, Any]:
    """Return the problem of a refusal that has this status and code, points at `pointer` and speaks of `names`."""
    assert (answer.status_code, answer.text[:2000]) == (status, answer.text[:2000])
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert (told["code"], told["status"]) == (code, status), told
    helps(told["detail"], names)
    assert told["request_id"] == answer.headers["x-request-id"]
    pointers = [one["pointer"] for one in told.get("errors", ())]
    assert not pointer or pointer in pointers, pointers
    return told


def refused(error: ClocheError, code: str, *, names: str = "") -> ClocheError:
    """Check an error of the SDK."""
    assert error.code == code, error
    helps(str(error), names)
    return error


def failed(told: Any, code: str, *, names: str = "") -> Any:
    """Check why a run, a build or a service failed, and that it says what to do."""
    assert told is not None
    found = told if isinstance(told, dict) else told.model_dump()
    assert found["code"] == code, found
    helps(found["message"], names)
    assert len(found["todo"]) > 10, found
    return found


def said(ended: Ended, code: str, *, names: str = "") -> str:
    """Check what the command line said on stderr about a refusal."""
    assert f"code: {code}" in ended.err, ended.err
    assert "Traceback" not in ended.err or code in {"init_failed", "user_code_failed"}, ended.err
    assert names in ended.err, ended.err
    return ended.err


def helps(text: str, names: str = "") -> None:
    """Check a sentence: it says something, names what is wrong, and shows nothing of the server's inside."""
    assert len(text) > 20, text
    assert not LEAKS.search(text), text
    assert not MARKUP.search(text.replace("\n", "")), repr(text)
    assert names in text, (names, text)
