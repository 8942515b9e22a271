"""Clients at work while the server is killed at random moments, and a checker of its own.

Moments are counted in SENDs written, not in seconds: a kill meets many of them on their way.
A client does what the page asks of it: it repeats what has no answer (R33), in order (R37),
resumes from what it stored (R46), and says its marks again (R53).
"""

import asyncio
import random

from chat.connection import Closed
from chat.session import Refused, new_device
from rules.case import PROTOBUF, QUIC, rule
from rules.checker import Ledger, check

KILLS = 3
MESSAGES = 40  # of each user
CHANGES = 8  # of the group
WINDOW = 12  # SENDs on their way at once
QUIET_WITHIN_S = 60

USERS = ("alice", "bob", "carol", "dave")
# Dave comes and goes; the others are members throughout.
GUEST = "dave"


class Device:
    """One device: what it stored survives its connections."""

    def __init__(self, chaos, who, carrier):
        self.chaos = chaos
        self.who = who
        self.carrier = carrier
        self.number = new_device()
        self.log = {}
        self.stored = 0
        self.marks_version = 0
        self.marks = {}
        self.told = {}
        self.session = None
        self.attached = asyncio.Condition()

    async def live(self):
        """Connects, and again after each end, until the chaos is over."""
        while True:
            await self.chaos.up.wait()
            try:
                session = await self.attach()
                async with self.attached:
                    self.session = session
                    self.attached.notify_all()
                while True:
                    await self.take(session, await session.next("event"))
            except Closed:
                self.session = None
            except Refused as refused:
                if not refused.error.retryable:
                    raise

    async def attach(self):
        resume = {"inboxSeq": self.stored, "marksVersion": self.marks_version}
        session = await self.chaos.world.session(
            self.who, device=self.number, carrier=self.carrier, resume=resume
        )
        assert await session.placed() == self.stored, "R22: it goes on where it was"
        # R53: what was not confirmed is said again.
        await session.tell(ack={"inboxSeq": self.stored})
        for conversation, seen in self.marks.items():
            await session.tell(mark={"conversation": conversation, "seenUpTo": seen})
        return session

    async def take(self, session, batch):
        random = self.chaos.random
        for event in batch.events:
            before = self.log.setdefault(event.inboxSeq, event)
            assert before == event, f"R46: {event.inboxSeq} came twice, and differs"
            if event.sender != session.user and event.HasField("message"):
                self.marks[event.conversation] = max(
                    self.marks.get(event.conversation, 0), event.msgId
                )
        # Not every event is stored before the next kill.
        if random.random() < 0.6:
            self.stored = max(self.log)
            await session.tell(ack={"inboxSeq": self.stored})
        if random.random() < 0.3:
            await self.say_marks(session)
        self.take_receipts(session)
        async with self.chaos.moved:
            self.chaos.moved.notify_all()

    async def say_marks(self, session):
        for conversation, seen in self.marks.items():
            await session.tell(mark={"conversation": conversation, "seenUpTo": seen})

    def take_receipts(self, session):
        for receipt in session.now_here("receipt"):
            key = receipt.conversation, receipt.user
            before = self.told.get(key, (0, 0))
            now = receipt.deliveredUpTo, receipt.seenUpTo
            assert now[0] >= before[0] and now[1] >= before[1], f"R51: marks fell: {receipt}"
            self.told[key] = now
            if receipt.fromVersion == self.marks_version and receipt.toVersion:
                self.marks_version = receipt.toVersion

    async def live_session(self):
        """A session that is attached, as far as this device knows."""
        async with self.attached:
            await self.attached.wait_for(lambda: self.session and not self.session.over)
            return self.session


class Chaos:
    """The node, the devices, and what was said."""

    def __init__(self, world):
        self.world = world
        self.random = random.Random(f"{world.nodes.seed} {world.carrier}")
        self.ledger = Ledger()
        self.up = asyncio.Event()
        self.moved = asyncio.Condition()
        self.written = 0
        self.devices = []
        self.group = None

    async def count_written(self):
        async with self.moved:
            self.written += 1
            self.moved.notify_all()

    async def until(self, reached, what):
        """Waits until something is so that can only become so when something came or went."""
        async with asyncio.timeout(QUIET_WITHIN_S), self.moved:
            try:
                await self.moved.wait_for(reached)
            except asyncio.CancelledError:
                print(f"the chaos waits for: {what()}")
                raise

    async def kill(self):
        self.up.clear()
        await self.world.node.kill()
        await self.world.node.restart()
        # On QUIC nothing tells a client that its server was killed (R27): this does. Whoever was
        # about to connect has a session by now, or none before the node is up.
        for session in self.world.sessions:
            if not session.over:
                await session.abort()
        self.up.set()

    async def killer(self):
        total = len(USERS) * MESSAGES
        moments = sorted(self.random.sample(range(total // 10, total * 9 // 10), KILLS))
        for moment in moments:
            async with self.moved:
                await self.moved.wait_for(lambda moment=moment: self.written >= moment)
            await self.kill()

    async def sender(self, device):
        """Messages of one user to the others and the group, each until its final answer."""
        names = [self.world.name(who) for who in USERS if who != device.who]
        waiting = []
        left = MESSAGES
        while left or waiting:
            session = await device.live_session()
            while left and len(waiting) < WINDOW:
                target = self.random.choice([*names, self.group, self.group])
                waiting.append(self.ledger.new(device.who, session, target))
                left -= 1
            started = []
            for message in waiting:
                started.append(await session.start(send=message.send))
                await self.count_written()
            again = []
            for message, answer in zip(waiting, started):
                try:
                    message.sent = await session.finish(answer)
                except Refused as refused:
                    if refused.error.retryable:
                        again.append(message)
                    else:
                        message.refused = refused.name
                except Closed:
                    again.append(message)
            waiting = again
            if waiting:
                await self.pause(session)

    async def pause(self, session):
        """What R15 asks for, unless the connection has ended: then another is waited for."""
        if not session.over:
            await asyncio.sleep(self.random.uniform(0.01, 0.05))

    async def changer(self, device, guest):
        """The guest goes and comes, and the group gets other names."""
        for at in range(CHANGES):
            session = await device.live_session()
            op = {"opId": session.new_id(), "group": self.group}
            change = [
                {"groupRemove": {**op, "members": [guest]}},
                {"groupUpdate": {**op, "name": f"name {at}"}},
                {"groupAdd": {**op, "members": [self.world.name(GUEST)]}},
                {"groupUpdate": {**op, "name": f"name {at}"}},
            ][at % 4]
            state = await self.repeat(device, change)
            assert state.msgId, f"R59: a change without an event: {change}"
            self.ledger.changes.append(state.msgId)

    async def repeat(self, device, request):
        """Until it is answered (R33, R59)."""
        while True:
            session = await device.live_session()
            try:
                return await session.request(**request)
            except Refused as refused:
                if not refused.error.retryable:
                    raise
                await self.pause(session)
            except Closed:
                await self.pause(session)


@rule("R32", "R33", "R46")
async def while_the_server_is_killed_nothing_is_lost_doubled_reordered_or_shown(world):
    await world.use_own()
    chaos = Chaos(world)
    chaos.up.set()
    other = PROTOBUF if world.carrier == QUIC else QUIC
    first = {who: Device(chaos, who, world.carrier) for who in USERS}
    chaos.devices = [*first.values(), *(Device(chaos, who, other) for who in ("alice", "bob"))]
    async with asyncio.TaskGroup() as living:
        lives = [living.create_task(device.live()) for device in chaos.devices]
        users = {who: (await first[who].live_session()).user for who in USERS}
        session = await first["alice"].live_session()
        creation = {"opId": session.new_id(), "name": "all"}
        creation["members"] = [world.name(who) for who in USERS[1:]]
        state = await chaos.repeat(first["alice"], {"groupCreate": creation})
        chaos.group = state.group
        chaos.ledger.changes.append(state.msgId)
        async with asyncio.TaskGroup() as work:
            for device in first.values():
                work.create_task(chaos.sender(device))
            work.create_task(chaos.changer(first["alice"], users[GUEST]))
            work.create_task(chaos.killer())
        await check(chaos, users)
        for life in lives:
            life.cancel()
