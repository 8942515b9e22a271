"""R32 to R44: SEND, from the number it carries to the copy that its sender gets."""

import asyncio

from chat.page import ERRORS
from chat.session import Refused, new_device, uuid7
from rules.case import rule

CONTENTS = {
    "text": {"text": "größer 😀"},
    "media": {"media": {"url": "https://example.org/x", "mimeType": "image/png", "sizeBytes": 7}},
    "custom": {"custom": {"type": "poll", "data": b"\x00\xff"}},
}


async def with_group(world, *names):
    """A group of alice and others, all attached; what its creation brought is read."""
    alice = await world.session("alice")
    others = [await world.session(name) for name in names]
    group = await alice.request(
        groupCreate={
            "opId": alice.new_id(),
            "name": "group",
            "members": [other.name for other in others],
        }
    )
    for session in (alice, *others):
        event = await session.event()
        assert event.conversation == group.group and event.HasField("groupChange")
    return group.group, alice, *others


@rule("R32", "R33")
async def what_was_acknowledged_is_there_after_a_kill_and_a_retry_is_told_so(world):
    node = await world.use_own()
    alice = await world.session("alice")
    name = world.name("bob")
    messages = [alice.message(name, f"{at}") for at in range(20)]
    sent = [await alice.request(send=message) for message in messages]
    await node.kill()
    await node.restart()
    alice = await world.session("alice", device=new_device())
    for message, first in zip(messages, sent):
        again = await alice.request(send=message)
        assert again.duplicate
        assert (again.msgId, again.tsMs, again.conversation) == (
            first.msgId,
            first.tsMs,
            first.conversation,
        )
    bob = await world.session("bob", resume={"inboxSeq": 0})
    assert [event.msgId for event in await bob.events(20)] == [one.msgId for one in sent]


@rule("R33")
async def a_repeated_send_gets_its_first_answer_and_is_stored_once(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    message = alice.message(bob.name, "once")
    first = await alice.request(send=message)
    assert not first.duplicate and first.clientMsgId == message["clientMsgId"]
    # At once and many times, on this connection, on the next, and from another device.
    for answer in [await alice.start(send=message) for _ in range(10)]:
        assert (await alice.finish(answer)).msgId == first.msgId
    alice = await world.again(alice)
    again = await alice.request(send=message)
    assert again.duplicate and again.msgId == first.msgId
    second = await alice.send(bob.name, "twice")
    assert [event.msgId for event in await bob.events(2)] == [first.msgId, second.msgId]


@rule("R33")
async def an_unanswered_send_is_repeated_on_the_next_connection(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    messages = [alice.message(bob.name, f"{at}") for at in range(20)]
    for message in messages:
        await alice.start(send=message)
    await alice.abort()
    alice = await world.session("alice")
    sent = [await alice.request(send=message) for message in messages]
    events = await bob.events(20)
    assert sorted(event.msgId for event in events) == sorted(one.msgId for one in sent)
    assert [event.message.content.text for event in events] == [f"{at}" for at in range(20)]


@rule("R34")
async def the_same_id_with_anything_else_is_a_conflict(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    first = await alice.send(bob.name, "zero")
    message = alice.message(bob.name, "one", replyTo=first.msgId, mentions=[bob.user])
    sent = await alice.request(send=message)
    changes = [
        {"content": {"text": "two"}},
        {"content": {"custom": {"type": "t", "data": b"one"}}},
        {"replyTo": 0},
        {"replyTo": sent.msgId},
        {"mentions": []},
        {"mentions": [bob.user, alice.user]},
        {"silent": True},
    ]
    for change in changes:
        assert await alice.refusal(send={**message, **change}) == "CONFLICT", change
    again = await alice.request(send=message)
    assert again.duplicate and again.msgId == sent.msgId
    assert [event.msgId for event in await bob.events(2)] == [first.msgId, sent.msgId]


@rule("R34")
async def the_same_id_to_another_target_is_another_message(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    carol = await world.session("carol")
    message = alice.message(bob.name, "one")
    first = await alice.request(send=message)
    # However a target is named, it is one.
    named = await alice.request(send={**message, "to": {"user": bob.user}})
    assert named.duplicate and named.msgId == first.msgId
    other = await alice.request(send={**message, "to": {"name": carol.name}})
    assert not other.duplicate and other.msgId != first.msgId
    again = await alice.request(send={**message, "to": {"user": carol.user}})
    assert again.duplicate and again.msgId == other.msgId
    assert (await bob.event()).msgId == first.msgId
    assert (await carol.event()).msgId == other.msgId


@rule("R35")
async def ids_are_version_7_and_not_dated_ahead(world):
    alice = await world.session("alice")
    now, minute = alice.server_ms(), 60_000
    assert (await alice.send({"user": alice.user}, "x", uuid7(now + 9 * minute))).msgId
    assert (await alice.send({"user": alice.user}, "x", uuid7(now - 9 * minute))).msgId
    assert await refused(alice, uuid7(now + 11 * minute)) == "EXPIRED_ID"
    assert await refused(alice, uuid7((1 << 48) - 1)) == "EXPIRED_ID"
    fourth = bytearray(uuid7(now))
    fourth[6] = fourth[6] & 0xF | 0x40
    variant = bytearray(uuid7(now))
    variant[8] |= 0xC0
    for wrong in (b"", bytes(16), uuid7(now)[:15], uuid7(now) + b"x", bytes(fourth), bytes(variant)):
        assert await refused(alice, wrong) == "INVALID_ARGUMENT", wrong
        creation = {"opId": wrong, "name": "g"}
        assert await alice.refusal(groupCreate=creation) == "INVALID_ARGUMENT", wrong
    creation = {"opId": uuid7(now + 11 * minute), "name": "g"}
    assert await alice.refusal(groupCreate=creation) == "EXPIRED_ID"


async def refused(session, client_id):
    message = session.message({"user": session.user}, "x")
    return await session.refusal(send={**message, "clientMsgId": client_id})


@rule("R36")
async def a_retry_gets_its_first_answer_also_after_its_sender_left(world):
    group, alice, bob = await with_group(world, "bob")
    message = bob.message({"group": group}, "before leaving")
    sent = await bob.request(send=message)
    await bob.request(groupLeave={"opId": bob.new_id(), "group": group})
    again = await bob.request(send=message)
    assert again.duplicate and (again.msgId, again.seq) == (sent.msgId, sent.seq)
    assert await bob.refusal(send=bob.message({"group": group}, "after")) == "NOT_MEMBER"
    # The operation itself is repeated like a SEND.
    assert [event.msgId for event in await alice.events(1)] == [sent.msgId]


@rule("R37")
async def sends_of_a_session_are_committed_in_the_order_in_which_they_were_sent(world):
    group, alice, bob = await with_group(world, "bob")
    for target in ({"name": bob.name}, {"group": group}):
        texts = [f"{at}" for at in range(60)]
        started = [await alice.start(send=alice.message(target, text)) for text in texts]
        numbers = [(await alice.finish(answer)).msgId for answer in started]
        assert numbers == sorted(set(numbers))
        events = await bob.events(60)
        assert [event.message.content.text for event in events] == texts
        assert [event.msgId for event in events] == numbers


@rule("R37")
async def behind_a_send_that_failed_for_now_the_later_ones_wait_for_it(world):
    await world.use(limits__sends_burst=3, limits__sends_per_second=3)
    alice = await world.session("alice")
    bob = await world.session("bob")
    messages = [alice.message(bob.name, f"{at}") for at in range(12)]
    refusals = await until_sent(alice, messages)
    assert "RATE_LIMITED" in refusals and refusals <= {"RATE_LIMITED", "OUT_OF_ORDER"}
    events = await bob.events(12)
    assert [event.message.content.text for event in events] == [f"{at}" for at in range(12)]


async def until_sent(session, messages):
    """Sends all without waiting, and what was refused for now again, in order."""
    refusals = set()
    while messages:
        started = [await session.start(send=message) for message in messages]
        left, pause_ms = [], 0
        for message, answer in zip(messages, started):
            try:
                await session.finish(answer)
            except Refused as refused:
                assert refused.error.retryable, refused
                refusals.add(refused.name)
                pause_ms = max(pause_ms, refused.error.retryAfterMs)
                left.append(message)
        messages = left
        # What R15 asks of a client.
        await asyncio.sleep(pause_ms / 1000)
    return refusals


@rule("R37")
async def a_send_that_is_abandoned_no_longer_stops_those_behind_it(world):
    await world.use(limits__sends_burst=3, limits__sends_per_second=3)
    alice = await world.session("alice")
    bob = await world.session("bob")
    messages = [alice.message(bob.name, f"{at}") for at in range(6)]
    started = [await alice.start(send=message) for message in messages]
    failed, pause_ms = [], 0
    for message, answer in zip(messages, started):
        try:
            await alice.finish(answer)
        except Refused as refused:
            failed.append((message, refused.name))
            pause_ms = max(pause_ms, refused.error.retryAfterMs)
    assert failed and failed[0][1] == "RATE_LIMITED"
    given_up = failed[0][0]
    await asyncio.sleep(pause_ms / 1000)
    while True:
        last = alice.message(bob.name, "instead", abandons=given_up["clientMsgId"])
        try:
            sent = await alice.request(send=last)
            break
        except Refused as refused:
            assert refused.name == "RATE_LIMITED", refused
            await asyncio.sleep(refused.error.retryAfterMs / 1000)
    delivered = 6 - len(failed)
    events = await bob.events(delivered + 1)
    assert events[-1].msgId == sent.msgId and events[-1].message.content.text == "instead"


@rule("R37")
async def a_final_error_stops_nothing_behind_it(world):
    alice = await world.session("alice")
    stranger = {"user": alice.user ^ 6}
    started = [await alice.start(send=alice.message(stranger, f"{at}")) for at in range(10)]
    for answer in started:
        try:
            await alice.finish(answer)
        except Refused as refused:
            assert refused.name == "NOT_FOUND", refused
        else:
            raise AssertionError("somebody who does not exist was written to")
    bob = await world.session("bob")
    messages = [alice.message(bob.name, text) for text in ("one", "", "two")]
    started = [await alice.start(send=message) for message in messages]
    await alice.finish(started[0])
    assert (await alice.frame_of(started[1])).error.code == ERRORS["EMPTY_CONTENT"][0]
    await alice.finish(started[2])
    assert [event.message.content.text for event in await bob.events(2)] == ["one", "two"]


@rule("R38")
async def an_answer_sorts_after_its_question(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    last = 0
    for turn in range(10):
        one, other = (alice, bob) if turn % 2 == 0 else (bob, alice)
        sent = await one.send(other.name, f"{turn}", after=last)
        assert sent.msgId > last
        last = (await other.event()).msgId
        assert last == sent.msgId
        await one.event()
    for session, peer in ((alice, bob), (bob, alice)):
        page = await session.request(history={"conversation": peer.user, "after": 0})
        assert [event.message.content.text for event in page.events] == [f"{at}" for at in range(10)]


@rule("R38")
async def after_moves_a_message_by_seconds_at_most(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    first = await alice.send(bob.name, "first")
    second_later = 1000 << 22

    def ahead_ms(sent):
        return sent.tsMs - alice.server_ms()

    # A little ahead of the server's clock counts; what is far ahead does not, at all.
    near = first.msgId + 2 * second_later
    sent = await alice.send(bob.name, "near", after=near)
    assert sent.msgId > near and ahead_ms(sent) <= 5_000
    for far in (3600, 86_400, 86_400 * 365):
        sent = await alice.send(bob.name, "far", after=first.msgId + far * second_later)
        assert ahead_ms(sent) <= 5_000, far
    sent = await alice.send(bob.name, "the highest", after=(1 << 63) - 1)
    assert ahead_ms(sent) <= 5_000
    # And nobody else is moved with it.
    carol = await world.session("carol")
    sent = await carol.send(bob.name, "of another")
    assert abs(sent.tsMs - carol.server_ms()) <= 30_000
    numbers = [event.msgId for event in await bob.events(7)]
    assert numbers[:6] == sorted(numbers[:6])


@rule("R39")
async def a_name_makes_the_inbox_and_an_id_needs_one(world):
    alice = await world.session("alice")
    name = world.name("newcomer")
    sent = await alice.send(name, "before you were here")
    by_id = await alice.send({"user": sent.conversation}, "by id")
    newcomer = await world.session("newcomer", resume={"inboxSeq": 0})
    assert newcomer.user == sent.conversation == by_id.conversation
    assert [event.msgId for event in await newcomer.events(2)] == [sent.msgId, by_id.msgId]
    unknown = alice.message({"user": newcomer.user ^ 2}, "x")
    assert await alice.refusal(send=unknown) == "NOT_FOUND"
    for name in ("", "x" * 129, "with\x00control"):
        assert await alice.refusal(send=alice.message(name, "x")) == "INVALID_ARGUMENT", name
    nowhere = {"clientMsgId": alice.new_id(), "content": {"text": "x"}}
    assert await alice.refusal(send=nowhere) == "INVALID_ARGUMENT"


@rule("R39")
async def what_one_sends_to_oneself_is_one_event(world):
    alice = await world.session("alice")
    by_name = await alice.send(alice.name, "a note")
    by_id = await alice.send({"user": alice.user}, "another")
    events = await alice.events(2)
    assert [event.msgId for event in events] == [by_name.msgId, by_id.msgId]
    assert {event.conversation for event in events} == {alice.user}
    assert {event.sender for event in events} == {alice.user}
    assert alice.cursor == 2


@rule("R39")
async def a_group_takes_messages_of_members_only(world):
    group, alice, bob = await with_group(world, "bob")
    carol = await world.session("carol")
    assert await carol.refusal(send=carol.message({"group": group}, "let me in")) == "NOT_MEMBER"
    sent = await bob.send({"group": group}, "from a member")
    assert sent.conversation == group and sent.seq
    event = await alice.event()
    assert (event.msgId, event.groupSeq, event.sender) == (sent.msgId, sent.seq, bob.user)
    assert not carol.now_here("event")


@rule("R40")
async def apps_never_see_each_other(world):
    app = world.name("shop")
    group, alice, bob = await with_group(world, "bob")
    other = await world.session("bob", device=new_device(), token=f"dev:{bob.name}@{app}")
    assert other.name == bob.name and other.user != bob.user
    assert await other.refusal(send=other.message({"user": alice.user}, "x")) == "NOT_FOUND"
    assert await other.refusal(send=other.message({"group": group}, "x")) == "NOT_FOUND"
    for body in (
        {"groupGet": {"group": group}},
        {"members": {"group": group}},
        {"marks": {"group": group}},
        {"groupLeave": {"opId": other.new_id(), "group": group}},
        {"groupAdd": {"opId": other.new_id(), "group": group, "members": [other.name]}},
        {"groupUpdate": {"opId": other.new_id(), "group": group, "name": "mine"}},
        {"groupRemove": {"opId": other.new_id(), "group": group, "members": [bob.user]}},
        {"groupRole": {"opId": other.new_id(), "group": group, "member": bob.user, "role": 3}},
    ):
        assert await other.refusal(**body) == "NOT_FOUND", body
    # A name means somebody of one's own app.
    sent = await other.send(alice.name, "to the other alice")
    assert sent.conversation != alice.user
    mine = await alice.send(bob.name, "to my bob")
    assert (await bob.event()).msgId == mine.msgId
    assert (await other.event()).msgId == sent.msgId
    page = await other.request(history={"conversation": alice.user, "before": 0})
    assert not page.events
    names = await other.request(
        groupCreate={"opId": other.new_id(), "name": "g", "members": [alice.name]}
    )
    members = await other.request(members={"group": names.group})
    assert {member.user for member in members.members} == {other.user, sent.conversation}


def encoded_text(length):
    """A text whose content has so many bytes of protobuf: a byte of number, and its length."""
    digits = 1 if length - 2 < 128 else 2 if length - 3 < 1 << 14 else 3
    return "x" * (length - 1 - digits)


@rule("R41")
async def a_content_has_something_in_it_and_at_most_the_limit(world):
    alice = await world.session("alice")
    limit = alice.welcome.limits.contentBytes
    me = {"user": alice.user}
    for content in CONTENTS.values():
        await alice.request(send={"clientMsgId": alice.new_id(), "to": me, "content": content})
        (kind,) = [field.name for field, _ in (await alice.event()).message.content.ListFields()]
        assert kind in content
    assert await alice.refusal(send=alice.message(me, "")) == "EMPTY_CONTENT"
    nothing = {"clientMsgId": alice.new_id(), "to": me}
    assert await alice.refusal(send=nothing) == "EMPTY_CONTENT"
    longest = encoded_text(limit)
    await alice.send(me, longest)
    assert (await alice.event()).message.content.text == longest
    assert await alice.refusal(send=alice.message(me, longest + "x")) == "CONTENT_TOO_LARGE"
    await alice.send(me, " ")
    assert (await alice.event()).message.content.text == " "


@rule("R41")
async def contents_of_the_server_and_encrypted_ones_are_unsupported(world):
    alice = await world.session("alice")
    for content in ({"system": {"text": "x"}}, {"encrypted": {"scheme": 1, "data": b"x"}}):
        send = {"clientMsgId": alice.new_id(), "to": {"user": alice.user}, "content": content}
        assert await alice.refusal(send=send) == "UNSUPPORTED", content


@rule("R41")
async def parts_of_a_content_have_limits_of_their_own(world):
    alice = await world.session("alice")
    wrong = [
        {"media": {"url": ""}},
        {"media": {"url": "https://x/" + "x" * 2048}},
        {"media": {"url": "https://x/\n"}},
        {"media": {"url": "https://x/", "mimeType": "x" * 129}},
        {"media": {"url": "https://x/", "blake3": b"x" * 31}},
        {"custom": {"type": ""}},
        {"custom": {"type": "x" * 129}},
        {"custom": {"type": "a\tb"}},
    ]
    for content in wrong:
        send = {"clientMsgId": alice.new_id(), "to": {"user": alice.user}, "content": content}
        assert await alice.refusal(send=send) == "INVALID_ARGUMENT", content
    right = [
        {"media": {"url": "x" * 2048, "mimeType": "x" * 128, "blake3": b"x" * 32, "caption": ""}},
        {"custom": {"type": "x" * 128}},
    ]
    for content in right:
        send = {"clientMsgId": alice.new_id(), "to": {"user": alice.user}, "content": content}
        assert (await alice.request(send=send)).msgId


@rule("R42")
async def so_many_users_are_mentioned_and_no_more(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    limit = alice.welcome.limits.mentions
    users = [bob.user + 2 * at for at in range(limit)]
    await alice.send(bob.name, "all", mentions=users)
    assert list((await bob.event()).message.mentions) == users
    more = alice.message(bob.name, "one more", mentions=[*users, alice.user])
    assert await alice.refusal(send=more) == "LIMIT_EXCEEDED"


@rule("R43")
async def sends_and_group_changes_beyond_the_rate_are_told_when_to_come_again(world):
    await world.use(limits__sends_burst=3, limits__sends_per_second=1)
    alice = await world.session("alice")
    limits = alice.welcome.limits
    assert (limits.sendsBurst, limits.sendsPerSecond) == (3, 1)
    asked = [alice.message({"user": alice.user}, f"{at}") for at in range(3)]
    asked = [{"send": message} for message in asked]
    asked += [{"groupCreate": {"opId": alice.new_id(), "name": "g"}} for _ in range(3)]
    answers = [await alice.start(**body) for body in asked]
    outcomes = []
    for answer in answers:
        try:
            await alice.finish(answer)
            outcomes.append("ok")
        except Refused as refused:
            assert refused.error.retryAfterMs > 0
            outcomes.append(refused.name)
    assert outcomes[:3] == ["ok"] * 3 and "RATE_LIMITED" in outcomes[3:]
    # What is refused is not done: the first screen has one conversation for what was.
    page = await alice.request(conversations={})
    assert len(page.conversations) == 1 + outcomes[3:].count("ok")
    # Reading is no SEND.
    assert (await alice.ping()).serverTimeMs


@rule("R44")
async def every_device_of_the_sender_gets_its_copy(world):
    alice = await world.session("alice")
    tablet = await world.session("alice", device=new_device())
    bob = await world.session("bob")
    message = alice.message(bob.name, "hi", silent=True, mentions=[bob.user])
    sent = await alice.request(send=message)
    received = await bob.event()
    for device in (alice, tablet):
        own = await device.event()
        assert (own.sender, own.conversation) == (alice.user, bob.user)
        assert own.message.clientMsgId == message["clientMsgId"]
        assert own.message == received.message
        assert (own.msgId, own.tsMs) == (sent.msgId, sent.tsMs)
    assert received.conversation == alice.user


