"""R55 to R57: history, pages, and the list of conversations."""

from chat.page import Kind
from chat.session import new_device
from rules.case import rule
from rules.sending import with_group


async def history(session, conversation, direction, limit, start=0):
    """All pages: the events of each."""
    pages = []
    while True:
        page = await session.request(
            history={"conversation": conversation, direction: start, "limit": limit}
        )
        assert page.conversation == conversation
        assert len(page.events) <= (limit or 50)
        pages.append(list(page.events))
        if not page.more:
            return pages
        start = page.next


@rule("R55")
async def history_pages_both_ways_and_what_arrives_meanwhile_shifts_nothing(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    numbers = []
    for at in range(11):
        one, other = (alice, bob) if at % 3 else (bob, alice)
        after = numbers[-1] if numbers else 0
        numbers.append((await one.send(other.name, f"{at}", after=after)).msgId)
    await bob.events(11)
    await alice.events(11)
    for session, peer in ((alice, bob), (bob, alice)):
        for direction, expected in (("before", numbers[::-1]), ("after", numbers)):
            pages = await history(session, peer.user, direction, 4)
            assert [len(page) for page in pages] == [4, 4, 3]
            assert [event.msgId for page in pages for event in page] == expected
    # A page, then a new message, then the next page.
    first = await alice.request(history={"conversation": bob.user, "before": 0, "limit": 4})
    newest = await bob.send(alice.name, "meanwhile", after=numbers[-1])
    await alice.event()
    second = await alice.request(
        history={"conversation": bob.user, "before": first.next, "limit": 4}
    )
    assert [event.msgId for event in second.events] == numbers[3:7][::-1]
    # Rising, the last page's `next` goes on with what came.
    rest = await alice.request(history={"conversation": bob.user, "after": numbers[-1]})
    assert [event.msgId for event in rest.events] == [newest.msgId] and not rest.more


@rule("R55")
async def history_is_what_was_delivered_and_nobody_elses(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    carol = await world.session("carol")
    await alice.send(bob.name, "to bob")
    await alice.send(carol.name, "to carol")
    await carol.send(bob.name, "carol to bob")
    events = await bob.events(2)
    for event in events:
        (page,) = await history(bob, event.conversation, "before", 0)
        assert page == [event]
    (nothing,) = await history(bob, bob.user, "before", 0)
    assert nothing == []


@rule("R56")
async def a_page_ends_at_its_limit_or_at_its_bytes(world):
    alice = await world.session("alice")
    me = {"user": alice.user}
    for at in range(5):
        await alice.send(me, "x" * 60_000)
    started = [await alice.start(send=alice.message(me, "x")) for _ in range(190)]
    for answer in started:
        await alice.finish(answer)
    most = alice.welcome.limits.historyPage

    async def count(direction, limit):
        page = await alice.request(
            history={"conversation": alice.user, direction: 0, "limit": limit}
        )
        return len(page.events), page.more

    assert await count("before", 0) == (50, True), "0 means 50"
    assert await count("before", 7) == (7, True)
    assert (await count("before", 100_000))[0] <= most
    assert await count("before", 190) == (190, True)
    # 60,000 bytes each: two fill a page of 128 KiB.
    assert await count("after", 200) == (2, True)
    assert sum(map(len, await history(alice, alice.user, "after", 200))) == 195


@rule("R57")
async def conversations_come_with_the_newest_event_first(world):
    alice = await world.session("alice")
    peers = [await world.session(f"peer{at}") for at in range(5)]
    for peer in peers:
        await peer.send(alice.name, f"from {peer.name}")
        await alice.event()
    await peers[1].send(alice.name, "again")
    last = await alice.event()
    expected = [peers[at].user for at in (1, 4, 3, 2, 0)]
    listed, cursor = [], b""
    while True:
        page = await alice.request(conversations={"cursor": cursor, "limit": 2})
        listed += page.conversations
        assert page.inboxHead == 6
        if not page.more:
            break
        cursor = page.next
    assert [one.conversation for one in listed] == expected
    newest = listed[0]
    assert newest.lastEvent == last and newest.name == peers[1].name
    assert (newest.unread, newest.seenUpTo) == (2, 0)
    assert [one.unread for one in listed[1:]] == [1] * 4


@rule("R57")
async def a_new_device_starts_with_conversations(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    sent = [await alice.send(bob.name, f"{at}") for at in range(3)]
    await bob.events(3)
    await bob.ack()
    await bob.tell(mark={"conversation": alice.user, "seenUpTo": sent[1].msgId})
    await bob.wait(lambda frame: frame.receipt.seenUpTo == sent[1].msgId)
    tablet = await world.session("bob", device=new_device())
    page = await tablet.request(conversations={})
    (conversation,) = page.conversations
    assert (conversation.unread, conversation.seenUpTo) == (1, sent[1].msgId)
    assert conversation.lastEvent.msgId == sent[2].msgId
    assert page.inboxHead == tablet.welcome.inboxHead == 3
    # From there it follows, now and when it comes again.
    await alice.send(bob.name, "new")
    assert (await tablet.event()).inboxSeq == 4
    resume = {
        "inboxSeq": page.inboxHead,
        "marksVersion": page.marksVersion,
        "generation": tablet.welcome.generation,
    }
    tablet = await world.again(tablet, resume=resume)
    assert await tablet.placed() == 3
    assert (await tablet.event()).inboxSeq == 4


@rule("R57")
async def unread_counts_messages_of_others_and_nothing_else(world):
    group, alice, bob = await with_group(world, "bob")
    await alice.request(groupUpdate={"opId": alice.new_id(), "group": group, "name": "renamed"})
    assert (await bob.event()).groupChange.kind == Kind.Value("KIND_RENAMED")
    await alice.send({"group": group}, "one")
    await bob.event()
    await bob.send({"group": group}, "own")
    await bob.event()
    (conversation,) = (await bob.request(conversations={})).conversations
    assert conversation.unread == 1 and conversation.name == "renamed"
