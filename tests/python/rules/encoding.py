"""R6 to R9 and R11: what is a frame, and what is none."""

import base64
import json
import struct

from chat.encoding import Json, Protobuf
from chat.page import Frame
from rules.case import JSON, QUIC, rule

# A field of Frame that no version has.
UNKNOWN = 15_000


def varint(number):
    digits = b""
    while number > 0x7F:
        digits += bytes([number & 0x7F | 0x80])
        number >>= 7
    return digits + bytes([number])


def field(number, data):
    """A field of protobuf with bytes in it."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def padded(world, frame, length):
    """A frame of `length` bytes: the rest is an unknown field."""
    if world.carrier == JSON:
        data = Json.encode(frame)
        return data[:-1] + ', "unknown": "' + "x" * (length - len(data) - 15) + '"}'
    data = Protobuf.encode(frame)
    for digits in range(1, 5):
        size = length - len(data) - len(varint(UNKNOWN << 3 | 2)) - digits
        if size >= 0 and len(varint(size)) == digits:
            return data + field(UNKNOWN, bytes(size))
    raise AssertionError("no padding has this length")


async def write(world, session, data):
    if world.carrier == QUIC:
        data = struct.pack(">I", len(data)) + data
    await session.connection.write_raw(data)


async def by_hand(world, session, data, req=50):
    """Writes bytes that ask with a number: their answer."""
    session.answers[req] = session.pump.get_loop().create_future()
    await write(world, session, data)
    return await session.frame_of(session.answers[req])


@rule("R6")
async def a_frame_of_just_the_limit_is_taken_and_a_byte_more_ends_the_session(world):
    session = await world.session("alice")
    limit = session.welcome.limits.frameBytes
    data = padded(world, Frame(req=50, ping={}), limit)
    assert len(data) == limit
    assert (await by_hand(world, session, data)).HasField("pong")
    await write(world, session, padded(world, Frame(req=51, ping={}), limit + 1))
    await session.ended_with("FRAME_TOO_LARGE")


@rule("R6", on=(QUIC,))
async def a_length_beyond_the_limit_is_refused_before_its_frame_comes(world):
    for length in (1 << 20, 0xFFFF_FFFF):
        session = await world.session("alice")
        await session.connection.write_raw(struct.pack(">I", length))
        await session.ended_with("FRAME_TOO_LARGE")


def nested_json(depth):
    return '{"req":50,"ping":{},"unknown":' + "[" * depth + "]" * depth + "}"


@rule("R7")
async def bytes_that_are_no_frame_end_the_session(world):
    if world.carrier == JSON:
        broken = ["", "{", "nonsense", "[]", "7", '{"req":1,"ping":{}} x', '{"req":"x","ping":{}}']
        broken += ['{"req":-1,"ping":{}}', '{"req":4294967296,"ping":{}}', '{"req":1.5,"ping":{}}']
        broken += ['{"req":2,"ping":[]}', '{"req":2,"ping":{},"conversations":{}}']
        broken += ['{"req":2,"history":{"conversation":"x"}}', '{"req":2,"ack":{"inboxSeq":-1}}']
        broken += ['{"req":2,"reauth":{"token":7}}', '{"req":2,"send":{"clientMsgId":"!"}}']
    else:
        ping = Protobuf.encode(Frame(req=2, ping={}))
        broken = [b"\xff", ping[:-1], ping + b"\x08", b"\x08" + b"\xff" * 10, b"\x00\x00"]
        # A text that is not UTF-8, and a field of another type.
        broken += [field(5, field(1, b"\xff\xfe")), b"\x22\x7f"]
    for data in broken:
        session = await world.session("alice")
        await write(world, session, data)
        await session.ended_with("MALFORMED")


@rule("R7")
async def more_fields_or_levels_than_the_limits_end_the_session(world):
    if world.carrier == JSON:
        taken = nested_json(10)
        broken = [nested_json(20), nested_json(5000)]
        broken += ['{"req":50,"ping":{},"unknown":[' + "0," * 8200 + "0]}"]
    else:
        ping = Protobuf.encode(Frame(req=50, ping={}))
        taken = ping + b"\x78\x01" * 8000
        broken = [ping + b"\x78\x01" * 8200]
    session = await world.session("alice")
    assert (await by_hand(world, session, taken)).HasField("pong")
    for data in broken:
        session = await world.session("alice")
        await write(world, session, data)
        await session.ended_with("MALFORMED")


@rule("R8")
async def unknown_fields_are_ignored_wherever_they_stand(world):
    session = await world.session("alice")
    send = session.message({"user": session.user}, "with more")
    frame = Frame(req=50, send=send)
    if world.carrier == JSON:
        value = json.loads(Json.encode(frame))
        more = {"later": {"deep": [1, "x", None, {}]}, "Send": {}, "text": None}
        value.update(more)
        value["send"].update(more)
        value["send"]["content"]["later"] = more
        data = json.dumps(value)
    else:
        more = field(UNKNOWN, b"\x01\x02\x03") + varint(UNKNOWN + 1 << 3) + varint(1 << 63)
        inner = Protobuf.encode(frame)[2:]
        # SEND's number and length are a byte, or two, each: written anew around what is in it.
        body = frame.send.SerializeToString() + more
        assert inner.endswith(frame.send.SerializeToString())
        data = b"\x08\x32" + more + field(16, body) + more
    answer = await by_hand(world, session, data)
    assert answer.HasField("sent"), answer
    assert (await session.event()).message.content.text == "with more"


@rule("R9")
async def a_frame_that_is_not_known_is_unsupported_and_the_session_goes_on(world):
    session = await world.session("alice")
    if world.carrier == JSON:
        data = '{"req":50,"juggle":{"balls":3}}'
    else:
        data = b"\x08\x32" + field(99, b"\x08\x03")
    answer = await by_hand(world, session, data)
    assert answer.error.code == 102, answer
    assert (await session.ping()).serverTimeMs


@rule("R9")
async def a_frame_that_only_servers_send_ends_the_session(world):
    for body in ({"pong": {}}, {"welcome": {}}, {"event": {}}, {"done": {}}, {"error": {}}):
        session = await world.session("alice")
        await session.tell(**body)
        await session.ended_with("UNEXPECTED_FRAME")


@rule("R11", on=(JSON,))
async def whatever_protobufs_mapping_allows_is_read(world):
    alice = await world.session("alice")
    to_self = f'"to":{{"user":"{alice.user}"}}'

    def written(number, form, **more):
        """A SEND to oneself in other spellings of the same."""
        identity = alice.new_id()
        spelled = {
            "standard": base64.b64encode(identity).decode(),
            "url": base64.urlsafe_b64encode(identity).decode(),
            "unpadded": base64.b64encode(identity).decode().rstrip("="),
        }[form]
        extra = "".join(f',"{name}":{value}' for name, value in more.items())
        return (
            f'{{"req":{number},"send":{{"clientMsgId":"{spelled}",{to_self},'
            f'"content":{{"text":"x"}}{extra}}}}}'
        )

    spellings = [
        written("50", "standard"),
        written('"51"', "standard", after="0", silent="false"),
        written("52.0", "url", after='"0"', mentions="[]"),
        written("5.3e1", "unpadded", after="null", replyTo="null", mentions="null", silent="null"),
        written("54e0", "url", after="0.0", replyTo='"0"'),
    ]
    for at, text in enumerate(spellings):
        answer = await by_hand(world, alice, text, 50 + at)
        assert answer.HasField("sent"), (text, answer)
    # Numbers of 64 bits are taken as numbers, too; enums by name or by number.
    text = f'{{"req":60,"history":{{"conversation":{alice.user},"before":0,"limit":5.0}}}}'
    assert len((await by_hand(world, alice, text, 60)).historyPage.events) == len(spellings)
    for lane in ('"LANE_EVENTS"', "0", '"LANE_BULK"', "1", "null"):
        await alice.connection.write_raw(f'{{"credit":{{"lane":{lane},"n":1}}}}')
    text = '{"req":61,"history":null,"ping":{}}'
    assert (await by_hand(world, alice, text, 61)).HasField("pong")


@rule("R11", on=(JSON,))
async def what_the_server_writes_is_protobufs_mapping(world):
    # `chat.encoding` compares every frame with what protobuf's own library writes: numbers of
    # 64 bits as strings, base64 with padding, names of enums, defaults left out.
    alice = await world.session("alice")
    custom = {"custom": {"type": "x/y", "data": bytes(range(256))}}
    id_ = alice.new_id()
    me = {"user": alice.user}
    await alice.request(send={"clientMsgId": id_, "to": me, "content": custom, "silent": True})
    event = await alice.event()
    assert event.message.content.custom.data == bytes(range(256))
    assert event.message.silent and event.message.clientMsgId == id_
    group = await alice.request(
        groupCreate={"opId": alice.new_id(), "name": "größer 😀", "members": []}
    )
    assert (await alice.event()).groupChange.name == "größer 😀"
    members = await alice.request(members={"group": group.group})
    assert members.members[0].role == 3
