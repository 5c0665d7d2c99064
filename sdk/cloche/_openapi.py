"""Makes `openapi.json`, which is served as a file: `python -m cloche._openapi [--check]`.

Making the document takes longer than the rest of a start, so it is made when the code changes.
"""

import asyncio
import sys
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson

from cloche._embedded import OPENAPI, document


def main() -> int:
    """Write the document beside the code, or with `--check` say whether the one there is right."""
    with TemporaryDirectory() as folder:
        made = orjson.dumps(orjson.loads(asyncio.run(document(Path(folder)))), option=orjson.OPT_INDENT_2) + b"\n"
    path = Path(str(resources.files("cloche").joinpath(OPENAPI)))
    if "--check" in sys.argv:
        if path.is_file() and path.read_bytes() == made:
            return 0
        sys.stderr.write(f"{OPENAPI} is out of date: run `make reference`.\n")
        return 1
    path.write_bytes(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
