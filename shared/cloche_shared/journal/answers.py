"""Answers: what makes a request act once.

The outcome of the request `<id>` is the document `answers/<project>/<id>`; whoever finds it answers
from it, for ever. The effect's own document carries the outcome too, so that the answer can be made
again, byte for byte, when a crash came between the two.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from cloche_shared.contracts.fact import Fact, fact_type, read_fact
from cloche_shared.contracts.facts import TOPICS
from cloche_shared.errors import Conflict
from cloche_shared.journal.commit import Written
from cloche_shared.ports.journal import Document

_PLAIN = re.compile(r"[A-Za-z0-9._:#-]{1,200}")


def answer_key(project: str, request_id: str) -> str:
    """Return the key of a request's answer; ids that do not fit a key go in as their digest."""
    plain = request_id.replace("/", ":")
    if not _PLAIN.fullmatch(plain):
        plain = "sha256:" + hashlib.sha256(request_id.encode()).hexdigest()
    return f"answers/{project}/{plain}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request was answered: a fact for whoever asked by message, JSON for whoever asked by REST.

    `fingerprint` is the digest of what was asked: the same id with another content is refused.
    """

    answer: Fact | None = None
    json: Mapping[str, object] | None = None
    fingerprint: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the form that documents hold."""
        whole: dict[str, object] = {}
        if self.answer is not None:
            whole["answer"] = {"type": fact_type(type(self.answer)), "data": self.answer.model_dump(mode="json")}
        if self.json is not None:
            whole["json"] = dict(self.json)
        if self.fingerprint:
            whole["fingerprint"] = self.fingerprint
        return whole

    @classmethod
    def from_json(cls, whole: Mapping[str, object]) -> "Outcome":
        """Read the form that documents hold."""
        answer, json = whole.get("answer"), whole.get("json")
        fact = read_fact(str(answer["type"]), answer["data"]) if isinstance(answer, dict) else None
        return cls(fact, json if isinstance(json, dict) else None, str(whole.get("fingerprint", "")))

    def check(self, fingerprint: str) -> None:
        """Refuse another request under the same id. Raises `Conflict` (code `idempotency_key_reused`)."""
        if fingerprint and self.fingerprint and fingerprint != self.fingerprint:
            raise Conflict(
                "idempotency_key_reused",
                "This idempotency key was used for another request.",
                todo="Send the request with a key of its own.",
            )


def answer_document(effect: Written) -> Document | None:
    """Return the answer that goes with a document (None where nobody asked).

    The bytes depend on the document alone, so whoever makes it makes the same.
    """
    if not effect.request_id or effect.outcome is None:
        return None
    answer = effect.outcome.get("answer")
    whole = {
        "id": f"{effect.id}#answer",
        "facts": [answer] if answer else [],
        "at": effect.at,
        "actor": [effect.actor.subject, effect.actor.address, effect.actor.request],
        "corr": effect.correlation,
        "req": effect.request_id,
        "reply": effect.reply_to,
        "cause": effect.cause or effect.request_id,
        "trace": effect.traceparent,
        "outcome": effect.outcome,
    }
    return Document(
        key=answer_key(effect.stream.project, effect.request_id),
        body=orjson.dumps(whole),
        topic=TOPICS["answers"] if answer else "",
        partition_key=effect.reply_to,
    )
