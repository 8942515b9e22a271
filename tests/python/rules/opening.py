"""R16 to R26: HELLO, who somebody is, and where a device goes on."""

import time

from chat.page import ERRORS, LIMITS, Frame
from chat.session import Refused, new_device
from rules.case import rule


def hello(session, world, **changes):
    whole = {"minVersion": 1, "maxVersion": 1, "token": f"dev:{world.name('alice')}", "device": 7}
    return Frame(req=1, hello={**whole, **changes})


@rule("R16")
async def hello_must_come_first(world):
    session = await world.opened()
    await session.connection.write(Frame(req=1, conversations={}))
    await session.ended_with("UNEXPECTED_FRAME")


@rule("R16")
async def hello_twice_ends_the_session(world):
    session = await world.session("alice")
    await session.connection.write(hello(session, world))
    await session.ended_with("UNEXPECTED_FRAME")


@rule("R16")
async def without_hello_in_time_the_connection_ends(world):
    session = await world.opened()
    if world.carrier == "quic":
        # The stream is there when something was sent on it: a length without its frame.
        await session.connection.write_raw(b"\0\0")
    begin = time.monotonic()
    await session.ended_with("HELLO_TIMEOUT")
    assert time.monotonic() - begin > 3, "it is given 5 s"


@rule("R17")
async def the_highest_common_version_is_taken(world):
    for lowest, highest in ((1, 1), (0, 1), (1, 9), (0, 4_294_967_295)):
        session = await world.opened()
        await session.connection.write(
            hello(session, world, minVersion=lowest, maxVersion=highest, device=new_device())
        )
        assert (await session.wait_welcome()).version == 1, (lowest, highest)


@rule("R17")
async def without_a_common_version_it_is_unsupported(world):
    for lowest, highest in ((2, 3), (0, 0), (4_294_967_295, 4_294_967_295)):
        session = await world.opened()
        await session.connection.write(
            hello(session, world, minVersion=lowest, maxVersion=highest)
        )
        await session.ended_with("UNSUPPORTED")


async def welcomed(world, token, device=None):
    session = await world.opened()
    return await session.hello(token, device or new_device())


async def turned_away(world, token, device=None):
    """The error of a HELLO with this token, which ends the connection with its code."""
    session = await world.opened()
    try:
        welcome = await session.hello(token, device or new_device())
    except Refused as refused:
        await session.ended_with(refused.name)
        return refused.name
    raise AssertionError(f"{token!r} was let in: {welcome}")


@rule("R18")
async def a_token_of_each_algorithm_names_its_user(world):
    name = world.name("alice")
    users = set()
    for algorithm in ("EdDSA", "ES256", "RS256"):
        for more in ({}, {"app": "default"}, {"aud": ["other", "chat"]}):
            welcome = await welcomed(world, world.keys.token(algorithm, sub=name, **more))
            assert welcome.name == name
            users.add(welcome.user)
    users.add((await welcomed(world, f"dev:{name}")).user)
    assert len(users) == 1, "one name of one app is one user"
    other = await welcomed(world, world.keys.token(sub=name, app=world.name("shop")))
    assert other.name == name and other.user not in users


@rule("R18")
async def what_is_wrong_with_a_token_is_named(world):
    name = world.name("alice")
    token = world.keys.token
    head, body, signature = token(sub=name).split(".")
    forged = f"{head}.{token(sub=world.name('bob')).split('.')[1]}.{signature}"
    wrong = {
        "BAD_TOKEN": [
            "",
            "nonsense",
            "dev:",
            f"{head}.{body}.",
            forged,
            token(sub=None),
            token(sub=""),
            token(sub=7),
            token(sub=name, exp=None),
            token(sub=name, exp="tomorrow"),
            token(sub=name, app=7),
            token(sub=name, device="x"),
            token(sub=name, device=-1),
            token(sub="x" * 129),
            token(sub=f"{name}\n"),
            token(sub=name, aud=None),
            f"{head}..{signature}",
            "dev:" + "x" * 129,
            f"dev:{name}\x07",
            "x" * 8193,
        ],
        "TOKEN_EXPIRED": [token(sub=name, lifetime_s=-3600)],
        "WRONG_AUDIENCE": [token(sub=name, aud="mail"), token(sub=name, aud=["mail", "shop"])],
    }
    for expected, tokens in wrong.items():
        for one in tokens:
            assert await turned_away(world, one) == expected, one[:200]


@rule("R18")
async def names_are_up_to_128_bytes_of_any_utf8(world):
    base = world.name("größer 😀")
    longest = base + "x" * (128 - len(base.encode()))
    for name in (base, longest):
        assert (await welcomed(world, world.keys.token(sub=name))).name == name
        assert (await welcomed(world, f"dev:{name}")).name == name


@rule("R18")
async def a_dev_token_names_an_app_too(world):
    name, app = world.name("alice"), world.name("shop")
    users = {(await welcomed(world, f"dev:{name}@{app}")).user for _ in range(2)}
    signed = await welcomed(world, world.keys.token(sub=name, app=app))
    assert users == {signed.user} and signed.name == name


@rule("R19")
async def device_0_is_invalid(world):
    session = await world.opened()
    await session.connection.write(hello(session, world, device=0))
    await session.ended_with("INVALID_ARGUMENT")


@rule("R19")
async def a_tokens_device_counts_and_another_is_not_allowed(world):
    name, device = world.name("alice"), new_device()
    for claim in (device, str(device)):
        token = world.keys.token(sub=name, device=claim)
        assert (await welcomed(world, token, device)).name == name
        assert await turned_away(world, token, new_device()) == "NOT_ALLOWED"


@rule("R20")
async def welcome_says_who_one_is_and_what_one_may(world):
    before_ms = int(time.time() * 1000)
    session = await world.session("alice")
    welcome = session.welcome
    assert welcome.version == 1 and welcome.user and welcome.session
    assert welcome.name == session.name
    assert abs(welcome.serverTimeMs - before_ms) < 60_000
    assert welcome.heartbeatMs > 0 and welcome.generation
    # The defaults of the page's table are those of a server that was told nothing else.
    for holder, name in LIMITS:
        assert getattr(getattr(welcome, holder), name) == LIMITS[holder, name], name
    again = await world.again(session)
    assert again.welcome.generation == welcome.generation and again.user == welcome.user


@rule("R21")
async def without_resume_events_follow_from_the_head_and_no_mark_moves(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    await bob.close()
    for text in ("one", "two"):
        await alice.send(bob.name, text)
    phone = await world.session("bob", device=new_device())
    assert phone.welcome.inboxHead == 2
    await phone.ping()
    (conversation,) = (await alice.request(conversations={})).conversations
    assert (conversation.peerDeliveredUpTo, conversation.peerSeenUpTo) == (0, 0)
    await alice.send(bob.name, "three")
    assert (await phone.event()).inboxSeq == 3
    # A new device reads what was before.
    (conversation,) = (await phone.request(conversations={})).conversations
    assert conversation.unread == 3 and conversation.deliveredUpTo == 0


@rule("R22")
async def resume_brings_every_event_after_the_cursor(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    sent = [await alice.send(bob.name, f"{at}") for at in range(5)]
    await bob.events(5)
    where = bob.where
    for cursor in (5, 3, 0):
        bob = await world.again(bob, resume={**where, "inboxSeq": cursor})
        assert await bob.placed() == cursor
        events = await bob.events(5 - cursor)
        assert [event.msgId for event in events] == [one.msgId for one in sent[cursor:]]
    # Nothing was left out behind: the next one is the sixth.
    await alice.send(bob.name, "next")
    assert (await bob.event()).inboxSeq == 6


@rule("R22")
async def a_generation_that_is_not_known_is_the_present_one(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    await alice.send(bob.name, "one")
    await bob.event()
    bob = await world.again(bob, resume={"inboxSeq": 0, "generation": 0})
    assert await bob.placed() == 0
    assert (await bob.event()).inboxSeq == 1


@rule("R22")
async def a_device_that_the_server_does_not_know_gets_what_is_still_kept(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    for text in ("one", "two", "three"):
        await alice.send(bob.name, text)
    await bob.events(3)
    restored = await world.session(
        "bob", device=new_device(), resume={**bob.where, "inboxSeq": 1}
    )
    assert await restored.placed() == 1
    assert [event.inboxSeq for event in await restored.events(2)] == [2, 3]


@rule("R23")
async def a_cursor_of_another_generation_is_told_gap(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    await alice.send(bob.name, "one")
    await alice.send(bob.name, "two")
    await bob.events(2)
    for cursor in (1, 2, 99):
        where = {**bob.where, "inboxSeq": cursor, "generation": bob.welcome.generation ^ 1}
        bob = await world.again(bob, resume=where)
        gap = await bob.placed()
        assert (gap.oldest, gap.head) == (1, 2)
    # Events go on from head + 1; what was missed can be read.
    await alice.send(bob.name, "three")
    assert (await bob.event()).inboxSeq == 3
    page = await bob.request(history={"conversation": alice.user, "before": 0})
    assert [event.message.content.text for event in page.events] == ["three", "two", "one"]


@rule("R24")
async def a_cursor_ahead_of_the_inbox_is_a_stale_leader_and_no_gap(world):
    bob = await world.session("bob")
    where = {**bob.where, "inboxSeq": 1}
    await bob.close()
    session = await world.opened()
    await session.connection.write(
        hello(session, world, token=f"dev:{bob.name}", device=bob.device, resume=where)
    )
    await session.ended_with("STALE_LEADER")
    assert not session.now_here("gap")
    # The device comes again, with what is true.
    bob = await world.session("bob", resume={**where, "inboxSeq": 0})
    assert await bob.placed() == 0


@rule("R25")
async def a_newer_session_of_a_device_replaces_the_older_one(world):
    older = await world.session("alice")
    other = await world.session("alice", device=new_device())
    newer = await world.session("alice")
    await older.next("replaced")
    # That frame stands in place of ERROR.
    error, code = await older.ended()
    assert (error, code) == (None, ERRORS["REPLACED"][0])
    # Another device of the same user is left alone.
    assert (await other.ping()).serverTimeMs
    assert (await newer.ping()).serverTimeMs


@rule("R26")
async def one_device_too_many_takes_the_place_of_the_longest_unseen(world):
    await world.use(cluster__devices=3)
    alice = await world.session("alice")
    devices = [await world.session("bob", device=new_device()) for _ in range(3)]
    for device in devices:
        await alice.send(world.name("bob"), "x")
    for device in devices:
        await device.events(3)
        await device.close()
    assert devices[0].welcome.limits.devices == 3
    # The first comes back, so the second is now the longest unseen.
    first = await world.session("bob", device=devices[0].device, resume=devices[0].where)
    assert await first.placed() == 3
    fourth = await world.session("bob", device=new_device())
    assert fourth.welcome.inboxHead == 3
    # It takes another's place when it comes again, and goes on where it was: the third's, since
    # the session of the longest unseen is one that ends.
    second = await world.session("bob", device=devices[1].device, resume=devices[1].where)
    assert await second.placed() == 3
    await alice.send(world.name("bob"), "y")
    assert (await second.event()).inboxSeq == 4
