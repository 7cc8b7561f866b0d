"""Who takes partitions over makes sure that their last writer writes no more."""

from contextlib import closing

import pytest

from features.connection import Connection, StoreError
from ingestion.broker import Partition
from serving.ownership import OWNERS, Ownership, heartbeat_key
from tests.servers import Servers

pytestmark = pytest.mark.servers

ONE, TWO = Partition("stream.customer", 0), Partition("stream.customer", 1)


def test_what_a_silent_owner_still_sends_is_thrown_away(servers: Servers) -> None:
    with closing(Connection(servers.redis, "old")) as old, closing(Connection(servers.redis, "new")) as new:
        Ownership(old, "old").take([ONE, TWO])
        old.post([("SET", "state", "before")])
        old.settle()
        Ownership(new, "new").take([TWO])
        with pytest.raises(StoreError):
            old.execute([("SET", "state", "after")])
        assert new.execute([("GET", "state")]) == [b"before"]
        assert new.execute([("HMGET", OWNERS, "stream.customer-0", "stream.customer-1")]) == [
            [b"old", b"new"]
        ]


def test_an_owner_that_lives_goes_on_with_the_others(servers: Servers) -> None:
    with closing(Connection(servers.redis, "old")) as old, closing(Connection(servers.redis, "new")) as new:
        Ownership(old, "old").take([ONE, TWO])
        old.execute([("SET", heartbeat_key("old"), "running", "EX", 5)])
        Ownership(new, "new").take([TWO])
        old.post([("SET", "state", "mine")])
        old.settle()
        assert new.execute([("GET", "state")]) == [b"mine"]


def test_who_is_gone_needs_no_closing(servers: Servers) -> None:
    with closing(Connection(servers.redis, "old")) as old:
        Ownership(old, "old").take([ONE])
    with closing(Connection(servers.redis, "new")) as new:
        Ownership(new, "new").take([ONE])
        Ownership(new, "new").take([ONE])
        assert new.execute([("HGET", OWNERS, "stream.customer-0")]) == [b"new"]
