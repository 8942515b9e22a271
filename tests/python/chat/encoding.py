"""A frame as bytes or text: protobuf, and its canonical JSON mapping (R11)."""

import json

from google.protobuf import json_format

from chat.page import Frame


class Protobuf:
    SUBPROTOCOL = "chat.v1.proto"

    @staticmethod
    def encode(frame):
        return frame.SerializeToString()

    @staticmethod
    def decode(data):
        if not isinstance(data, bytes):
            raise AssertionError(f"R4: a text message with subprotocol chat.v1.proto: {data!r}")
        return Frame.FromString(data)


class Json:
    SUBPROTOCOL = "chat.v1.json"

    @staticmethod
    def encode(frame):
        return json_format.MessageToJson(frame, indent=None, ensure_ascii=False)

    @staticmethod
    def decode(data):
        """Whatever the server writes is what protobuf's own library would have written."""
        if not isinstance(data, str):
            raise AssertionError(f"R4: a binary message with subprotocol chat.v1.json: {data!r}")
        read = json.loads(data)
        frame = json_format.ParseDict(read, Frame(), ignore_unknown_fields=True)
        written = json_format.MessageToDict(frame)
        if written != read:
            raise AssertionError(f"R11: not canonical: {data} instead of {written}")
        return frame
