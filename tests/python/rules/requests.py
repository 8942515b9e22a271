"""R12 to R15: requests, their numbers, and their one answer."""

import asyncio

from chat.page import ERRORS, Frame
from chat.session import Refused
from rules.case import rule


@rule("R12")
async def what_asks_needs_a_number(world):
    session = await world.session("alice")
    asking = [
        {"conversations": {}},
        {"history": {"conversation": session.user, "before": 0}},
        {"presenceSubscribe": {"users": []}},
        {"send": session.message({"user": session.user}, "x")},
        {"groupCreate": {"opId": session.new_id(), "name": "g"}},
        {"reauth": {"token": f"dev:{session.name}"}},
    ]
    for body in asking:
        await session.tell(**body)
        frame = await session.wait(lambda frame: frame)
        assert frame.error.code == ERRORS["INVALID_ARGUMENT"][0], (body, frame)
    # PING alone may go without.
    await session.tell(ping={})
    frame = await session.wait(lambda frame: frame)
    assert frame.req == 0 and frame.pong.serverTimeMs, frame
    # None of it was done.
    await session.ping()
    assert not session.now_here("event")
    assert not (await session.request(conversations={})).conversations


@rule("R12")
async def a_number_that_waits_is_not_taken_again(world):
    await world.use(limits__bulk_credits=1, limits__in_flight=4)
    session = await world.session("alice", grants=False)
    assert session.welcome.credits.bulk == 1
    await session.request(conversations={})
    waiting = await session.start(conversations={})
    number = session.last_req
    await session.connection.write(Frame(req=number, conversations={}))
    error = (await session.frame_of(waiting)).error
    assert error.code == ERRORS["INVALID_ARGUMENT"][0]
    # The one that waits is still answered, and then its number is free.
    session.answers[number] = asyncio.get_running_loop().create_future()
    await session.credit("LANE_BULK", 1)
    assert (await session.frame_of(session.answers[number])).HasField("conversationsPage")
    assert (await session.finish(await session.start(req=number, ping={}))).serverTimeMs


@rule("R13")
async def every_request_gets_exactly_one_answer(world):
    session = await world.session("alice")
    me = {"user": session.user}
    group = await session.request(groupCreate={"opId": session.new_id(), "name": "g"})
    missing = group.group ^ 2
    started = []
    for at in range(30):
        started.append(await session.start(send=session.message(me, f"{at}")))
        started.append(await session.start(ping={}))
        started.append(await session.start(history={"conversation": session.user, "before": 0}))
        started.append(await session.start(groupGet={"group": missing}))
    kinds = []
    for answer in started:
        try:
            kinds.append((await session.finish(answer)).DESCRIPTOR.name)
        except Refused as refused:
            kinds.append(refused.name)
    assert kinds == ["Sent", "Pong", "HistoryPage", "NOT_FOUND"] * 30
    # A second answer to any of them would be a violation that `chat.session` keeps.
    await session.ping()


@rule("R13")
async def frames_without_an_answer_get_none_unless_they_are_wrong(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    sent = await alice.send(bob.name, "x")
    event = await bob.event()
    await bob.ack(event)
    await bob.tell(mark={"conversation": alice.user, "seenUpTo": sent.msgId})
    await bob.tell(typing={"conversation": alice.user, "on": True})
    await bob.tell(credit={"lane": "LANE_EVENTS", "n": 1})
    await bob.tell(ack={"inboxSeq": 0})
    await bob.next("receipt")
    await bob.ping()
    assert bob.now_here("error") == []
    # A mark of what is no message is wrong.
    await bob.tell(mark={"conversation": alice.user, "seenUpTo": -1})
    error = await bob.next("error")
    assert error.code in (ERRORS["INVALID_ARGUMENT"][0], ERRORS["OUT_OF_RANGE"][0]), error
    assert (await bob.ping()).serverTimeMs


@rule("R14")
async def one_request_more_than_may_wait_is_overloaded(world):
    await world.use(limits__bulk_credits=1, limits__in_flight=4)
    session = await world.session("alice", grants=False)
    assert session.welcome.limits.inFlight == 4
    await session.request(conversations={})
    waiting = [await session.start(conversations={}) for _ in range(4)]
    assert await session.refusal(conversations={}) == "OVERLOADED"
    await session.credit("LANE_BULK", 1)
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert (await session.ping()).serverTimeMs
    await session.credit("LANE_BULK", 3)
    for answer in waiting:
        assert not (await session.finish(answer)).conversations


@rule("R15")
async def what_is_retryable_succeeds_later_unchanged(world):
    await world.use(limits__sends_burst=2, limits__sends_per_second=2)
    session = await world.session("alice")
    refused = 0
    for at in range(5):
        message = session.message({"user": session.user}, f"{at}")
        while True:
            try:
                await session.request(send=message)
                break
            except Refused as error:
                assert error.name == "RATE_LIMITED" and error.error.retryable
                assert error.error.retryAfterMs > 0
                assert error.error.clientMsgId == message["clientMsgId"]
                refused += 1
                # What the answer asks of a client: not a wait of the test for something else.
                await asyncio.sleep(error.error.retryAfterMs / 1000)
    assert refused >= 1
    events = await session.events(5)
    assert [event.message.content.text for event in events] == list("01234")


@rule("R15")
async def what_is_not_retryable_fails_again(world):
    session = await world.session("alice")
    message = session.message({"user": session.user}, "")
    for _ in range(2):
        assert await session.refusal(send=message) == "EMPTY_CONTENT"
