"""R27 to R31: how a session stays, and how it is told to end."""

import asyncio

from chat.connection import Closed
from chat.page import ERRORS, Frame
from chat.session import new_device
from rules.case import JSON, QUIC, rule
from rules.transport import BINARY, CLOSE, PING, TEXT, Json, Protobuf, Raw


@rule("R27")
async def who_says_something_often_enough_stays(world):
    await world.use(edge__websocket_heartbeat_ms=1000, edge__quic_heartbeat_ms=1000)
    talking = await world.session("alice")
    assert talking.welcome.heartbeatMs == 1000
    silent = await silence(world)
    ended = asyncio.ensure_future(silent)
    # As long as another takes to be closed for its silence, and a PING at least every heartbeat.
    while not ended.done():
        await talking.ping()
        await asyncio.wait([ended], timeout=talking.welcome.heartbeatMs / 2000)
    assert await ended == ERRORS["SILENT"][0]
    assert (await talking.ping()).serverTimeMs


async def silence(world):
    """A client that says HELLO and then nothing, not even what a library says for it: its end."""
    if world.carrier == QUIC:
        session = await world.session("bob")

        async def ended():
            await session.ended_with("SILENT")
            return ERRORS["SILENT"][0]

        return ended()
    encoding = Json if world.carrier == JSON else Protobuf
    raw, _, _ = await Raw.upgraded(world, f"Sec-WebSocket-Protocol: {encoding.SUBPROTOCOL}")
    token = f"dev:{world.name('bob')}"
    hello = {"minVersion": 1, "maxVersion": 1, "token": token, "device": new_device()}
    data = encoding.encode(Frame(req=1, hello=hello))
    text = isinstance(data, str)
    raw.write(TEXT if text else BINARY, data.encode() if text else data)

    async def ended():
        pinged, told = False, None
        while True:
            opcode, payload = await raw.read()
            pinged = pinged or opcode == PING
            if opcode == CLOSE:
                assert pinged, "R27: a silent client is pinged before it is closed"
                assert told == ERRORS["SILENT"][0], f"R10: ERROR comes before the close: {told}"
                return int.from_bytes(payload[:2]) - 4000
            if opcode in (TEXT, BINARY):
                frame = encoding.decode(payload.decode() if opcode == TEXT else payload)
                told = frame.error.code or told

    return ended()


@rule("R28")
async def a_token_that_ends_is_announced_and_then_ends_the_session(world):
    name, device = world.name("alice"), new_device()
    session = await world.opened()
    await session.hello(world.keys.token(sub=name, lifetime_s=6), device)
    expiring = await session.next("tokenExpiring")
    assert expiring.inMs <= 60_000
    # A second device has a newer token in time, and outlives the first.
    other = await world.opened()
    await other.hello(world.keys.token(sub=name, lifetime_s=4), new_device())
    await other.next("tokenExpiring")
    await other.request(reauth={"token": world.keys.token(sub=name)})
    await session.ended_with("TOKEN_EXPIRED")
    assert (await other.ping()).serverTimeMs


@rule("R29")
async def reauth_keeps_a_session_of_the_same_identity_only(world):
    device = new_device()
    name, token = world.name("alice"), world.keys.token
    session = await world.opened()
    await session.hello(token(sub=name), device)
    same = [token("ES256", sub=name), token(sub=name, device=device), f"dev:{name}"]
    others = [
        token(sub=world.name("bob")),
        token(sub=name, app=world.name("shop")),
        token(sub=name, device=device ^ 2),
        f"dev:{name}@{world.name('shop')}",
    ]
    for one in same:
        assert not (await session.request(reauth={"token": one})).ListFields()
    for one in others:
        assert await session.refusal(reauth={"token": one}) == "IDENTITY_CHANGED"
    assert await session.refusal(reauth={"token": "nonsense"}) == "BAD_TOKEN"
    expired = token(sub=name, lifetime_s=-3600)
    assert await session.refusal(reauth={"token": expired}) == "TOKEN_EXPIRED"
    sent = await session.send({"user": session.user}, "still alice")
    assert (await session.event()).msgId == sent.msgId


@rule("R30")
async def goaway_comes_before_the_server_goes_and_what_was_asked_is_answered(world):
    node = await world.use_own()
    alice = await world.session("alice")
    sent = await alice.send({"user": alice.user}, "before")
    node.terminate()
    goaway = await alice.next("goaway")
    assert goaway.reconnectWithinMs > 0 and goaway.reason
    try:
        # The server is still there for what is under way: it answers, or says why not.
        last = await alice.send({"user": alice.user}, "last")
        assert last.msgId > sent.msgId
    except Closed as closed:
        assert closed.ending.code is not None, f"not a proper end: {closed.ending}"
    error, code = await alice.ended()
    assert error is None or error.code == ERRORS["GOING_AWAY"][0], error
    assert code in (1000, 1001, 0, ERRORS["GOING_AWAY"][0]), code
    async with asyncio.timeout(60):
        assert await node.process.wait() == 0
    await node.restart()
    again = await world.session("alice", resume=alice.where)
    assert await again.placed() == alice.cursor


@rule("R31")
async def a_session_acts_as_its_own_user_only(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    carol = await world.session("carol")
    # Fields that name somebody are the server's to fill in.
    await bob.send(alice.name, "so that bob knows alice")
    await alice.event()
    await bob.event()
    await alice.send(bob.name, "hi")
    event = await bob.event()
    assert (event.sender, event.senderName) == (alice.user, alice.name)
    await alice.tell(typing={"conversation": bob.user, "on": True, "user": carol.user})
    typing = await bob.next("typing")
    assert (typing.user, typing.conversation) == (alice.user, alice.user)
    # Nobody reads or marks for another.
    page = await carol.request(history={"conversation": bob.user, "before": 0})
    assert not page.events
    group = await alice.request(groupCreate={"opId": alice.new_id(), "name": "g"})
    assert await carol.refusal(members={"group": group.group}) in ("NOT_MEMBER", "NOT_FOUND")
