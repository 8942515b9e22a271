"""R1 to R5 and R10: what carries frames, and how it ends."""

import asyncio
import base64
import json
import os
import ssl
import struct

from chat.connection import Closed
from chat.encoding import Json, Protobuf
from chat.page import ERRORS, Frame
from chat.quic import Quic
from chat.session import Session, new_device
from chat.websocket import WebSocket
from rules.case import JSON, PROTOBUF, QUIC, WEBSOCKET, rule

ATTEMPT_S = 20


@rule("R1")
async def both_transports_of_one_port_carry_the_same_frames(world):
    other = PROTOBUF if world.carrier == QUIC else QUIC
    alice = await world.session("alice")
    bob = await world.session("bob", carrier=other)
    there = await alice.send(bob.name, "over")
    assert (await bob.event()).msgId == there.msgId
    back = await bob.send(alice.name, "and back")
    own, answer = await alice.events(2)
    assert [own.msgId, answer.msgId] == [there.msgId, back.msgId]
    assert answer.message.content.text == "and back"


@rule("R1", on=WEBSOCKET)
async def with_a_certificate_wss_and_ws_are_taken_alike(world):
    alice = await world.session("alice")
    tls = ssl.create_default_context(cafile=str(world.node.certificate))
    encoding = Json if world.carrier == JSON else Protobuf
    connection = await WebSocket.open(world.node, encoding, tls)
    world.cleanup.push_async_callback(connection.close)
    bob = Session(connection)
    name = world.name("bob")
    await bob.hello(f"dev:{name}", new_device())
    sent = await alice.send(name, "from ws to wss")
    assert (await bob.event()).msgId == sent.msgId


@rule("R2", on=(QUIC,))
async def a_frame_comes_behind_its_length_in_whatever_pieces(world):
    alice = await world.session("alice")
    frames = b""
    for req in (100, 101):
        alice.answers[req] = asyncio.get_running_loop().create_future()
        data = Protobuf.encode(Frame(req=req, ping={}))
        frames += struct.pack(">I", len(data)) + data
    for at in range(len(frames)):
        await alice.connection.write_raw(frames[at : at + 1])
    for req in (100, 101):
        assert (await alice.finish(alice.answers[req])).serverTimeMs


@rule("R2", on=(QUIC,))
async def another_protocol_is_refused_in_the_handshake(world):
    await world.use()
    try:
        connection = await Quic.open(world.node, alpn="chat/2")
    except Closed as closed:
        assert closed.ending.code is None, f"no code of ours: {closed.ending}"
        return
    await connection.close()
    raise AssertionError("ALPN chat/2 was agreed to")


@rule("R3", on=(QUIC,))
async def a_page_on_a_stream_of_its_own_is_the_answer_that_req_names(world):
    alice = await world.session("alice")
    notes = {"user": alice.user}
    for at in range(8):
        await alice.send(notes, f"{at}" * 30_000)
    pages = {
        await alice.start(history={"conversation": alice.user, "before": 0, "limit": limit}): limit
        for limit in (1, 2, 3, 4)
    }
    pong = await alice.start(ping={})
    for answer, limit in pages.items():
        page = await alice.finish(answer)
        assert 1 <= len(page.events) <= limit
        assert page.events[0].message.content.text.startswith("7")
    assert (await alice.finish(pong)).serverTimeMs
    # Whatever came on a stream of its own was one PAGE: `chat.quic` looks at each.


class Raw:
    """RFC 6455 by hand, for what no library sends."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    @classmethod
    async def upgraded(cls, world, *headers, path="/v1/ws", version="13"):
        """After the upgrade's request: the raw connection, the status, and the headers."""
        if world.node is None:
            await world.use()
        reader, writer = await asyncio.open_connection(world.node.host, world.node.port)
        world.cleanup.callback(writer.close)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {world.node.host}:{world.node.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Version: {version}",
            f"Sec-WebSocket-Key: {key}",
            *headers,
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        async with asyncio.timeout(ATTEMPT_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        answered = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return cls(reader, writer), int(head[0].split()[1]), answered

    def write(self, opcode, payload, final=True, masked=True, reserved=0, length=None):
        length = len(payload) if length is None else length
        head = bytes([(0x80 if final else 0) | reserved << 4 | opcode])
        mask_bit = 0x80 if masked else 0
        if length < 126:
            head += bytes([mask_bit | length])
        elif length < 1 << 16:
            head += bytes([mask_bit | 126]) + struct.pack(">H", length)
        else:
            head += bytes([mask_bit | 127]) + struct.pack(">Q", length)
        if masked:
            mask = os.urandom(4)
            head += mask
            payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
        self.writer.write(head + payload)

    async def read(self):
        """The next frame of the server: opcode and payload."""
        async with asyncio.timeout(ATTEMPT_S):
            first, second = await self.reader.readexactly(2)
            assert not second & 0x80, "R5: servers do not mask"
            assert not first & 0x70, "R5: no extension was agreed to"
            length = second
            if length == 126:
                (length,) = struct.unpack(">H", await self.reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", await self.reader.readexactly(8))
            return first & 0xF, await self.reader.readexactly(length)

    async def close_code(self):
        while True:
            opcode, payload = await self.read()
            if opcode == 8:
                return struct.unpack(">H", payload[:2])[0]


TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


@rule("R4", on=WEBSOCKET)
async def the_first_known_subprotocol_counts_and_none_is_protobuf(world):
    async def agreed(*offers):
        headers = [f"Sec-WebSocket-Protocol: {offer}" for offer in offers]
        _, status, answered = await Raw.upgraded(world, *headers)
        return status, answered.get("sec-websocket-protocol")

    assert await agreed("chat.v9.proto, chat.v1.json, chat.v1.proto") == (101, "chat.v1.json")
    assert await agreed("chat.v1.proto, chat.v1.json") == (101, "chat.v1.proto")
    assert await agreed("chat.v9.json", "chat.v1.json") == (101, "chat.v1.json")
    assert (await agreed("chat.v9.proto"))[0] == 400
    raw, status, answered = await Raw.upgraded(world)
    assert (status, answered.get("sec-websocket-protocol")) == (101, None)
    raw.write(BINARY, Protobuf.encode(Frame(req=1, ping={})))
    opcode, payload = await raw.read()
    assert opcode == BINARY and Protobuf.decode(payload).error.code == ERRORS["UNEXPECTED_FRAME"][0]


@rule("R4", on=WEBSOCKET)
async def another_path_or_version_is_no_upgrade(world):
    for changed in ({"path": "/v1/other"}, {"version": "12"}):
        _, status, _ = await Raw.upgraded(world, **changed)
        assert 400 <= status < 500, f"{changed}: {status}"


@rule("R4", on=WEBSOCKET)
async def a_message_of_the_other_kind_closes_with_1003(world):
    session = await world.session("alice")
    text = world.carrier == JSON
    await session.connection.write_raw(b"{}" if text else "{}")
    _, code = await session.ended()
    assert code == 1003


@rule("R4", on=WEBSOCKET)
async def a_message_in_fragments_is_one_frame(world):
    encoding = Json if world.carrier == JSON else Protobuf
    raw, status, _ = await Raw.upgraded(world, f"Sec-WebSocket-Protocol: {encoding.SUBPROTOCOL}")
    assert status == 101
    name = world.name("alice")
    hello = {"minVersion": 1, "maxVersion": 1, "token": f"dev:{name}", "device": new_device()}
    data = encoding.encode(Frame(req=1, hello=hello))
    data = data.encode() if isinstance(data, str) else data
    kind = TEXT if world.carrier == JSON else BINARY
    raw.write(kind, data[:10], final=False)
    raw.write(PING, b"between")
    raw.write(0, data[10:11], final=False)
    raw.write(0, b"", final=False)
    raw.write(0, data[11:])
    assert await raw.read() == (PONG, b"between")
    opcode, payload = await raw.read()
    assert opcode == kind
    frame = encoding.decode(payload.decode() if opcode == TEXT else payload)
    assert frame.welcome.name == name


@rule("R5", on=WEBSOCKET)
async def an_extension_is_never_agreed_to(world):
    offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
    _, status, answered = await Raw.upgraded(world, offer)
    assert status == 101 and "sec-websocket-extensions" not in answered


@rule("R5", on=WEBSOCKET)
async def what_breaks_the_rfc_closes_with_1002_or_1007(world):
    broken = {
        "an unmasked frame": ({"opcode": BINARY, "payload": b"x", "masked": False}, 1002),
        "a reserved bit": ({"opcode": BINARY, "payload": b"x", "reserved": 4}, 1002),
        "a control frame of 126 bytes": ({"opcode": PING, "payload": bytes(126)}, 1002),
        "a control frame in pieces": ({"opcode": PING, "payload": b"x", "final": False}, 1002),
        "a reserved opcode": ({"opcode": 3, "payload": b"x"}, 1002),
        "a continuation of nothing": ({"opcode": 0, "payload": b"x"}, 1002),
    }
    if world.carrier == JSON:
        broken["text that is no UTF-8"] = ({"opcode": TEXT, "payload": b'{"req":"\xff"}'}, 1007)
    encoding = Json if world.carrier == JSON else Protobuf
    for what, (frame, code) in broken.items():
        raw, _, _ = await Raw.upgraded(world, f"Sec-WebSocket-Protocol: {encoding.SUBPROTOCOL}")
        raw.write(**frame)
        assert await raw.close_code() == code, what


@rule("R10")
async def an_error_that_ends_the_session_comes_before_the_close_with_its_code(world):
    session = await world.opened()
    await session.connection.write(Frame(req=1, ping={}))
    error = await session.ended_with("UNEXPECTED_FRAME")
    assert error.message


@rule("R10")
async def without_a_place_a_connection_is_refused(world):
    await world.use_own(edge__max_connections=1)
    alice = await world.session("alice")
    if world.carrier == QUIC:
        try:
            await world.connection()
        except Closed:
            pass
        else:
            raise AssertionError("a second QUIC connection was taken")
    else:
        raw, status, answered = await Raw.upgraded(world)
        assert status == 503 and int(answered["retry-after"]) >= 0
        async with asyncio.timeout(ATTEMPT_S):
            body = json.loads(await raw.reader.readexactly(int(answered["content-length"])))
        assert body["code"] == ERRORS["TOO_MANY_CONNECTIONS"][0], body
    # Who has a place keeps it, and when it goes another may come.
    assert (await alice.ping()).serverTimeMs
