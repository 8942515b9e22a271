"""A device's session: HELLO, requests and their answers, and what comes unasked.

It does by itself only what costs a client no thought: it numbers requests (R12), grants
credits (R47, R48) unless told not to, and holds the server to what the page promises of every
frame: no hole in `inboxSeq` (R45), errors of the table, answers to what was asked, once (R13).
"""

import asyncio
import secrets
import time

from chat.connection import PATIENCE_S, Closed
from chat.page import NAMES, RETRYABLE, Frame

HELLO_REQ = 1


class Refused(Exception):
    """The server answered with ERROR."""

    def __init__(self, error):
        self.error = error
        self.name = NAMES.get(error.code, str(error.code))
        super().__init__(f"{self.name}: {error.message}")


def new_device():
    """R19: a random number that is not 0."""
    return secrets.randbits(63) | 1


def uuid7(ms):
    """R35: a UUID of version 7 dated at `ms`."""
    value = (ms << 80) | secrets.randbits(80)
    value = value & ~(0xF << 76) | (7 << 76)
    value = value & ~(0b11 << 62) | (0b10 << 62)
    return value.to_bytes(16)


class Session:
    """One connection, from HELLO to its end."""

    def __init__(self, connection, grants=True):
        self.connection = connection
        self.grants = grants
        self.answers = {}
        self.last_req = HELLO_REQ
        # What came unasked and was not taken yet, in the order in which it came.
        self.unasked = []
        self.came = asyncio.Condition()
        self.last_error = None
        self.violation = None
        self.ending = None
        self.welcome = None
        self.cursor = None
        self.clock_offset_ms = 0
        self.pump = asyncio.create_task(self.read())

    # --- what comes in

    async def read(self):
        while (frame := await self.connection.arrivals.next()) is not None:
            try:
                await self.take(frame)
            except AssertionError as error:
                self.violation = self.violation or error
            async with self.came:
                self.came.notify_all()
        self.ending = self.connection.arrivals.ending.result()
        for answer in self.answers.values():
            if not answer.done():
                answer.set_exception(Closed(self.ending))
                answer.exception()  # It may be that nobody waits any more.
        async with self.came:
            self.came.notify_all()

    async def take(self, frame):
        kind = frame.WhichOneof("body")
        assert kind is not None, f"R8: a frame of a kind that the page does not have: {frame}"
        if kind == "error":
            assert frame.error.code in NAMES, f"a code that is not in the table: {frame}"
            expected = RETRYABLE[frame.error.code]
            assert frame.error.retryable == expected, f"R15: the table says {expected}: {frame}"
            assert frame.error.message, f"R10: an error without a text: {frame}"
        if frame.req:
            answer = self.answers.get(frame.req)
            assert answer is not None, f"R12: nothing with this number was asked: {frame}"
            assert not answer.done(), f"R13: a second answer: {frame}"
            answer.set_result(frame)
            if kind.endswith("Page") and self.grants:
                await self.credit("LANE_BULK", 1)
            return
        if kind == "error":
            self.last_error = frame.error
        elif kind == "welcome":
            self.welcome = frame.welcome
            self.cursor = frame.welcome.inboxHead
            self.clock_offset_ms = frame.welcome.serverTimeMs - int(time.monotonic() * 1000)
        elif kind == "resumed":
            self.cursor = getattr(frame.resumed, "from")
        elif kind == "gap":
            self.cursor = frame.gap.head
        elif kind == "event":
            assert frame.event.events, "an EVENT without events"
            assert len(frame.event.events) <= 256, "R45: more than 256 events in an EVENT"
            for event in frame.event.events:
                expected = self.cursor + 1
                assert event.inboxSeq == expected, f"R45: {event.inboxSeq} came for {expected}"
                self.cursor = event.inboxSeq
            if self.grants:
                await self.credit("LANE_EVENTS", len(frame.event.events))
        self.unasked.append(frame)

    def check(self):
        """Fails if the server has broken what holds for every frame."""
        if self.violation:
            raise self.violation

    async def wait(self, wanted, what="something"):
        """Takes the first unasked frame for which `wanted` returns something true: that value."""
        found = None

        def look():
            nonlocal found
            self.check()
            for at, frame in enumerate(self.unasked):
                found = wanted(frame)
                if found:
                    del self.unasked[at]
                    return True
            return self.ending is not None

        try:
            async with asyncio.timeout(PATIENCE_S), self.came:
                await self.came.wait_for(look)
        except TimeoutError:
            kinds = [frame.WhichOneof("body") for frame in self.unasked]
            raise AssertionError(f"{what} did not come; there is {kinds}") from None
        if not found:
            raise Closed(self.ending)
        return found

    async def next(self, kind):
        """The next unasked frame of a kind: its body."""
        return await self.wait(
            lambda frame: frame.WhichOneof("body") == kind and getattr(frame, kind), kind
        )

    async def placed(self):
        """Where a resume ended (R22, R23): RESUMED's `from`, or GAP."""

        def either(frame):
            kind = frame.WhichOneof("body")
            return kind in ("resumed", "gap") and (kind, getattr(frame, kind))

        kind, body = await self.wait(either, "RESUMED or GAP")
        return getattr(body, "from") if kind == "resumed" else body

    def now_here(self, kind):
        """What has come of a kind and was not taken: taken."""
        self.check()
        found = [frame for frame in self.unasked if frame.WhichOneof("body") == kind]
        self.unasked = [frame for frame in self.unasked if frame.WhichOneof("body") != kind]
        return [getattr(frame, kind) for frame in found]

    async def events(self, count):
        """The next `count` events."""
        taken = []
        while len(taken) < count:
            batch = list((await self.next("event")).events)
            needed = count - len(taken)
            taken += batch[:needed]
            if batch[needed:]:
                rest = Frame(event={"events": batch[needed:]})
                self.unasked.insert(0, rest)
        return taken

    async def event(self):
        return (await self.events(1))[0]

    async def ended(self):
        """Waits for the end: the last ERROR without `req`, and R10's number."""
        try:
            await self.wait(lambda frame: None, "the end")
        except Closed:
            self.check()
        return self.last_error, self.ending.code

    async def ended_with(self, name):
        """Waits for the end, and holds it to R10: the ERROR, and the same number at the close."""
        error, code = await self.ended()
        got = error and NAMES[error.code]
        assert got == name, f"the session ended with {got} ({code}), not {name}"
        assert code == error.code, f"R10: {name} closed with {code}"
        return error

    # --- what goes out

    async def tell(self, **body):
        """A frame that gets no answer."""
        await self.connection.write(Frame(**body))

    async def credit(self, lane, count):
        try:
            await self.tell(credit={"lane": lane, "n": count})
        except Closed:
            pass  # Its end is known to whoever waits.

    async def ack(self, event=None):
        """R49: this device has stored everything up to here."""
        await self.tell(ack={"inboxSeq": event.inboxSeq if event else self.cursor})

    async def start(self, req=None, **body):
        """Sends a request and does not wait: a future of its answer."""
        if req is None:
            self.last_req += 1
            req = self.last_req
        answer = asyncio.get_running_loop().create_future()
        self.answers[req] = answer
        frame = Frame(req=req, **body)
        if self.ending:
            answer.set_exception(Closed(self.ending))
            answer.exception()
            return answer
        try:
            await self.connection.write(frame)
        except Closed as closed:
            if not answer.done():
                answer.set_exception(closed)
                answer.exception()
        return answer

    async def frame_of(self, answer):
        """The frame that answers a request that was started."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                frame = await asyncio.shield(answer)
        except TimeoutError:
            raise AssertionError("R13: a request got no answer") from None
        self.check()
        return frame

    async def finish(self, answer):
        """What a request that was started came to: the answer's body, or Refused."""
        frame = await self.frame_of(answer)
        if frame.HasField("error"):
            raise Refused(frame.error)
        return getattr(frame, frame.WhichOneof("body"))

    async def request(self, **body):
        """A request and its answer's body."""
        return await self.finish(await self.start(**body))

    async def refusal(self, **body):
        """The error's name that a request is refused with."""
        try:
            answer = await self.request(**body)
        except Refused as refused:
            return refused.name
        raise AssertionError(f"it was not refused, but answered: {answer}")

    # --- the session

    async def hello(self, token, device, resume=None, **more):
        """HELLO and WELCOME (R16, R20); with `resume`, RESUMED or GAP is the next of its kind."""
        hello = {"minVersion": 1, "maxVersion": 1, "token": token, "device": device, **more}
        if resume is not None:
            hello["resume"] = resume
        await self.connection.write(Frame(req=HELLO_REQ, hello=hello))
        return await self.wait_welcome()

    async def wait_welcome(self):
        try:
            return await self.next("welcome")
        except Closed:
            if self.last_error is None:
                raise
            raise Refused(self.last_error) from None

    @property
    def over(self):
        """Whether the connection has ended, also if not all that came before was taken yet."""
        return self.connection.arrivals.ending.done()

    @property
    def user(self):
        return self.welcome.user

    @property
    def where(self):
        """What to resume from (R22)."""
        return {
            "inboxSeq": self.cursor,
            "marksVersion": self.welcome.marksVersion,
            "generation": self.welcome.generation,
        }

    def server_ms(self):
        """R35: the server's time."""
        return self.clock_offset_ms + int(time.monotonic() * 1000)

    def new_id(self):
        return uuid7(self.server_ms())

    def message(self, to, text, client_id=None, **more):
        """A SEND: `to` is a name, or a Target."""
        if isinstance(to, str):
            to = {"name": to}
        return {
            "clientMsgId": client_id or self.new_id(),
            "to": to,
            "content": {"text": text},
            **more,
        }

    async def send(self, to, text, client_id=None, **more):
        """One SEND: its SENT, or Refused."""
        return await self.request(send=self.message(to, text, client_id, **more))

    async def ping(self):
        return await self.request(ping={})

    async def close(self):
        await self.connection.close()
        await self.pump
        self.check()

    async def abort(self):
        self.connection.abort()
        await self.pump
