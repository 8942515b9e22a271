"""Frames over QUIC (R2, R3): TLS 1.3, ALPN `chat/1`, each frame behind its length."""

import asyncio
import ssl
import struct

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from chat.connection import PATIENCE_S, Arrivals, Closed, Ending
from chat.encoding import Protobuf

ALPN = "chat/1"
SESSION_STREAM = 0  # The first bidirectional stream of a client.


def opened_by_server(stream):
    return stream & 1 == 1


def unidirectional(stream):
    return stream & 2 == 2


class Protocol(QuicConnectionProtocol):
    """Cuts the streams into frames."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.arrivals = Arrivals()
        self.partial = {}
        self.pages_on_own_streams = 0
        # Of streams other than the session's: their number → "reset" or "stopped", and code.
        self.refused = {}
        self.refusals = asyncio.Condition()

    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived):
            try:
                self.take(event)
            except Exception as error:  # Whoever waits is told.
                self.arrivals.end(Ending(None, f"{type(error).__name__}: {error}"))
        elif isinstance(event, ConnectionTerminated):
            # A frame type stands only in a close of QUIC itself, never in one of an application.
            own = event.frame_type is not None or event.reason_phrase == "Idle timeout"
            code = None if own else event.error_code
            self.arrivals.end(Ending(code, event.reason_phrase))
        elif isinstance(event, (StreamReset, StopSendingReceived)):
            kind = "reset" if isinstance(event, StreamReset) else "stopped"
            self.refused.setdefault(event.stream_id, (kind, event.error_code))

    def take(self, event):
        stream = event.stream_id
        if stream != SESSION_STREAM and not (opened_by_server(stream) and unidirectional(stream)):
            raise AssertionError(f"R2, R3: the server writes on stream {stream}")
        data = self.partial.pop(stream, b"") + event.data
        frames = 0
        while len(data) >= 4 and len(data) >= 4 + (length := struct.unpack(">I", data[:4])[0]):
            frame = Protobuf.decode(data[4 : 4 + length])
            data = data[4 + length :]
            frames += 1
            if stream != SESSION_STREAM:
                if not frame.WhichOneof("body").endswith("Page"):
                    raise AssertionError(f"R3: no PAGE on a stream of its own: {frame}")
                self.pages_on_own_streams += 1
            self.arrivals.put(frame)
        if stream != SESSION_STREAM and (frames > 1 or frames and data):
            raise AssertionError("R3: more than one frame on a stream of its own")
        if data:
            self.partial[stream] = data


class Quic:
    """`certificate` is the PEM file of what is trusted."""

    name = "quic"
    encoding = Protobuf

    def __init__(self, protocol, transport):
        self.protocol = protocol
        self.transport = transport
        self.arrivals = protocol.arrivals

    @classmethod
    async def open(cls, node, alpn=ALPN):
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=[alpn], server_name="localhost", idle_timeout=PATIENCE_S
        )
        configuration.load_verify_locations(cafile=str(node.certificate))
        configuration.verify_mode = ssl.CERT_REQUIRED
        connection = QuicConnection(configuration=configuration)
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(
            lambda: Protocol(connection), local_addr=(node.host, 0)
        )
        protocol.connect((node.host, node.port))
        try:
            async with asyncio.timeout(PATIENCE_S):
                await protocol.wait_connected()
        except ConnectionError:
            transport.close()
            raise Closed(await protocol.arrivals.ending) from None
        stream = connection.get_next_available_stream_id()
        if stream != SESSION_STREAM:
            raise AssertionError(f"the first stream is {stream}")
        return cls(protocol, transport)

    async def write(self, frame):
        data = Protobuf.encode(frame)
        await self.write_raw(struct.pack(">I", len(data)) + data)

    async def write_raw(self, data, stream=SESSION_STREAM, end=False):
        """Bytes that need not be a frame, on a stream that need not be the session's."""
        if self.arrivals.ending.done():
            raise Closed(self.arrivals.ending.result())
        self.protocol._quic.send_stream_data(stream, data, end)
        self.protocol.transmit()

    async def close(self):
        if self.transport.is_closing():
            return
        self.protocol.close()
        await self.protocol.wait_closed()
        self.transport.close()

    def abort(self):
        """Gone without a word, as from a network that is lost."""
        self.protocol._timer and self.protocol._timer.cancel()
        self.transport.abort()
        self.arrivals.end(Ending(None, "aborted"))
