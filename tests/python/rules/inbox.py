"""R45 to R50: events, credits and acknowledgements."""

import asyncio

from chat.connection import Closed
from chat.page import Frame
from rules.case import rule


@rule("R45")
async def events_are_numbered_without_a_gap_across_reconnects_and_kills(world):
    node = await world.use_own()
    alice = await world.session("alice")
    bob = await world.session("bob")
    sent = []

    async def say(count):
        for _ in range(count):
            sent.append((await alice.send(bob.name, f"{len(sent)}")).msgId)

    # `chat.session` fails at a number that does not follow.
    await say(20)
    events = await bob.events(20)
    bob = await world.again(bob)
    await say(20)
    events += await bob.events(20)
    await node.kill()
    where = bob.where
    await node.restart()
    alice = await world.session("alice")
    bob = await world.session("bob", resume=where)
    await say(20)
    events += await bob.events(20)
    assert [event.inboxSeq for event in events] == list(range(1, 61))
    assert [event.msgId for event in events] == sent


@rule("R45")
async def an_event_frame_is_bounded(world):
    alice = await world.session("alice")
    for at in range(20):
        await alice.send({"user": alice.user}, f"{at:02}" * 15_000)
    started = [
        await alice.start(send=alice.message({"user": alice.user}, "x")) for _ in range(150)
    ]
    for answer in started:
        await alice.finish(answer)
    alice = await world.again(alice, resume={**alice.where, "inboxSeq": 0})
    await alice.placed()
    count = 0
    while count < 170:
        batch = await alice.next("event")
        count += len(batch.events)
        size = len(alice.connection.encoding.encode(Frame(event=batch)))
        assert len(batch.events) == 1 or size < 160_000, (len(batch.events), size)


@rule("R46")
async def what_was_not_stored_comes_again(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    sent = [(await alice.send(bob.name, f"{at}")).msgId for at in range(4)]
    events = await bob.events(4)
    await bob.ack(events[1])
    # It was told of four, but stored two: it resumes from there.
    bob = await world.again(bob, resume={**bob.where, "inboxSeq": 2})
    assert await bob.placed() == 2
    again = await bob.events(2)
    assert [event.msgId for event in again] == sent[2:]
    assert again == events[2:]


@rule("R47")
async def no_more_events_come_than_there_are_credits(world):
    alice = await world.session("alice")
    bob = await world.session("bob", grants=False, eventCredits=2)
    assert bob.welcome.credits.events == 2
    for at in range(6):
        await alice.send(bob.name, f"{at}")
    await bob.events(2)
    for granted in (1, 2):
        # What it has read was all that there was room for: the next comes with the credit.
        await bob.ping()
        assert not bob.now_here("event")
        await bob.credit("LANE_EVENTS", granted)
        await bob.events(granted)
    await bob.ping()
    assert not bob.now_here("event") and bob.cursor == 5
    await bob.credit("LANE_EVENTS", 1)
    assert (await bob.event()).inboxSeq == 6


@rule("R47")
async def credits_hold_for_what_is_resumed_too(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    for at in range(6):
        await alice.send(bob.name, f"{at}")
    await bob.events(6)
    bob = await world.again(
        bob, resume={**bob.where, "inboxSeq": 0}, grants=False, eventCredits=4
    )
    await bob.events(4)
    await bob.ping()
    assert not bob.now_here("event")
    await bob.credit("LANE_EVENTS", 100)
    await bob.events(2)


@rule("R48")
async def a_page_takes_a_bulk_credit_and_sixteen_reads_wait_at_most(world):
    alice = await world.session("alice", grants=False)
    credit = alice.welcome.credits.bulk
    for _ in range(credit):
        await alice.request(conversations={})
    waiting = [await alice.start(conversations={}) for _ in range(16)]
    assert await alice.refusal(conversations={}) == "OVERLOADED"
    assert not any(answer.done() for answer in waiting)
    await alice.credit("LANE_BULK", 1)
    done, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    await alice.ping()
    assert len(done) == 1 and not any(answer.done() for answer in left)
    await alice.credit("LANE_BULK", 100)
    for answer in waiting:
        assert not (await alice.finish(answer)).conversations


@rule("R49")
async def an_ack_is_cumulative_and_never_moves_back(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    sent = [await alice.send(bob.name, f"{at}") for at in range(4)]
    events = await bob.events(4)
    await bob.ack(events[3])
    await bob.ack(events[0])
    await bob.tell(ack={"inboxSeq": 0})
    delivered = 0
    while delivered < sent[3].msgId:
        receipt = await alice.next("receipt")
        assert receipt.deliveredUpTo >= delivered
        delivered = receipt.deliveredUpTo
    (conversation,) = (await alice.request(conversations={})).conversations
    assert conversation.peerDeliveredUpTo == sent[3].msgId


@rule("R49")
async def an_ack_beyond_what_was_sent_ends_the_session(world):
    alice = await world.session("alice")
    bob = await world.session("bob", grants=False, eventCredits=1)
    for at in range(2):
        await alice.send(bob.name, f"{at}")
    await bob.event()
    await bob.tell(ack={"inboxSeq": 2})
    await bob.ended_with("OUT_OF_RANGE")
    # It has delivered nothing.
    (conversation,) = (await alice.request(conversations={})).conversations
    assert conversation.peerDeliveredUpTo == 0


@rule("R50")
async def who_is_behind_without_a_word_is_closed_and_resumes_where_it_was(world):
    await world.use(shards__slow_consumer_ms=1000)
    alice = await world.session("alice")
    bob = await world.session("bob", grants=False, eventCredits=1)
    sent = [(await alice.send(bob.name, f"{at}")).msgId for at in range(3)]
    assert (await bob.event()).msgId == sent[0]
    try:
        while True:  # A PING is neither CREDIT nor ACK.
            await bob.ping()
            await asyncio.wait([bob.pump], timeout=0.2)
    except Closed:
        pass
    await bob.ended_with("SLOW_CONSUMER")
    bob = await world.session("bob", resume=bob.where)
    assert await bob.placed() == 1
    assert [event.msgId for event in await bob.events(2)] == sent[1:]
