"""Journal in memory: a store that outlives the users that crash, and their view of it."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from cloche_shared.adapters.memory_faults import NO_FAULTS, Faults
from cloche_shared.ports.journal import Document, OutcomeUnknownError, Verdict


class MemoryStore:
    """One service's documents. It lives as long as somebody holds it, whatever becomes of its journals."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}
        self.keys: list[str] = []
        self.unsent: dict[str, None] = {}

    def insert(self, document: Document) -> bool:
        """Insert a document unless its key is held."""
        if document.key in self.documents:
            return False
        self.documents[document.key] = document
        insort(self.keys, document.key)
        if document.topic:
            self.unsent[document.key] = None
        return True

    def read(self, key: str) -> Document | None:
        """Return a document, marked as sent or not."""
        document = self.documents.get(key)
        return None if document is None else replace(document, sent=key not in self.unsent)


class MemoryJournal:
    """A journal over a store. `atomic` false: a fault may keep only the first documents of a call."""

    def __init__(self, store: MemoryStore | None = None, *, atomic: bool = True, faults: Faults = NO_FAULTS) -> None:
        self._store = store or MemoryStore()
        self._atomic = atomic
        self._faults = faults

    @property
    def atomic(self) -> bool:
        return self._atomic

    async def append_many(self, documents: Sequence[Document]) -> list[Verdict]:
        await self._faults.before("append_many")
        kept = self._faults.kept(len(documents))
        if kept < len(documents):
            for document in documents[: 0 if self._atomic else kept]:
                if not self._store.insert(document):
                    break
            raise OutcomeUnknownError("the store died while it wrote")
        verdicts = [Verdict.SKIPPED] * len(documents)
        for index, document in enumerate(documents):
            if not self._store.insert(document):
                verdicts[index] = Verdict.DUPLICATE
                break
            verdicts[index] = Verdict.INSERTED
        await self._faults.after("append_many")
        return verdicts

    async def get(self, key: str) -> Document | None:
        await self._faults.before("get")
        return self._store.read(key)

    async def read(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[Document]:
        await self._faults.before("read")
        keys = self._store.keys
        start = max(bisect_left(keys, prefix), bisect_right(keys, after))
        found = keys[start : start + limit]
        documents = (self._store.read(key) for key in found if key.startswith(prefix))
        return [document for document in documents if document is not None]

    async def unsent(self, limit: int = 1000) -> list[Document]:
        await self._faults.before("unsent")
        return [self._store.documents[key] for key in islice(self._store.unsent, limit)]

    async def mark_sent(self, keys: Sequence[str]) -> None:
        await self._faults.before("mark_sent")
        for key in keys:
            self._store.unsent.pop(key, None)
