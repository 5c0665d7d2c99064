"""`lock`: 200 requirements from a warm cache to a lock with hashes, against `uv pip compile`.

The first names of a list of well known packages are taken whose newest versions go together; what they
depend on comes with them.
"""

import asyncio
from pathlib import Path

from benchmarks.bench_prefix import PYTHON, Uv
from benchmarks.core import Row, Series, interleaved, scratch
from cloche_shared.adapters.interpreters import Interpreters
from cloche_shared.adapters.uv_resolver import UvResolver
from cloche_shared.contracts.definition import Definition, PythonSection

NAMES = """
    aiofiles aiohappyeyeballs aiohttp aiosignal alembic annotated-types anyio appdirs argcomplete arrow asgiref
    asttokens attrs babel backoff bcrypt beautifulsoup4 billiard black bleach blinker boto3 botocore bracex build
    cachetools cattrs celery certifi cffi cfgv chardet charset-normalizer click click-didyoumean click-plugins
    click-repl cloudpickle colorama coloredlogs comm contourpy coverage croniter cryptography cycler dask decorator
    defusedxml deprecated dill distlib distro dnspython docker docopt docutils ecdsa email-validator et-xmlfile
    execnet executing fastapi fastjsonschema filelock flake8 flask flask-cors fonttools frozenlist fsspec future
    gitdb gitpython google-auth googleapis-common-protos graphviz greenlet grpcio gunicorn h11 h2 hpack httpcore
    httplib2 httptools httpx humanfriendly hyperframe identify idna imagesize importlib-metadata iniconfig ipython
    isodate isort itsdangerous jedi jinja2 jmespath joblib jsonpatch jsonpointer jsonschema
    jsonschema-specifications kiwisolver kombu lazy-object-proxy locket lxml mako markdown markdown-it-py markupsafe
    matplotlib matplotlib-inline mccabe mdurl mistune more-itertools msgpack multidict mypy mypy-extensions
    nbformat nest-asyncio networkx nodeenv numpy oauthlib openpyxl orjson packaging pandas paramiko parso partd
    pathspec pexpect pillow platformdirs pluggy ply pre-commit prettytable prompt-toolkit propcache proto-plus
    protobuf psutil psycopg2-binary ptyprocess pure-eval pyasn1 pyasn1-modules pycodestyle pycparser pydantic
    pydantic-core pyflakes pygments pyjwt pymongo pymysql pynacl pyparsing pyserial pytest pytest-cov pytest-mock
    python-dateutil python-dotenv python-multipart pytz pyyaml pyzmq redis referencing regex requests
    requests-oauthlib requests-toolbelt rich rpds-py rsa ruamel-yaml s3transfer scikit-learn scipy setuptools shapely
    six smmap sniffio sortedcontainers soupsieve sqlalchemy stack-data starlette tabulate tenacity threadpoolctl
    toml tomli tomlkit toolz tornado tqdm traitlets typing-extensions tzdata urllib3 uvicorn vine virtualenv
"""
REQUIREMENTS = tuple(NAMES.split()[:200])
ROUNDS = 7
GOAL = 1.5


async def _silent(_line: str) -> None:
    """Take a line of a build's log."""


def rows() -> list[Row]:
    """Lock in turn."""
    with scratch("lock") as folder:
        return asyncio.run(_measure(folder))


async def _measure(folder: Path) -> list[Row]:
    (folder / "uv").mkdir()
    resolver = UvResolver(folder / "uv", Interpreters())
    definition = Definition(python=PythonSection(version=PYTHON, pip=REQUIREMENTS))
    loop = asyncio.get_running_loop()
    peer = Uv(folder / "peer", REQUIREMENTS)
    found: list[int] = []

    async def solved() -> float:
        began = loop.time()
        found.append(len((await resolver.resolve(definition, _silent)).choices))
        return loop.time() - began

    def ours() -> float:
        return asyncio.run_coroutine_threadsafe(solved(), loop).result()

    await solved()
    await asyncio.to_thread(peer.compile)
    series = await asyncio.to_thread(interleaved, ROUNDS, {"ours": ours, "uv": peer.compile})
    assert len(set(found)) == 1, found
    return [_row(series, found[0])]


def _row(series: Series, packages: int) -> Row:
    took, bare = series.median("ours"), series.median("uv")
    what = f"lock of {len(REQUIREMENTS)} requirements, {packages} packages, from cache (p99 {series.p99('ours'):.2f} s)"
    return Row("lock", what, took, "s", f"≤ {GOAL} x", ROUNDS, "uv pip compile --generate-hashes", bare,
               took <= GOAL * bare)  # fmt: skip
