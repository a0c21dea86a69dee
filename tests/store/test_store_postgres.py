"""The store in PostgreSQL: the contract, a server that goes away, and errors; processes are in another module."""

from __future__ import annotations

import logging
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
import trio
from oversized_rollout import LIMIT, fit_with_one_that_records_too_much
from postgres_server import PostgresServer, make_server, postgres, remove_server
from programs import run_program

import lightning_trio as agl
from lightning_trio import (
    AttemptedRollout,
    EnqueueRolloutRequest,
    NotStorable,
    PostgresLightningStore,
    StoreClosed,
    StoreFormatError,
    StoreFull,
    StoreUnavailable,
    Worker,
)
from lightning_trio._records import AttemptOutcome
from lightning_trio.store import Unreadable
from lightning_trio.testing import store_checks
from lightning_trio.testing._store_checks._steps import Check

psycopg = pytest.importorskip("psycopg", reason="needs psycopg: pip install 'lightning-trio[postgres]'")

from lightning_trio.store._postgres import _connection, _notifications  # noqa: E402
from lightning_trio.store._postgres._connection import PostgresConnection  # noqa: E402
from lightning_trio.store._postgres._server import Server  # noqa: E402

__all__ = ["postgres"]


@pytest.fixture
def dsn(postgres: PostgresServer) -> str:
    """The connection string of a database without a store."""
    postgres.psql("DROP SCHEMA IF EXISTS lightning_trio CASCADE")
    return postgres.dsn


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server for a test that stops it."""
    server = make_server()
    try:
        server.start()
        yield server
    finally:
        remove_server(server)


def outcome_of(claimed: AttemptedRollout) -> AttemptOutcome:
    return AttemptOutcome(claimed.rollout_id, claimed.attempt.attempt_id, "succeeded", time.time(), final_reward=1.0)


@pytest.mark.parametrize("check", store_checks(), ids=lambda check: check.__name__)
async def test_the_store_keeps_the_rule(check: Check, dsn: str) -> None:
    with trio.fail_after(30):
        async with PostgresLightningStore(dsn, connections=2) as store:
            await check(store)


# Loss of the server.


class Losses:
    """Connections lost during a commit: before the server receives it, or after."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before = self.after = 0
        self.then: Callable[[], None] = lambda: None
        execute = psycopg.Connection.execute

        def losing(connection: psycopg.Connection[Any], query: Any, *args: Any, **options: Any) -> Any:
            if query == "COMMIT" and self.before:
                self.before -= 1
                connection.pgconn.finish()
            result = execute(connection, query, *args, **options)
            if query == "COMMIT" and self.after:
                self.after -= 1
                connection.pgconn.finish()
                self.then()
                raise psycopg.OperationalError("the answer was lost")
            return result

        monkeypatch.setattr(psycopg.Connection, "execute", losing)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_what_was_being_committed_when_the_connection_was_lost_is_there_once(
    dsn: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    losses = Losses(monkeypatch)
    async with PostgresLightningStore(dsn, connections=1) as store:
        setattr(losses, moment, 1)
        [rollout_id] = await store.enqueue([EnqueueRolloutRequest("task")])
        setattr(losses, moment, 1)
        [claimed] = await store.claim(1, worker_id="w")
        setattr(losses, moment, 1)
        [status] = await store.finish([outcome_of(claimed)])

        assert status == "succeeded"
        assert claimed.rollout_id == rollout_id
        assert (losses.before, losses.after) == (0, 0)
        assert (await store.summarize()).counts["succeeded"] == 1
        found = await agl.audit(store)
        assert found == agl.Audit(1, [])


@pytest.mark.parametrize("earlier", [0, 1], ids=["the first", "a later one"])
async def test_a_commit_that_the_server_is_still_busy_with_is_waited_for(
    dsn: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, earlier: int
) -> None:
    async with PostgresLightningStore(dsn, connections=1) as store:
        await store.enqueue([EnqueueRolloutRequest("before")])
    postgres.psql(
        "CREATE FUNCTION lightning_trio.slow() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN IF NEW.input = ''\"task\"'' THEN PERFORM pg_sleep(0.7); END IF; RETURN NULL; END'"
    )
    postgres.psql(
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON lightning_trio.rollouts DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION lightning_trio.slow()"
    )
    execute, connect = psycopg.Connection.execute, Server.connect
    armed = False

    def leaving(connection: psycopg.Connection[Any], query: Any, *args: Any, **options: Any) -> Any:
        nonlocal armed
        if query == "COMMIT" and armed:
            armed = False
            connection.pgconn.send_query(b"COMMIT")
            connection.pgconn.flush()
            time.sleep(0.1)
            connection.pgconn.finish()
        return execute(connection, query, *args, **options)

    monkeypatch.setattr(psycopg.Connection, "execute", leaving)
    # Under another name, so that the store does not find and terminate the session of the lost connection.
    monkeypatch.setattr(Server, "connect", lambda server, application: connect(server, "somebody"))
    async with PostgresLightningStore(dsn, connections=1) as store:
        for _ in range(earlier):
            await store.enqueue([EnqueueRolloutRequest("before")])
        armed = True
        [rollout_id] = await store.enqueue([EnqueueRolloutRequest("task")])

        found = await store.query_rollouts()
        assert [rollout.rollout_id for rollout in found if rollout.input == "task"] == [rollout_id]


async def test_a_claim_whose_answer_was_lost_has_one_attempt(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = Losses(monkeypatch)
    async with PostgresLightningStore(dsn, connections=1) as store:
        await store.enqueue([EnqueueRolloutRequest(number) for number in range(3)])
        losses.after = 1
        claimed = await store.claim(2, worker_id="w")

        assert [rollout.input for rollout in claimed] == [0, 1]
        attempts = await store.query_attempts(claimed[0].rollout_id)
        assert [attempt.attempt_id for attempt in attempts] == [claimed[0].attempt.attempt_id]
        assert [rollout.input for rollout in await store.claim(5)] == [2]


async def test_a_write_whose_outcome_cannot_be_learned_says_so(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Losses(monkeypatch)
    losses.then = own_server.stop
    async with PostgresLightningStore(own_server.dsn, connections=1, patience_seconds=0.3) as store:
        losses.after = 1
        with pytest.raises(StoreUnavailable, match="whether the last write was committed is unknown"):
            await store.enqueue([EnqueueRolloutRequest("task")])


async def test_a_caller_cancelled_meanwhile_gets_that_error_too(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Losses(monkeypatch)
    losses.then = own_server.stop
    with trio.fail_after(30):
        async with PostgresLightningStore(own_server.dsn, connections=1, patience_seconds=3600) as store:
            losses.after = 1
            with trio.CancelScope() as scope, pytest.raises(StoreUnavailable, match="is unknown"):
                scope.deadline = trio.current_time() + 0.5
                await store.enqueue([EnqueueRolloutRequest("task")])


@pytest.mark.heavy
async def test_connections_killed_all_the_time_lose_nothing_and_double_nothing(
    dsn: str, postgres: PostgresServer
) -> None:
    async def double(task: int) -> float:
        await trio.sleep(0.001)
        return task * 2.0

    async def kill(task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        while True:
            await trio.to_thread.run_sync(
                postgres.psql,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'lightning_trio%%'",
            )
            await trio.sleep(0.03)

    store = PostgresLightningStore(dsn, connections=3)
    with trio.fail_after(120):
        async with store, trio.open_nursery() as nursery:
            await nursery.start(kill)
            result = await agl.Runner(double, store=store, max_concurrency=50).fit(range(500))
            nursery.cancel_scope.cancel()
    async with store:
        found = await agl.audit(store)

    assert result.counts == {"succeeded": 500, "failed": 0, "cancelled": 0}
    assert result.mean_reward["train"] == 499.0
    assert found == agl.Audit(500, [])


@pytest.mark.heavy
@pytest.mark.parametrize("mode", [signal.SIGINT, signal.SIGQUIT], ids=["restart", "crash"])
async def test_a_run_continues_after_the_server_was_away(own_server: PostgresServer, mode: signal.Signals) -> None:
    begun = trio.Event()

    async def double(task: int) -> float:
        if task == 200:
            begun.set()
        await trio.sleep(0.002)
        return task * 2.0

    def restart() -> None:
        own_server.stop(mode)
        time.sleep(0.5)
        own_server.start()

    store = PostgresLightningStore(own_server.dsn)
    results: list[agl.FitResult] = []

    async def run() -> None:
        results.append(await agl.Runner(double, store=store, max_concurrency=20).fit(range(1000)))

    with trio.fail_after(120):
        async with store:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await begun.wait()
                await trio.to_thread.run_sync(restart)
            found = await agl.audit(store)

    assert results[0].counts == {"succeeded": 1000, "failed": 0, "cancelled": 0}
    assert found == agl.Audit(1000, [])


async def test_waiting_continues_after_the_server_was_away(own_server: PostgresServer) -> None:
    store, other = PostgresLightningStore(own_server.dsn), PostgresLightningStore(own_server.dsn, connections=1)
    with trio.fail_after(60):
        async with store, other:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.wait_claimable)
                await trio.sleep(0.3)
                await trio.to_thread.run_sync(own_server.stop)
                await trio.to_thread.run_sync(own_server.start)
                await other.enqueue([EnqueueRolloutRequest("task")])

            assert (await store.claim(1))[0].input == "task"


async def test_opening_a_store_waits_for_a_server_that_restarts(own_server: PostgresServer) -> None:
    own_server.stop()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, own_server.start)
            async with PostgresLightningStore(own_server.dsn, open_patience_seconds=50) as store:
                await store.enqueue([EnqueueRolloutRequest("task")])


async def test_opening_a_store_whose_server_stays_away_says_where_and_for_how_long() -> None:
    store = PostgresLightningStore("postgresql://me@127.0.0.1:1/db", open_patience_seconds=0.1)
    with pytest.raises(
        StoreUnavailable, match=r"127\.0\.0\.1:1 cannot be reached .* 0\.1 s.*open_patience_seconds"
    ) as info:
        await store.__aenter__()

    assert info.value.seconds == 0.1


async def test_a_cancelled_opening_does_not_wait_for_the_server() -> None:
    with trio.fail_after(30), trio.move_on_after(0.2) as scope:
        await PostgresLightningStore("postgresql://me@127.0.0.1:1/db", open_patience_seconds=3600).__aenter__()

    assert scope.cancelled_caught


async def test_an_open_store_listens_for_other_processes_before_the_first_wait(
    dsn: str, postgres: PostgresServer
) -> None:
    async with PostgresLightningStore(dsn):
        listening = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lightning_trio hints'"

        assert postgres.psql(listening) == [(1,)]


async def test_a_server_that_stays_away_is_an_error_that_says_what_to_do(own_server: PostgresServer) -> None:
    async with PostgresLightningStore(own_server.dsn, patience_seconds=0.3) as store:
        own_server.stop()
        with pytest.raises(StoreUnavailable, match=r"unreachable .* for 0\.3 s; .*resume=True.*patience_seconds"):
            await store.enqueue([EnqueueRolloutRequest("task")])
        with pytest.raises(StoreUnavailable, match=r"for 0\.3 s"):
            await store.summarize()

        own_server.start()
        await store.enqueue([EnqueueRolloutRequest("later")])
        assert [rollout.input for rollout in await store.query_rollouts()] == ["later"]


FULL_DISK = """
CREATE FUNCTION lightning_trio.full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON lightning_trio.rollouts EXECUTE FUNCTION lightning_trio.full_disk();
"""


async def test_calls_wait_for_room_on_the_servers_disk(
    dsn: str, postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The server's answer is simulated by a trigger."""
    async with PostgresLightningStore(dsn) as store, trio.open_nursery() as nursery:
        postgres.psql(FULL_DISK)
        nursery.start_soon(store.enqueue, [EnqueueRolloutRequest("task")])
        with trio.fail_after(10):
            while "no room left on the server" not in caplog.text:
                await trio.sleep(0.01)
        await trio.sleep(0.2)
        postgres.psql("DROP TRIGGER full_disk ON lightning_trio.rollouts")
        nursery.cancel_scope.deadline = trio.current_time() + 10
        nursery.start_soon(store.enqueue, [EnqueueRolloutRequest("later")])

    assert caplog.text.count("calls wait for up to 60 s (patience_seconds=…)") == 1
    async with PostgresLightningStore(dsn) as store:
        assert sorted(str(rollout.input) for rollout in await store.query_rollouts()) == ["later", "task"]


async def test_a_disk_that_stays_full_is_an_error_and_the_store_goes_on_once_there_is_room(
    dsn: str, postgres: PostgresServer
) -> None:
    async with PostgresLightningStore(dsn, patience_seconds=0.2) as store:
        postgres.psql(FULL_DISK)
        with pytest.raises(StoreFull, match="Make room and continue"):
            await store.enqueue([EnqueueRolloutRequest("task")])
        postgres.psql("DROP TRIGGER full_disk ON lightning_trio.rollouts")

        await store.enqueue([EnqueueRolloutRequest("later")])
        assert [rollout.input for rollout in await store.query_rollouts()] == ["later"]


async def test_a_cancelled_call_does_not_wait_for_the_server_to_come_back(own_server: PostgresServer) -> None:
    with trio.fail_after(30):
        async with PostgresLightningStore(own_server.dsn, patience_seconds=3600) as store:
            own_server.stop()
            with trio.move_on_after(0.3) as writing:
                await store.enqueue([EnqueueRolloutRequest("task")])
            with trio.move_on_after(0.3) as reading:
                await store.summarize()

    assert writing.cancelled_caught
    assert reading.cancelled_caught


# Wake-ups between processes.


async def test_a_hint_wakes_another_store_long_before_it_would_look(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_notifications, "POLL_SECONDS", 3600.0)
    waiting, enqueuing = PostgresLightningStore(dsn), PostgresLightningStore(dsn)
    with trio.fail_after(60):
        async with waiting, enqueuing:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(waiting.wait_claimable)
                await trio.sleep(0.3)
                await enqueuing.enqueue([EnqueueRolloutRequest("task")])
            [claimed] = await enqueuing.claim(1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(waiting.wait_finished, [claimed.rollout_id])
                await trio.sleep(0.1)
                await enqueuing.finish([outcome_of(claimed)])
            assert (await waiting.get_rollout_by_id(claimed.rollout_id)).status == "succeeded"


async def test_without_hints_a_store_looks_by_itself(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PostgresConnection, "on_idle", lambda self: None)
    monkeypatch.setattr(_notifications, "POLL_SECONDS", 0.2)
    waiting, enqueuing = PostgresLightningStore(dsn), PostgresLightningStore(dsn)
    with trio.fail_after(20):
        async with waiting, enqueuing, trio.open_nursery() as nursery:
            nursery.start_soon(waiting.wait_claimable)
            await trio.sleep(0.3)
            await enqueuing.enqueue([EnqueueRolloutRequest("task")])


async def test_closing_a_store_wakes_waiting_callers(dsn: str) -> None:
    store = PostgresLightningStore(dsn)
    await store.__aenter__()

    async def wait() -> None:
        with pytest.raises(StoreClosed, match="async with store"):
            await store.wait_claimable()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(0.3)
            await store.__aexit__(None, None, None)


# Opening.


async def test_stores_that_are_opened_at_once_make_the_tables_once(dsn: str) -> None:
    stores = [PostgresLightningStore(dsn, connections=2) for _ in range(5)]

    async def use(store: PostgresLightningStore) -> None:
        async with store:
            await store.enqueue([EnqueueRolloutRequest("task")])

    async with trio.open_nursery() as nursery:
        for store in stores:
            nursery.start_soon(use, store)

    async with stores[0] as store:
        assert (await store.summarize()).counts["queuing"] == 5


async def test_schemas_are_stores_of_their_own(dsn: str, postgres: PostgresServer) -> None:
    first = PostgresLightningStore(dsn, schema='odd "name" of a store?')
    try:
        async with first, PostgresLightningStore(dsn) as second:
            await first.enqueue([EnqueueRolloutRequest("task")])

            assert (await first.summarize()).counts["queuing"] == 1
            assert not (await second.query_rollouts())
    finally:
        postgres.psql('DROP SCHEMA IF EXISTS "odd ""name"" of a store?" CASCADE')


async def test_a_store_of_a_newer_version_is_refused(dsn: str, postgres: PostgresServer) -> None:
    async with PostgresLightningStore(dsn):
        pass
    postgres.psql("UPDATE lightning_trio.meta SET value = '999' WHERE name = 'schema_version'")

    with pytest.raises(StoreFormatError, match=r"newer version .* schema is 999.*pip install -U lightning-trio"):
        await PostgresLightningStore(dsn).__aenter__()


async def test_a_store_that_a_newer_version_migrates_meanwhile_is_neither_read_nor_changed(
    dsn: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connection, "_CHECK_SECONDS", 0.0)
    async with PostgresLightningStore(dsn) as store:
        await store.enqueue_rollout("task")
        await store.query_rollouts()
        postgres.psql("UPDATE lightning_trio.meta SET value = '999' WHERE name = 'schema_version'")
        for _ in range(2):
            with pytest.raises(StoreFormatError, match="schema is 999"):
                await store.claim(1)
        with pytest.raises(StoreFormatError, match="schema is 999"):
            await store.query_rollouts()

    assert postgres.psql("SELECT status FROM lightning_trio.rollouts") == [("queuing",)]


@pytest.mark.parametrize("table", ["meta (x int)", "runs (x int)", "meta (name text, value text)"])
async def test_tables_of_another_program_are_refused(dsn: str, postgres: PostgresServer, table: str) -> None:
    postgres.psql(f"CREATE SCHEMA lightning_trio; CREATE TABLE lightning_trio.{table}")

    with pytest.raises(StoreFormatError, match=r"another program: (meta|runs).*schema=…"):
        await PostgresLightningStore(dsn).__aenter__()


async def test_a_missing_server_is_an_error_that_asks_for_it() -> None:
    with pytest.raises(StoreUnavailable, match=r"at 127\.0\.0\.1:1 cannot be reached .*is the server running"):
        await PostgresLightningStore("postgresql://me@127.0.0.1:1/db", open_patience_seconds=0).__aenter__()


async def test_a_database_that_is_not_there_is_named(postgres: PostgresServer) -> None:
    with pytest.raises(StoreUnavailable, match=r"no database 'nowhere' .*createdb nowhere"):
        await PostgresLightningStore(f"{postgres.dsn} dbname=nowhere").__aenter__()


@pytest.fixture
def guest(postgres: PostgresServer) -> Iterator[str]:
    """A role with a password and no privileges."""
    postgres.psql("DROP ROLE IF EXISTS guest")
    postgres.psql("CREATE ROLE guest LOGIN PASSWORD 'hüsh hush/1'")
    yield postgres.dsn.replace("user=postgres", "user=guest")
    postgres.psql("DROP OWNED BY guest")
    postgres.psql("DROP ROLE guest")


async def test_a_role_that_may_not_create_tables_gets_an_error_that_names_what_it_needs(dsn: str, guest: str) -> None:
    with pytest.raises(StoreUnavailable, match=r"cannot be created \(permission denied.*GRANT CREATE ON DATABASE"):
        await PostgresLightningStore(guest).__aenter__()


async def test_a_role_may_use_what_its_owner_made_and_granted(dsn: str, guest: str, postgres: PostgresServer) -> None:
    async with PostgresLightningStore(dsn):
        pass
    with pytest.raises(StoreUnavailable, match=r"'guest' may not .*GRANT USAGE ON SCHEMA") as refused:
        await PostgresLightningStore(guest).__aenter__()

    grants = str(refused.value).partition("as its owner: ")[2]
    postgres.psql(grants)
    async with PostgresLightningStore(guest) as store:
        await store.enqueue([EnqueueRolloutRequest("task")])
        assert len(await store.claim(1, worker_id="w")) == 1


async def test_a_password_is_in_no_error_and_no_repr(
    own_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    own_server.psql("CREATE ROLE guest LOGIN PASSWORD 'right'")
    own_server.ask_for_passwords()
    host = f"127.0.0.1:{own_server.port}"
    wrong = PostgresLightningStore(f"postgresql://guest:s3cret%2Fhush@{host}/postgres")
    without = PostgresLightningStore(f"postgresql://guest@{host}/postgres")

    with pytest.raises(StoreUnavailable, match="rejects the user 'guest'") as refused:
        await wrong.__aenter__()
    with pytest.raises(StoreUnavailable, match="requires a password, and none is configured"):
        await without.__aenter__()
    misread = [f"postgresql://guest:s3{separator}cret@host:5432/db" for separator in "/@"]
    for misread_dsn in misread:
        with pytest.raises(ValueError, match="dsn cannot be read") as unreadable:
            PostgresLightningStore(misread_dsn)
        assert "s3" not in str(unreadable.value)

    shown = "".join(traceback.format_exception(refused.value))
    assert "s3cret" not in shown + repr(wrong) + repr(wrong._server) + caplog.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"connections": 0}, "connections=0"),
        ({"schema": ""}, "schema=''"),
        ({"schema": "pg_mine"}, "schema='pg_mine'"),
        ({"patience_seconds": -1.0}, "patience_seconds=-1.0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PostgresLightningStore("dbname=x", **options)


def test_without_psycopg_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(ImportError, match=r"pip install 'lightning-trio\[postgres\]'"):
        PostgresLightningStore("dbname=x")


def test_importing_the_package_does_not_import_psycopg() -> None:
    program = "import sys, lightning_trio; lightning_trio.PostgresLightningStore; sys.exit('psycopg' in sys.modules)"

    assert run_program(program, timeout=60).code == 0


# Leases.


async def test_a_worker_that_claims_after_its_lease_has_run_out_has_one_again(dsn: str) -> None:
    async with PostgresLightningStore(dsn) as store:
        await store.enqueue([EnqueueRolloutRequest("task")])
        await store.put([Worker("w", lease_seconds=0.1)])
        await trio.sleep(0.2)
        assert (await store.expire()).next_in is None
        [claimed] = await store.claim(1, worker_id="w")
        await trio.sleep(0.2)

        assert list((await store.expire()).requeued) == [claimed.rollout_id]


async def test_a_lease_that_somebody_else_looks_at_is_left_to_them(dsn: str) -> None:
    async with PostgresLightningStore(dsn) as store:
        await store.put([Worker("w", lease_seconds=0.0)])
        with psycopg.connect(dsn) as other:
            other.execute("SELECT 1 FROM lightning_trio.workers FOR UPDATE")
            with trio.fail_after(5):
                expiry = await store.expire()

    assert expiry.next_in is not None
    assert expiry.next_in > 0


@pytest.mark.heavy
async def test_transactions_in_each_others_way_are_run_again(dsn: str) -> None:
    first, second = PostgresLightningStore(dsn, connections=1), PostgresLightningStore(dsn, connections=1)

    async def work(store: PostgresLightningStore, ids: list[str]) -> None:
        for _ in range(20):
            # In opposite orders, in transactions of several operations.
            async with trio.open_nursery() as nursery:
                for rollout_id in ids:
                    nursery.start_soon(partial(store.update_rollout, rollout_id, metadata={"by": "somebody"}))
                    nursery.start_soon(store.put, [Worker(rollout_id)])

    with trio.fail_after(60):
        async with first, second:
            ids = await first.enqueue([EnqueueRolloutRequest(number) for number in range(6)])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, first, ids)
                nursery.start_soon(work, second, ids[::-1])

            assert {str(rollout.metadata) for rollout in await first.query_rollouts()} == {"{'by': 'somebody'}"}


# Stored values.


async def test_values_come_back_as_they_were(dsn: str) -> None:
    task = {"text": 'quote " back \\ brace {} , NULL \x00 \u2028 ü 🙂', "number": 0.1 + 0.2, "none": None, "empty": ""}
    async with PostgresLightningStore(dsn) as store:
        await store.enqueue(
            [EnqueueRolloutRequest(task, metadata={"a": "{\\"}, key='k"\\'), EnqueueRolloutRequest("NULL")]
        )
        first, second = await store.query_rollouts()

    assert (first.input, first.metadata, first.key, second.input) == (task, {"a": "{\\"}, 'k"\\', "NULL")


async def test_a_name_that_postgresql_cannot_keep_is_refused_and_affects_no_other_call(dsn: str) -> None:
    async with PostgresLightningStore(dsn) as store:
        with pytest.raises(NotStorable, match="PostgreSQL cannot keep a value"):
            await store.enqueue([EnqueueRolloutRequest("task", key="a\0b")])
        await store.enqueue([EnqueueRolloutRequest("task", key="ab")])

        assert (await store.summarize()).counts["queuing"] == 1


async def test_a_store_without_some_of_its_tables_is_reported_as_damaged(dsn: str, postgres: PostgresServer) -> None:
    async with PostgresLightningStore(dsn):
        pass
    postgres.psql("DROP TABLE lightning_trio.traces, lightning_trio.runs")

    with pytest.raises(StoreFormatError, match=r"is damaged \(missing tables: runs, traces\)"):
        async with PostgresLightningStore(dsn):
            pass


async def test_a_task_that_cannot_be_read_is_named(dsn: str, postgres: PostgresServer) -> None:
    async with PostgresLightningStore(dsn) as store:
        rollout = await store.enqueue_rollout("task")
        postgres.psql("UPDATE lightning_trio.rollouts SET input = '{oops'")

        [found] = await store.query_rollouts()

    assert isinstance(found.input, Unreadable)
    assert f"rollout {rollout.rollout_id} cannot be read" in found.input.reason


async def test_what_cannot_be_stored_fails_its_own_attempt(dsn: str) -> None:
    await fit_with_one_that_records_too_much(PostgresLightningStore(dsn, max_payload_bytes=LIMIT))


async def test_vacuum_keeps_what_is_there(dsn: str) -> None:
    async with PostgresLightningStore(dsn) as store:
        await store.enqueue([EnqueueRolloutRequest(number) for number in range(100)])
        await store.vacuum()
        await store.vacuum(full=True)

        assert [rollout.input for rollout in await store.claim(100)] == list(range(100))


async def test_a_key_given_by_several_at_once_makes_one_rollout(dsn: str) -> None:
    made: set[str] = set()

    async def enqueue(store: PostgresLightningStore) -> None:
        made.update(await store.enqueue([EnqueueRolloutRequest("task", key="same")]))

    stores = [PostgresLightningStore(dsn, connections=2) for _ in range(4)]
    async with AsyncExitStack() as stack:
        for store in stores:
            await stack.enter_async_context(store)
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                for store in stores * 3:
                    nursery.start_soon(enqueue, store)

    assert len(made) == 1
