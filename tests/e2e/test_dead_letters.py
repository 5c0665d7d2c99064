"""Messages that no handler could take: listed with their reason, and sent again, by command line, SDK and REST."""

import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest

from cloche import ClocheError
from tests.e2e.problems import said
from tests.e2e.topology import Embedded, call, eventually

pytestmark = pytest.mark.embedded_only


def spoil(server: Embedded) -> None:
    """Put a document into the stopped server's journal that nobody can read."""
    with closing(sqlite3.connect(server.home / "cloche.db")) as file, file:
        place = file.execute("SELECT max(pos) FROM runner_journal").fetchone()[0] or 0
        others = file.execute("SELECT max(pos) FROM registry_journal").fetchone()[0] or 0
        row = (max(place, others) + 1, "run/default/spoilt/000000000001", "cloche.runs", "run/default/spoilt", b"{")
        file.execute("INSERT INTO runner_journal(pos,key,topic,partition_key,body) VALUES (?,?,?,?,?)", row)


def test_a_message_that_cannot_be_read_is_put_aside_shown_and_sent_again(own_topology: Callable[..., Embedded]) -> None:
    server = own_topology()
    server.stop()
    spoil(server)
    server.restart()
    with server.client() as client:
        waiting = eventually(client.letters.list, "the message is put aside")
        groups = {one.group for one in waiting}
        listed = call(("events", "dead", "list", "--json"), server.environ()).document
        assert groups <= {one["group"] for one in listed}
        first = waiting[0]
        assert "JSONDecodeError" in first.reason
        said_so = call(("events", "dead", "resend", first.id), server.environ())
        assert said_so.out == f"{first.id} goes to {first.group} again.\n"
        # what was spoilt stays so: it is put aside again, under another id
        again = eventually(
            lambda: [one for one in client.letters.list() if one.group == first.group and one.id != first.id],
            "it is put aside again",
        )
        assert again[0].reason == first.reason
        with pytest.raises(ClocheError) as refused:
            client.letters.resend(first.id)
        assert refused.value.code == "letter_not_found"
    missing = call(("events", "dead", "resend", first.id), server.environ(), code=3)
    said(missing, "letter_not_found", names=first.id)


def test_where_nothing_was_put_aside_the_list_is_empty(own_topology: Callable[..., Embedded]) -> None:
    server = own_topology()
    ended = call(("events", "dead", "list"), server.environ())
    assert (ended.out, ended.err) == ("", "No message was put aside.\n")
    with server.rest() as rest:
        assert rest.get("/api/v1/events/dead").json() == {"items": [], "next_page_token": None}
