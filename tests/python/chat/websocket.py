"""Frames over a WebSocket (R4, R5): one frame is one message."""

import asyncio

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from chat.connection import PATIENCE_S, Arrivals, Closed, Ending

# A frame of the server is at most 1 MiB (the page's limits).
MAX_BYTES = 1 << 20


class WebSocket:
    """`encoding` decides the subprotocol; `tls` is an SSL context for `wss`."""

    name = "websocket"

    def __init__(self, socket, encoding):
        self.socket = socket
        self.encoding = encoding
        self.arrivals = Arrivals()
        self.reader = asyncio.create_task(self.read())

    @classmethod
    async def open(cls, node, encoding, tls=None):
        scheme = "wss" if tls else "ws"
        opening = connect(
            f"{scheme}://{node.host}:{node.port}/v1/ws",
            subprotocols=[encoding.SUBPROTOCOL],
            compression=None,  # R5
            max_size=MAX_BYTES,
            open_timeout=PATIENCE_S,
            ping_interval=None,  # Who is silent is silent (R27).
            close_timeout=PATIENCE_S,
            ssl=tls,
            server_hostname="localhost" if tls else None,
        )
        try:
            socket = await opening
        except (OSError, WebSocketException) as error:
            raise Closed(Ending(None, f"{type(error).__name__}: {error}")) from None
        if socket.subprotocol != encoding.SUBPROTOCOL:
            raise AssertionError(f"R4: subprotocol {socket.subprotocol} was agreed to")
        return cls(socket, encoding)

    async def read(self):
        try:
            async for data in self.socket:
                self.arrivals.put(self.encoding.decode(data))
            self.arrivals.end(self.ending())
        except ConnectionClosed:
            self.arrivals.end(self.ending())
        except Exception as error:  # What the server sent was no frame: whoever waits is told.
            self.arrivals.end(Ending(None, f"{type(error).__name__}: {error}"))

    def ending(self):
        """R10: 4000 + the code, or 1000; other numbers are WebSocket's own."""
        code = self.socket.close_code
        if code == 1006:  # Never sent: there was no closing frame.
            return Ending(None, "no close frame")
        return Ending(code - 4000 if 4000 <= code else code, self.socket.close_reason)

    async def write(self, frame):
        await self.write_raw(self.encoding.encode(frame))

    async def write_raw(self, data):
        """A message that need not be a frame: text or binary, as `data` is."""
        try:
            await self.socket.send(data)
        except ConnectionClosed:
            raise Closed(await self.arrivals.ending) from None

    async def close(self):
        await self.socket.close()
        await self.reader

    def abort(self):
        """Gone without a word, as from a network that is lost."""
        self.socket.transport.abort()
