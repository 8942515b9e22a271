"""What must be true after the chaos: exactly once, in order, to whom it was for, marks, history.

It looks from outside, by what the page promises, at three things that must agree: what devices
were told while it happened, what the whole inbox says afterwards, and history.
"""

from chat.page import Kind
from chat.session import new_device
from rules.reading import history

# Of a page, until marks that were said are told: each look is a round trip.
LOOKS = 2000


class Message:
    """A SEND, and what became of it."""

    def __init__(self, who, target, send, number):
        self.who = who
        self.target = target
        self.send = send
        self.number = number
        self.sent = None
        self.refused = None


class Ledger:
    """Everything that was said, in the order in which each user said it."""

    def __init__(self):
        self.messages = []
        self.changes = []

    def new(self, who, session, target):
        to = {"name": target} if isinstance(target, str) else {"group": target}
        number = len([one for one in self.messages if (one.who, one.target) == (who, target)])
        message = Message(who, target, session.message(to, f"{who} {number}"), number)
        self.messages.append(message)
        return message


def rising(numbers):
    return all(before < after for before, after in zip(numbers, numbers[1:]))


async def check(chaos, users):
    ledger, world = chaos.ledger, chaos.world
    for message in ledger.messages:
        assert message.sent or message.refused == "NOT_MEMBER", f"{message.send}: {message.refused}"
        guest_at_group = message.who == "dave" and message.target == chaos.group
        assert message.sent or guest_at_group, f"a member was refused: {message.send}"
    owner = chaos.devices[0]
    in_group = [one.sent.msgId for one in ledger.messages if one.sent and one.target == chaos.group]
    in_group += ledger.changes
    # The owner was a member all the time: its log says who was one when.
    await chaos.until(
        lambda: set(in_group) <= {event.msgId for event in owner.log.values()},
        lambda: set(in_group) - {event.msgId for event in owner.log.values()},
    )
    group_log = [event for event in owner.log.values() if event.conversation == chaos.group]
    group_log.sort(key=lambda event: event.groupSeq)
    expected = {who: entitled(ledger, world, group_log, who, users) for who in users}
    for device in chaos.devices:
        wanted = expected[device.who]
        await chaos.until(
            lambda device=device, wanted=wanted: len(device.log) >= len(wanted),
            lambda device=device, wanted=wanted: f"{device.who}: {len(device.log)}/{len(wanted)}",
        )
    # After one more kill the whole inbox says the same to a device that has nothing.
    await chaos.kill()
    for who in users:
        reader = await world.session(
            who, device=new_device(), carrier=world.carrier, resume={"inboxSeq": 0}
        )
        await reader.placed()
        events = await reader.events(reader.welcome.inboxHead)
        numbers = [event.msgId for event in events]
        assert len(set(numbers)) == len(numbers), f"{who} has a message twice"
        missing, strange = expected[who] - set(numbers), set(numbers) - expected[who]
        assert not missing and not strange, f"{who}: lost {missing}, shown {strange}"
        check_inbox(chaos, who, events)
        for device in chaos.devices:
            if device.who == who:
                assert [device.log[event.inboxSeq] for event in events] == events
        await check_history(reader, events)
    await check_marks(chaos, users)


def entitled(ledger, world, group_log, who, users):
    """The numbers of all events that a user must have, and no other (R44, R61)."""
    numbers = {
        one.sent.msgId
        for one in ledger.messages
        if one.sent and (one.who == who or one.target == world.name(who))
        and isinstance(one.target, str)
    }
    member = False
    for event in group_log:
        change = event.groupChange
        about = {one.user for one in change.members}
        if change.kind in (Kind.Value("KIND_CREATED"), Kind.Value("KIND_ADDED")):
            member = member or users[who] in about
        if member:
            numbers.add(event.msgId)
        if change.kind in (Kind.Value("KIND_REMOVED"), Kind.Value("KIND_LEFT")):
            member = member and users[who] not in about
    return numbers


def check_inbox(chaos, who, events):
    """Each event is what was said; each sender's messages stand in the order of saying."""
    said = {one.send["clientMsgId"]: one for one in chaos.ledger.messages}
    last = {}
    for event in events:
        if not event.HasField("message"):
            continue
        message = said[event.message.clientMsgId]
        assert message.sent and message.sent.msgId == event.msgId, f"R33: another number: {event}"
        assert event.message.content.text == message.send["content"]["text"]
        assert event.senderName == chaos.world.name(message.who)
        key = event.sender, event.conversation
        number = message.number
        # A guest's messages may have been refused in between, and others' were before it came.
        whole = message.who != "dave" and who != "dave"
        assert number == last.get(key, -1) + 1 if whole else number > last.get(key, -1), (
            f"R37: {who} has {event.message.content.text} after number {last.get(key, -1)}"
        )
        last[key] = number
    for conversation in {event.conversation for event in events}:
        for sender in {event.sender for event in events if event.conversation == conversation}:
            own = [
                event.msgId
                for event in events
                if (event.conversation, event.sender) == (conversation, sender)
            ]
            assert rising(own), f"R38: {sender} in {conversation}: {own}"


async def check_history(reader, events):
    for conversation in {event.conversation for event in events}:
        expected = sorted(
            (event for event in events if event.conversation == conversation),
            key=lambda event: event.msgId,
        )
        rising_pages = await history(reader, conversation, "after", 17)
        assert [event for page in rising_pages for event in page] == expected
        falling_pages = await history(reader, conversation, "before", 23)
        assert [event for page in falling_pages for event in page] == expected[::-1]


async def check_marks(chaos, users):
    """All have everything and have seen it: everybody is told so."""
    for device in chaos.devices:
        session = await device.live_session()
        device.stored = max(device.log)
        await session.tell(ack={"inboxSeq": device.stored})
        await device.say_marks(session)
    for who, user in users.items():
        (device, *_) = [one for one in chaos.devices if one.who == who]
        session = await device.live_session()
        seen, read = {}, {}
        for event in device.log.values():
            if event.HasField("message") and event.sender != user:
                seen[event.conversation] = max(seen.get(event.conversation, 0), event.msgId)
            elif event.sender == user and event.conversation in users.values():
                read[event.conversation] = max(read.get(event.conversation, 0), event.msgId)
        # Marks lag by design (they may, messages may not): asked again until they are there.
        for _ in range(LOOKS):
            page = await session.request(conversations={})
            wrong = marks_missing(page.conversations, seen, read, users.values())
            if not wrong:
                break
        assert not wrong, f"{who}: {wrong}"


def marks_missing(conversations, seen, read, people):
    """What is still not as it must be."""
    found = {one.conversation: one for one in conversations}
    wrong = []
    for conversation, number in seen.items():
        one = found[conversation]
        # In a group, changes behind the last message may count (KNOWN_FAILURES has R57).
        if one.seenUpTo < number or one.unread and conversation in people:
            wrong.append(f"{one.name}: seen {one.seenUpTo} of {number}, {one.unread} unread")
    for conversation, number in read.items():
        one = found[conversation]
        if (one.peerDeliveredUpTo, one.peerSeenUpTo) != (number, number):
            wrong.append(f"{one.name}: {one.peerDeliveredUpTo}, {one.peerSeenUpTo} of {number}")
    return wrong
