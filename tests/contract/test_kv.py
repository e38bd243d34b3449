"""What `kv.KV` promises, held against a real etcd and against the simulated one."""

import asyncio

import pytest

from manager.store import kv
from manager.store.barrier import Barrier
from shoal.model import errors


async def put(store: kv.KV, key: bytes, value: bytes = b"x", lease: int = 0) -> int:
    return (await store.txn((), (kv.Put(key, value, lease),))).revision


async def following(watch: kv.Watch, wanted: int) -> list[kv.WatchResponse]:
    """Responses until `wanted` events have come."""
    responses: list[kv.WatchResponse] = []
    async with asyncio.timeout(10):
        async for response in watch:
            responses.append(response)
            if sum(len(each.events) for each in responses) >= wanted:
                break
    return responses


async def test_put_and_read(store: kv.KV, root: bytes) -> None:
    first = await put(store, root + b"a", b"1")
    second = await put(store, root + b"a", b"2")
    assert second == first + 1
    found = await store.range(root + b"a")
    assert found.kvs == (kv.KeyValue(root + b"a", b"2", first, second, 2),)
    assert (found.revision, found.count, found.more) == (second, 1, False)
    past = await store.range(root + b"a", revision=first)
    assert past.kvs == (kv.KeyValue(root + b"a", b"1", first, first, 1),)
    assert past.revision == second


async def test_key_made_again_has_a_new_create_revision(store: kv.KV, root: bytes) -> None:
    key = root + b"a"
    await put(store, key)
    gone = await store.txn((), (kv.DeleteRange(key),))
    assert gone.responses == (kv.Deleted(1),)
    again = await put(store, key)
    assert (await store.range(key)).kvs == (kv.KeyValue(key, b"x", again, again, 1),)


async def test_reading_ranges(store: kv.KV, root: bytes) -> None:
    for name in (b"c", b"a", b"b"):
        await put(store, root + name)
    whole = await store.range(kv.Prefix(root))
    assert [entry.key for entry in whole.kvs] == [root + b"a", root + b"b", root + b"c"]
    counted = await store.range(kv.Prefix(root), count_only=True)
    assert (counted.kvs, counted.count) == ((), 3)
    cut = await store.range(kv.Prefix(root), limit=2, keys_only=True)
    assert [entry.value for entry in cut.kvs] == [b"", b""]
    assert (cut.count, cut.more) == (3, True)
    part = await store.range(kv.Span(root + b"b", root + b"c"))
    assert [entry.key for entry in part.kvs] == [root + b"b"]
    local = await store.range(kv.Prefix(root), serializable=True)
    assert local.count == 3
    everything = await store.range(kv.Prefix(b""), count_only=True)
    assert everything.count >= 3


async def test_pages_show_one_revision(store: kv.KV, root: bytes) -> None:
    for number in range(5):
        await put(store, root + b"%d" % number)
    seen: list[bytes] = []
    revisions = []
    async for page in kv.pages(store, kv.Prefix(root), size=2):
        await put(store, root + b"9 written meanwhile")
        revisions.append(page.revision)
        seen += [entry.key for entry in page.kvs]
    assert seen == [root + b"%d" % number for number in range(5)]
    assert revisions[0] == revisions[-1] - 2


async def test_compares_on_missing_keys(store: kv.KV, root: bytes) -> None:
    missing = root + b"missing"
    for compare, holds in (
        (kv.ModRevisionIs(missing, 0), True),
        (kv.ModRevisionIs(missing, 3), False),
        (kv.CreateRevisionIs(missing, 0), True),
        (kv.CreateRevisionIs(missing, 3), False),
        (kv.ValueIs(missing, b""), False),
        (kv.CreateRevisionIs(kv.Prefix(missing), 0), True),
        (kv.CreateRevisionIs(kv.Prefix(missing), 3), False),
    ):
        assert (await store.txn((compare,), ())).succeeded is holds, compare


async def test_compares_on_keys(store: kv.KV, root: bytes) -> None:
    key = root + b"a"
    created = await put(store, key, b"1")
    changed = await put(store, key, b"2")
    for compare, holds in (
        (kv.ModRevisionIs(key, changed), True),
        (kv.ModRevisionIs(key, created), False),
        (kv.CreateRevisionIs(key, created), True),
        (kv.CreateRevisionIs(key, 0), False),
        (kv.ValueIs(key, b"2"), True),
        (kv.ValueIs(key, b"1"), False),
    ):
        assert (await store.txn((compare,), ())).succeeded is holds, compare


async def test_prefix_compared_as_empty(store: kv.KV, root: bytes) -> None:
    empty = kv.CreateRevisionIs(kv.Prefix(root + b"ref/"), 0)
    await put(store, root + b"ref0")
    assert (await store.txn((empty,), ())).succeeded
    await put(store, root + b"ref/x")
    refused = await store.txn(
        (empty,), (kv.Put(root + b"won", b""),), (kv.Get(root + b"ref/x"),)
    )
    assert not refused.succeeded
    (found,) = refused.responses
    assert isinstance(found, kv.RangeResult)
    assert [entry.key for entry in found.kvs] == [root + b"ref/x"]
    assert (await store.range(root + b"won")).count == 0


async def test_txn_is_one_revision_and_sees_itself(store: kv.KV, root: bytes) -> None:
    before = await put(store, root + b"old")
    result = await store.txn(
        (),
        (kv.Put(root + b"new", b"1"), kv.DeleteRange(root + b"old"), kv.Get(kv.Prefix(root))),
    )
    assert result.revision == before + 1
    written, deleted, got = result.responses
    assert (written, deleted) == (kv.Written(), kv.Deleted(1))
    assert isinstance(got, kv.RangeResult)
    assert [entry.key for entry in got.kvs] == [root + b"new"]
    assert got.kvs[0].mod_revision == result.revision
    nothing = await store.txn((), (kv.DeleteRange(root + b"nothing"),))
    assert (nothing.revision, nothing.responses) == (result.revision, (kv.Deleted(0),))


async def test_refused_transactions(store: kv.KV, root: bytes) -> None:
    a, b = root + b"a", root + b"b"
    before = (await store.range(a)).revision
    many = tuple(kv.Put(root + b"%d" % number, b"") for number in range(kv.MAX_TXN_OPS + 1))
    for success in (
        (kv.Put(a, b""), kv.Put(a, b"")),
        (kv.Put(a, b""), kv.DeleteRange(a)),
        (kv.DeleteRange(kv.Prefix(root)), kv.Put(b, b"")),
        (kv.Put(b"", b""),),
        (kv.Put(a, b"x" * kv.MAX_REQUEST_BYTES),),
        (kv.Put(a, b"x" * 2 * kv.MAX_REQUEST_BYTES),),
        many,
    ):
        with pytest.raises(errors.InvalidArgument):
            await store.txn((), success)
    with pytest.raises(kv.LeaseNotFound):
        await store.txn((), (kv.Put(a, b""), kv.Put(b, b"", lease=77)))
    assert (await store.range(kv.Prefix(root))).count == 0
    assert (await store.range(a)).revision == before
    both = await store.txn((), (kv.Put(a, b""),), (kv.Put(a, b""),))
    assert both.succeeded
    twice = await store.txn((), (kv.DeleteRange(a), kv.DeleteRange(a)))
    assert twice.responses == (kv.Deleted(1), kv.Deleted(0))
    assert (await store.txn((), many[:-1])).succeeded


async def test_future_revision_is_refused(store: kv.KV, root: bytes) -> None:
    present = await put(store, root)
    with pytest.raises(errors.InvalidArgument):
        await store.range(root, revision=present + 100)


async def test_watch_from_the_past_sees_whole_txns(store: kv.KV, root: bytes) -> None:
    start = await put(store, root + b"a", b"1")
    both = await store.txn(
        (), (kv.Put(root + b"b", b""), kv.DeleteRange(root + b"a"), kv.Put(b"else", b""))
    )
    await put(store, root + b"c")
    async with store.watch(kv.Prefix(root), start_revision=start, prev=True) as watch:
        responses = await following(watch, 4)
        live = await store.txn(
            (), tuple(kv.Put(root + b"l%d" % number, b"") for number in range(3))
        )
        (response,) = await following(watch, 3)
    events = [event for each in responses for event in each.events]
    assert [(event.kv.key, event.deleted) for event in events] == [
        (root + b"a", False),
        (root + b"b", False),
        (root + b"a", True),
        (root + b"c", False),
    ]
    gone = events[2]
    assert gone.kv == kv.KeyValue(root + b"a", b"", 0, both.revision, 0)
    assert gone.prev == kv.KeyValue(root + b"a", b"1", start, start, 1)
    assert response.revision == live.revision
    assert len(response.events) == 3


async def test_watch_that_catches_up_never_claims_more_than_it_sent(
    store: kv.KV, root: bytes
) -> None:
    start = await put(store, root)
    async with asyncio.TaskGroup() as group:
        for part in range(25):
            group.create_task(_many(store, root + b"%d/" % part, 100))
    async with store.watch(kv.Prefix(root), start_revision=start) as watch:
        seen = start - 1
        for response in await following(watch, 2501):
            revisions = [event.kv.mod_revision for event in response.events]
            assert revisions == list(range(seen + 1, seen + 1 + len(revisions)))
            seen = revisions[-1]
            assert response.revision == seen


async def _many(store: kv.KV, root: bytes, count: int) -> None:
    for number in range(count):
        await put(store, root + b"%d" % number)


async def test_large_txn_arrives_in_one_response(store: kv.KV, root: bytes) -> None:
    start = (await store.range(root)).revision + 1
    for _ in range(2):
        await store.txn(
            (), tuple(kv.Put(root + b"%d" % number, b"y" * 1000) for number in range(3900))
        )
    async with store.watch(kv.Prefix(root), start_revision=start) as watch:
        responses = await following(watch, 7800)
    for response in responses:
        assert len(response.events) % 3900 == 0


async def test_watch_of_the_whole_keyspace_sees_every_revision(
    store: kv.KV, root: bytes
) -> None:
    start = (await store.range(root)).revision + 1
    async with store.watch(kv.Prefix(b""), start_revision=start) as watch:
        for number in range(3):
            await put(store, root + b"%d" % number)
        responses = await following(watch, 3)
    assert responses[-1].revision == start + 2


async def test_compaction(store: kv.KV, root: bytes) -> None:
    first = await put(store, root + b"a", b"1")
    await put(store, root + b"a", b"2")
    present = await put(store, root + b"b")
    await store.compact(present)
    with pytest.raises(kv.Compacted):
        await store.compact(first)
    with pytest.raises(kv.Compacted):
        await store.range(root + b"a", revision=first)
    with pytest.raises(kv.Compacted) as caught:
        async with store.watch(kv.Prefix(root), start_revision=first) as watch:
            await following(watch, 1)
    assert caught.value.revision == present
    assert (await store.range(root + b"a", revision=present)).kvs[0].value == b"2"
    async with store.watch(kv.Prefix(root), start_revision=present) as watch:
        await put(store, root + b"c")
        responses = await following(watch, 2)
    keys = [event.kv.key for response in responses for event in response.events]
    assert keys == [root + b"b", root + b"c"]
    with pytest.raises(errors.InvalidArgument):
        await store.compact(present + 1000)


async def test_progress_is_given_or_refused(store: kv.KV, root: bytes) -> None:
    present = await put(store, root + b"a")
    async with store.watch(root + b"unchanged", start_revision=present + 1) as watch:
        present = await put(store, root + b"b")
        try:
            await watch.request_progress()
        except errors.Unimplemented:
            version = (await store.status()).version
            assert version < "3.4.25"
            return
        async with asyncio.timeout(5):
            response = await anext(aiter(watch))
        assert response == kv.WatchResponse(present)


async def test_lease_expiry_deletes_its_keys_at_once(store: kv.KV, root: bytes) -> None:
    lease = await store.lease_grant(1)
    assert lease.ttl == 1
    revision = await put(store, root + b"a", lease=lease.id)
    await put(store, root + b"b", lease=lease.id)
    state = await store.lease_time_to_live(lease.id)
    assert (state.granted, state.keys) == (1, (root + b"a", root + b"b"))
    async with store.watch(kv.Prefix(root), start_revision=revision + 2) as watch:
        (response,) = await following(watch, 2)
    assert [event.kv.key for event in response.events if event.deleted] == list(state.keys)
    assert response.revision == (await store.range(root)).revision
    for gone in (
        store.lease_keepalive(lease.id),
        store.lease_revoke(lease.id),
    ):
        with pytest.raises(kv.LeaseNotFound):
            await gone


async def test_lease_kept_alive_and_revoked(store: kv.KV, root: bytes) -> None:
    lease = await store.lease_grant(1)
    await put(store, root + b"a", lease=lease.id)
    await put(store, root + b"let go", lease=lease.id)
    await put(store, root + b"let go")
    for _ in range(5):
        assert await store.lease_keepalive(lease.id) == 1
        await asyncio.sleep(0.5)
    assert (await store.range(root + b"a")).kvs[0].lease == lease.id
    await store.lease_revoke(lease.id)
    found = await store.range(kv.Prefix(root))
    assert [entry.key for entry in found.kvs] == [root + b"let go"]
    with pytest.raises(kv.LeaseNotFound):
        await store.lease_time_to_live(lease.id)


async def test_status_and_members(store: kv.KV) -> None:
    status = await store.status()
    assert status.leader == status.member
    assert status.db_size >= status.db_size_in_use >= 0
    assert not status.is_learner
    (member,) = await store.member_list()
    assert member.id == status.member
    await store.member_update(member.id, member.peer_urls)
    with pytest.raises(errors.NotFound):
        await store.member_remove(5)
    await store.defragment()


async def test_barrier(store: kv.KV, root: bytes) -> None:
    waited: list[int] = []

    async def wait_for(revision: int) -> None:
        waited.append(revision)

    written = await put(store, root + b"a")
    assert await Barrier(store, wait_for).reached() >= written
    assert waited[0] >= written
