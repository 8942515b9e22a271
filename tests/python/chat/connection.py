"""What every transport gives: frames in the order in which they came, and how it ended."""

import asyncio
from dataclasses import dataclass

# No wait of a client is longer; a machine under load may need some of it.
PATIENCE_S = 30


@dataclass(frozen=True)
class Ending:
    """How a connection ended: R10's number, or None if there was none (a kill, a reset)."""

    code: int | None
    reason: str = ""


class Closed(Exception):
    """The connection is over; what is asked of it cannot be had."""

    def __init__(self, ending):
        super().__init__(f"the connection ended: {ending}")
        self.ending = ending


class Arrivals:
    """A queue of what came, which ends.

    Its bound is what the server may send unasked: credits, and answers to what was asked.
    """

    def __init__(self):
        self.queue = asyncio.Queue()
        self.ending = asyncio.get_running_loop().create_future()

    def put(self, item):
        self.queue.put_nowait(item)

    def end(self, ending):
        if not self.ending.done():
            self.ending.set_result(ending)
            self.queue.put_nowait(None)

    async def next(self):
        """The next item; None at the end."""
        item = await self.queue.get()
        if item is None:
            self.queue.put_nowait(None)
        return item
