"""R51 to R54: marks, and who is told of them."""

from chat.session import new_device
from rules.case import rule
from rules.sending import with_group


async def until(session, **wanted):
    """Receipts until one says at least this: all that came."""
    came = []
    while True:
        receipt = await session.next("receipt")
        came.append(receipt)
        if all(
            getattr(receipt, name) >= value if name.endswith("UpTo") else getattr(receipt, name) == value
            for name, value in wanted.items()
        ):
            return came


@rule("R51")
async def delivered_rises_with_the_ack_of_any_device_and_seen_raises_delivered(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    tablet = await world.session("bob", device=new_device())
    sent = [(await alice.send(bob.name, f"{at}")).msgId for at in range(4)]
    phone_events, tablet_events = await bob.events(4), await tablet.events(4)
    await tablet.ack(tablet_events[1])
    receipt = (await until(alice, user=bob.user, deliveredUpTo=sent[1]))[-1]
    assert (receipt.conversation, receipt.deliveredUpTo, receipt.seenUpTo) == (bob.user, sent[1], 0)
    # The other device has less: nothing moves back.
    await bob.ack(phone_events[0])
    await bob.tell(mark={"conversation": alice.user, "seenUpTo": sent[2]})
    receipt = (await until(alice, user=bob.user, seenUpTo=sent[2]))[-1]
    assert (receipt.deliveredUpTo, receipt.seenUpTo) == (sent[2], sent[2])
    await bob.tell(mark={"conversation": alice.user, "seenUpTo": sent[0]})
    await tablet.ack(tablet_events[3])
    receipt = (await until(alice, user=bob.user, deliveredUpTo=sent[3]))[-1]
    assert (receipt.deliveredUpTo, receipt.seenUpTo) == (sent[3], sent[2])
    (conversation,) = (await alice.request(conversations={})).conversations
    assert conversation.peerDeliveredUpTo == sent[3] and conversation.peerSeenUpTo == sent[2]


@rule("R51")
async def a_mark_ends_at_the_last_message_of_others(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    theirs = (await alice.send(bob.name, "theirs")).msgId
    await bob.event()
    mine = (await bob.send(alice.name, "mine", after=theirs)).msgId
    for beyond in (mine, mine + 1, (1 << 63) - 1):
        await bob.tell(mark={"conversation": alice.user, "seenUpTo": beyond})
    await until(bob, user=bob.user, seenUpTo=theirs)
    (conversation,) = (await bob.request(conversations={})).conversations
    assert (conversation.seenUpTo, conversation.unread) == (theirs, 0)
    later = (await alice.send(bob.name, "later", after=mine)).msgId
    (conversation,) = (await bob.request(conversations={})).conversations
    assert (conversation.seenUpTo, conversation.unread) == (theirs, 1)
    await bob.tell(mark={"conversation": alice.user, "seenUpTo": later})
    assert (await until(alice, user=bob.user, seenUpTo=later))[-1].seenUpTo == later


@rule("R52")
async def receipts_follow_each_other_without_a_hole_and_resume_brings_the_rest(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    start = alice.where
    sent = [(await alice.send(bob.name, f"{at}")).msgId for at in range(6)]
    await bob.events(6)
    await alice.events(6)
    version = alice.welcome.marksVersion
    for number in sent[:3]:
        await bob.tell(mark={"conversation": alice.user, "seenUpTo": number})
        for receipt in await until(alice, user=bob.user, seenUpTo=number):
            assert receipt.fromVersion == version < receipt.toVersion
            version = receipt.toVersion
    # Away, it misses marks; its old version brings all of them.
    await alice.close()
    await bob.tell(mark={"conversation": alice.user, "seenUpTo": sent[5]})
    await until(bob, user=bob.user, seenUpTo=sent[5])
    alice = await world.session("alice", resume={**start, "inboxSeq": 6})
    assert await alice.placed() == 6
    receipts = await until(alice, user=bob.user, seenUpTo=sent[5])
    assert receipts[0].fromVersion == start["marksVersion"]
    for before, after in zip(receipts, receipts[1:]):
        assert after.fromVersion == before.toVersion


@rule("R52")
async def ones_own_marks_of_another_device_are_told(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    tablet = await world.session("bob", device=new_device())
    sent = await alice.send(bob.name, "x")
    await bob.event()
    await bob.tell(mark={"conversation": alice.user, "seenUpTo": sent.msgId})
    for device in (bob, tablet):
        receipt = (await until(device, user=bob.user, seenUpTo=sent.msgId))[-1]
        assert receipt.conversation == alice.user


@rule("R53")
async def a_mark_is_confirmed_and_may_be_repeated(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    sent = await alice.send(bob.name, "x")
    event = await bob.event()
    await bob.ack(event)
    await bob.tell(mark={"conversation": alice.user, "seenUpTo": sent.msgId})
    # It is gone before it knows: it says both again.
    bob = await world.again(bob)
    await bob.placed()
    await bob.tell(ack={"inboxSeq": 1})
    await bob.tell(mark={"conversation": alice.user, "seenUpTo": sent.msgId})
    await until(bob, user=bob.user, seenUpTo=sent.msgId)
    await until(alice, user=bob.user, seenUpTo=sent.msgId)
    # Said once more, it changes nothing: the next that alice is told is of the next message.
    await bob.tell(mark={"conversation": alice.user, "seenUpTo": sent.msgId})
    later = await alice.send(bob.name, "y")
    await bob.event()
    await bob.tell(mark={"conversation": alice.user, "seenUpTo": later.msgId})
    for receipt in await until(alice, user=bob.user, seenUpTo=later.msgId):
        assert receipt.deliveredUpTo >= sent.msgId and receipt.seenUpTo >= sent.msgId


@rule("R53")
async def a_mark_in_a_group_is_confirmed_too(world):
    group, alice, bob = await with_group(world, "bob")
    sent = await alice.send({"group": group}, "x")
    await bob.event()
    await bob.tell(mark={"conversation": group, "seenUpTo": sent.msgId})
    receipt = (await until(bob, user=bob.user, seenUpTo=sent.msgId))[-1]
    assert receipt.conversation == group
    (conversation,) = (await bob.request(conversations={})).conversations
    assert (conversation.seenUpTo, conversation.unread) == (sent.msgId, 0)


async def marks_of(session, group):
    """All pages of a group's marks."""
    marks, cursor = {}, b""
    while True:
        page = await session.request(marks={"group": group, "cursor": cursor, "limit": 2})
        assert len(page.marks) <= 2
        marks |= {mark.user: (mark.deliveredUpTo, mark.seenUpTo) for mark in page.marks}
        if not page.more:
            return marks
        cursor = page.next


@rule("R54")
async def a_groups_marks_are_read_and_followed_until_follow_is_false(world):
    group, alice, bob, carol = await with_group(world, "bob", "carol")
    await alice.request(marks={"group": group, "follow": True})
    first = await alice.send({"group": group}, "first")
    for session in (bob, carol):
        event = await session.event()
        await session.ack(event)
        await session.tell(mark={"conversation": group, "seenUpTo": first.msgId})
    for session in (bob, carol):
        followed = await alice.wait(
            lambda frame, user=session.user: frame.HasField("receipt")
            and frame.receipt.user == user
            and frame.receipt.seenUpTo == first.msgId
            and frame.receipt
        )
        assert followed.conversation == group
        assert (followed.fromVersion, followed.toVersion) == (0, 0)
    marks = await marks_of(carol, group)
    assert marks[bob.user] == marks[carol.user] == (first.msgId, first.msgId)
    # Who has let go is not told any more: what is told next is of another conversation.
    await alice.request(marks={"group": group, "follow": False})
    alice.now_here("receipt")
    second = await alice.send({"group": group}, "second")
    await bob.event()
    await bob.tell(mark={"conversation": group, "seenUpTo": second.msgId})
    await until(bob, user=bob.user, seenUpTo=second.msgId)
    while (await marks_of(carol, group))[bob.user][1] != second.msgId:
        pass
    direct = await alice.send(bob.name, "direct")
    await bob.event()
    await bob.tell(mark={"conversation": alice.user, "seenUpTo": direct.msgId})
    for receipt in await until(alice, user=bob.user, seenUpTo=direct.msgId):
        assert receipt.conversation == bob.user


@rule("R54")
async def so_many_groups_are_followed_and_one_that_was_released_makes_room(world):
    alice = await world.session("alice")
    groups = []
    for at in range(34):
        creation = {"opId": alice.new_id(), "name": f"{at}"}
        groups.append((await alice.request(groupCreate=creation)).group)
    for group in groups[:32]:
        await alice.request(marks={"group": group, "follow": True})
    assert await alice.refusal(marks={"group": groups[32], "follow": True}) == "LIMIT_EXCEEDED"
    # One that is followed already is no more.
    await alice.request(marks={"group": groups[0], "follow": True})
    await alice.request(marks={"group": groups[0], "follow": False})
    await alice.request(marks={"group": groups[32], "follow": True})
    for group in groups[1:33]:
        await alice.request(marks={"group": group, "follow": False})
    await alice.request(marks={"group": groups[33], "follow": True})


@rule("R54")
async def who_is_no_member_reads_no_marks(world):
    group, _, bob = await with_group(world, "bob")
    carol = await world.session("carol")
    for follow in (False, True):
        assert await carol.refusal(marks={"group": group, "follow": follow}) == "NOT_MEMBER"
    await bob.request(groupLeave={"opId": bob.new_id(), "group": group})
    assert await bob.refusal(marks={"group": group}) == "NOT_MEMBER"
