"""Private wheels: `wheel/<project>/<file name>`, one upload after the other.

A newer upload replaces the older under the name; the older content stays for definitions and locks that name it.
"""

from pydantic import BaseModel, ConfigDict

from cloche_shared.contracts.definition import WheelRef
from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import WheelUploaded
from cloche_shared.errors import NotFound, Violation
from cloche_shared.journal.streams import Decision


class Wheel(BaseModel):
    """The uploads of one name, oldest first; the default instance is one that does not exist."""

    model_config = ConfigDict(frozen=True)

    uploads: tuple[WheelUploaded, ...] = ()

    @property
    def digests(self) -> tuple[str, ...]:
        """All contents that the name had, oldest first."""
        return tuple(dict.fromkeys(upload.digest for upload in self.uploads))


def stream_name(filename: str) -> str:
    """Return the id of a wheel's stream: its file name, in the characters that positions have."""
    return filename.replace("!", "::").replace("+", ":")


def evolve(state: Wheel, fact: Fact) -> Wheel:
    """Return the state after a fact."""
    return Wheel(uploads=(*state.uploads, fact)) if isinstance(fact, WheelUploaded) else state


def decide_upload(state: Wheel, upload: WheelUploaded) -> Decision:
    """Let a name mean this content from now on; where it does already, nothing is recorded."""
    known = bool(state.uploads) and state.uploads[-1].digest == upload.digest
    return Decision([] if known else [upload], json={"uploaded": not known})


def not_found(filename: str, digest: str = "", pointer: str = "") -> NotFound:
    """Return the error for a wheel that the project does not have, here or with this content."""
    what = f"There is no private wheel {filename[:255]!r}" + (f" with the content {digest[:19]}…" if digest else "")
    detail = "It was not uploaded to this project."
    return NotFound(
        "wheel_not_found",
        f"{what}.",
        why=detail,
        todo="Upload it with `cloche wheel upload`, or choose one from `cloche wheel list`.",
        violations=[Violation(pointer, "wheel_not_found", detail)] if pointer else [],
    )


def has(state: Wheel, ref: WheelRef) -> bool:
    """Whether the reference's content was ever uploaded under its name."""
    return ref.digest in state.digests
