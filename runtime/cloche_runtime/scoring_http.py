"""What raw-HTTP scoring scripts see: `rawhttp`, `AMLRequest` and `AMLResponse`, without any package.

The names and their behaviour are those that Azure's scoring scripts were written for.
"""

from __future__ import annotations

import io
import json
from email.parser import BytesParser
from email.policy import HTTP
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple, TypeVar, Union
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from email.message import Message

_Run = TypeVar("_Run", bound=Callable[..., Any])
asked: List[Callable[..., Any]] = []
"""The functions that were decorated with `rawhttp`; a script has one."""


def rawhttp(func: _Run) -> _Run:
    """Ask that `run` gets the HTTP request itself, for any method."""
    asked.append(func)
    return func


class Headers:
    """Header fields in their order; names are compared without case."""

    def __init__(self, pairs: Iterable[Tuple[str, str]] = ()) -> None:
        self._pairs = list(pairs)

    def items(self) -> List[Tuple[str, str]]:
        """Return the fields as they came."""
        return list(self._pairs)

    def keys(self) -> List[str]:
        """Return the names."""
        return [name for name, _ in self._pairs]

    def values(self) -> List[str]:
        """Return the values."""
        return [value for _, value in self._pairs]

    def getlist(self, name: str) -> List[str]:
        """Return every value of a field."""
        return [value for key, value in self._pairs if key.lower() == name.lower()]

    get_all = getlist

    def get(self, name: str, default: Optional[str] = None) -> Optional[str]:
        """Return the first value of a field."""
        values = self.getlist(name)
        return values[0] if values else default

    def add(self, name: str, value: object) -> None:
        """Add a field beside those of the same name."""
        self._pairs.append((name, str(value)))

    add_header = add

    def remove(self, name: str) -> None:
        """Remove every field of that name."""
        self._pairs = [pair for pair in self._pairs if pair[0].lower() != name.lower()]

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: object) -> None:
        self.remove(name)
        self.add(name, value)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[Tuple[str, str]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)


class Values(Dict[str, str]):
    """Query or form values: a dict of the first ones, with `getlist` for repeats."""

    def __init__(self, pairs: Iterable[Tuple[str, str]]) -> None:
        self._all: Dict[str, List[str]] = {}
        for name, value in pairs:
            self._all.setdefault(name, []).append(value)
        super().__init__((name, values[0]) for name, values in self._all.items())

    def getlist(self, name: str) -> List[str]:
        """Return every value of that name."""
        return list(self._all.get(name, ()))


class UploadedFile(io.BytesIO):
    """One file of a multipart body."""

    def __init__(self, content: bytes, name: str, filename: str, content_type: str) -> None:
        super().__init__(content)
        self.name = name
        self.filename = filename
        self.content_type = self.mimetype = content_type

    @property
    def stream(self) -> UploadedFile:
        """The content as a file."""
        return self


def _message(part: Message) -> bytes:
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


class AMLRequest:
    """One HTTP request, whole in memory."""

    def __init__(self, meta: Dict[str, Any], body: bytes) -> None:
        self.method: str = meta.get("method", "POST")
        self.path: str = meta.get("path", "/score")
        self.query_string: bytes = meta.get("query", "").encode("latin-1")
        self.headers = Headers((name.title(), value) for name, value in meta.get("headers", ()))
        self.data = body
        self._parts: Optional[Tuple[Values, Dict[str, UploadedFile]]] = None

    @property
    def args(self) -> Values:
        """The values of the query string."""
        return Values(parse_qsl(self.query_string.decode("latin-1"), keep_blank_values=True))

    @property
    def full_path(self) -> str:
        """Path and query string."""
        return self.path + "?" + self.query_string.decode("latin-1")

    @property
    def url(self) -> str:
        """The address as the client wrote it."""
        query = "?" + self.query_string.decode("latin-1") if self.query_string else ""
        return "http://" + (self.headers.get("Host") or "localhost") + self.path + query

    @property
    def content_type(self) -> Optional[str]:
        """The field Content-Type as it came."""
        return self.headers.get("Content-Type")

    @property
    def mimetype(self) -> str:
        """The media type in lower case, without parameters."""
        return (self.content_type or "").partition(";")[0].strip().lower()

    @property
    def content_length(self) -> int:
        """The length of the body in bytes."""
        return len(self.data)

    @property
    def is_json(self) -> bool:
        """Whether the media type is JSON."""
        return self.mimetype == "application/json" or (
            self.mimetype.startswith("application/") and self.mimetype.endswith("+json")
        )

    def get_data(
        self,
        cache: bool = True,  # noqa: ARG002, FBT001, FBT002  the signature that scripts call
        as_text: bool = False,  # noqa: FBT001, FBT002  the same
    ) -> Union[bytes, str]:
        """Return the body."""
        return self.data.decode("utf-8", "replace") if as_text else self.data

    def get_json(self, force: bool = False, silent: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002  as scripts call it
        """Return the parsed body; raises ValueError for what is not JSON, unless `silent`."""
        if not (force or self.is_json):
            if silent:
                return None
            raise ValueError("the request's Content-Type is not application/json")
        try:
            return json.loads(self.data)
        except ValueError:
            if silent:
                return None
            raise

    @property
    def json(self) -> Any:  # noqa: ANN401  whatever the client sent
        """The parsed body."""
        return self.get_json()

    @property
    def form(self) -> Values:
        """The values of a form."""
        return self._form()[0]

    @property
    def values(self) -> Values:
        """The values of the query string and of a form."""
        return Values([*self.args.items(), *self.form.items()])

    @property
    def files(self) -> Dict[str, UploadedFile]:
        """The files of a multipart form."""
        return self._form()[1]

    def _form(self) -> Tuple[Values, Dict[str, UploadedFile]]:
        if self._parts is None:
            if self.mimetype == "multipart/form-data":
                self._parts = self._multipart()
            elif self.mimetype == "application/x-www-form-urlencoded":
                pairs = parse_qsl(self.data.decode("utf-8", "replace"), keep_blank_values=True)
                self._parts = (Values(pairs), {})
            else:
                self._parts = (Values(()), {})
        return self._parts

    def _multipart(self) -> Tuple[Values, Dict[str, UploadedFile]]:
        head = b"Content-Type: " + (self.content_type or "").encode("latin-1") + b"\r\n\r\n"
        fields: List[Tuple[str, str]] = []
        files: Dict[str, UploadedFile] = {}
        for part in BytesParser(policy=HTTP).parsebytes(head + self.data).walk():
            name = part.get_param("name", header="content-disposition")
            if not isinstance(name, str):
                continue
            filename = part.get_filename()
            if filename is None:
                fields.append((name, _message(part).decode("utf-8", "replace")))
            else:
                files[name] = UploadedFile(_message(part), name, filename, part.get_content_type())
        return Values(fields), files


class AMLResponse:
    """A whole HTTP response made by a script."""

    def __init__(
        self,
        message: object,
        status_code: int,
        response_headers: Optional[Dict[str, str]] = None,
        json_str: bool = False,  # noqa: FBT001, FBT002  the signature that scripts call
        run_function_failed: bool = False,  # noqa: FBT001, FBT002  the same
    ) -> None:
        self.status_code = int(status_code)
        if message is None or json_str:
            self.data = json.dumps({} if message is None else message).encode()
            self.headers = Headers([("Content-Type", "application/json")])
        else:
            self.data = message if isinstance(message, bytes) else str(message).encode()
            self.headers = Headers([("Content-Type", "text/html; charset=utf-8")])
        self.headers["x-ms-run-function-failed"] = run_function_failed
        for name, value in (response_headers or {}).items():
            if name.lower() == "content-type":
                self.headers.remove(name)
            for one in str(value).split(","):
                self.headers.add(name, one.strip())

    def get_data(self, as_text: bool = False) -> Union[bytes, str]:  # noqa: FBT001, FBT002  as scripts call it
        """Return the body."""
        return self.data.decode("utf-8", "replace") if as_text else self.data
