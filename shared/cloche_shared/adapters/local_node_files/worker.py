"""Unpacks and compiles members of wheels. Runs in the target interpreter: standard library, Python 3.8.

Started as `python -I -S -B worker.py`; reads one JSON job per line from stdin, answers with one
JSON line each, and ends with its stdin. A job is `{"wheel", "tree", "files": [[member, path,
algorithm, hash, mode, source], …]}`; paths were checked and their folders made by the parent. The
answer is `{"files": [[path, inode, size, mtime_ns, mode], …]}` or `{"error": code, "why": …}`. A job
`{"compile": tree, "files": [path, …]}` makes the bytecode of sources that lie there already.

Source is compiled straight from memory into unchecked hash-based bytecode (PEP 552), so that it
stays valid at every path that it is linked to; the import system sets the code's file name to the
file that it was found beside (`_fix_co_filename`), so tracebacks name the prefix's own file.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import json
import os
import sys
import warnings
import zipfile
from importlib import _bootstrap_external as external
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Made = list[Any]

CHUNK = 1 << 20
MAX_SOURCE = 16 << 20
FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


class _RefusedError(Exception):
    """A verdict about the wheel."""


def _write(path: str, chunks: Iterable[bytes], mode: int) -> Made:
    """Write a new file and return what its manifest holds of it."""
    file = os.open(path, FLAGS, mode)
    try:
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[os.write(file, view) :]
        stat = os.fstat(file)
    finally:
        os.close(file)
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_mode]


def _checked(archive: zipfile.ZipFile, member: str, algorithm: str, wanted: str) -> Iterator[bytes]:
    """Yield a member's bytes; raise at the end when they are not what RECORD says."""
    hasher = hashlib.new(algorithm)
    with archive.open(member) as stream:
        while True:
            chunk = stream.read(CHUNK)
            if not chunk:
                break
            hasher.update(chunk)
            yield chunk
    if hasher.hexdigest() != wanted:
        raise _RefusedError(f"The content of {member} is not what RECORD says.")


def _bytecode_path(path: str) -> str:
    folder, name = os.path.split(path)
    return f"{folder}/__pycache__/{name[:-3]}.{sys.implementation.cache_tag}.pyc"


def _compile(source: bytes, name: str) -> bytes | None:
    """Return unchecked bytecode, or None for a file that is no program (templates, other versions)."""
    try:
        code = compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return None
    # The import system has no public writer of hash-based bytecode; this one is there since 3.7.
    made: bytes = external._code_to_hash_pyc(code, importlib.util.source_hash(source), False)  # type: ignore[attr-defined]  # noqa: SLF001, FBT003
    return made


def _unpack(archive: zipfile.ZipFile, tree: str, entry: list[Any]) -> list[Made]:
    member, path, algorithm, wanted, mode, source = entry
    target = f"{tree}/{path}"
    if not source or archive.getinfo(member).file_size > MAX_SOURCE:
        return [[path, *_write(target, _checked(archive, member, algorithm, wanted), mode)]]
    data = b"".join(_checked(archive, member, algorithm, wanted))
    made = [[path, *_write(target, [data], mode)]]
    bytecode = _compile(data, path)
    if bytecode is not None:
        made.append([_bytecode_path(path), *_write(_bytecode_path(target), [bytecode], 0o444)])
    return made


def _compile_there(tree: str, path: str) -> list[Made]:
    """Make the bytecode of a source that lies in the tree; none for what is no program or too large."""
    with open(f"{tree}/{path}", "rb") as stream:  # noqa: PTH123 - thousands of files: a Path each costs more
        data = stream.read(MAX_SOURCE + 1)
    bytecode = _compile(data, path) if len(data) <= MAX_SOURCE else None
    if bytecode is None:
        return []
    return [[_bytecode_path(path), *_write(_bytecode_path(f"{tree}/{path}"), [bytecode], 0o444)]]


def _do(job: dict[str, Any], archives: dict[str, zipfile.ZipFile]) -> dict[str, object]:
    try:
        if "compile" in job:
            return {"files": [made for path in job["files"] for made in _compile_there(job["compile"], path)]}
        name = job["wheel"]
        if name not in archives:
            for old in archives.values():
                old.close()
            archives.clear()
            archives[name] = zipfile.ZipFile(name)
        made = []
        for entry in job["files"]:
            made.extend(_unpack(archives[name], job["tree"], entry))
    except _RefusedError as error:
        return {"error": "invalid_wheel", "why": str(error)}
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, KeyError, RuntimeError) as error:
        return {"error": "invalid_wheel", "why": f"The archive is damaged: {type(error).__name__}."}
    except OSError as error:
        return {"error": "os", "errno": error.errno, "why": os.strerror(error.errno or 5)}
    except Exception as error:  # noqa: BLE001 - zlib's and lzma's errors have no common base
        return {"error": "invalid_wheel", "why": f"The archive is damaged: {type(error).__name__}."}
    return {"files": made}


def main() -> None:
    os.umask(0)
    warnings.simplefilter("ignore")
    gc.disable()  # compiling makes no cycles worth the search; it is a sixth of the time
    archives: dict[str, zipfile.ZipFile] = {}
    for line in sys.stdin.buffer:
        answer = _do(json.loads(line), archives)
        sys.stdout.write(json.dumps(answer, separators=(",", ":")) + "\n")
        sys.stdout.flush()
        gc.collect()


if __name__ == "__main__":
    main()
