#!/usr/bin/env python3
"""A client of chatd in another language, written from docs/protocol.md alone.

It speaks JSON over WebSocket and does what a simple client needs: send, receive and
acknowledge, resume, read history. It keeps its state (device, cursor, unacknowledged
message) in a file, so that every command below is a run of its own:

    client.py --as alice --state alice.json send bob "hello"
    client.py --as bob --state bob.json listen --count 1
    client.py --as bob --state bob.json history <conversation>

Every command prints one JSON object a line, and exits 0, or 1 after an error of the
server, which is printed as {"error": ...}. Comments name the rules they follow.
"""

import argparse
import base64
import json
import os
import secrets
import sys
import time
import uuid

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

TIMEOUT_S = 30


class Refused(Exception):
    """The server answered with ERROR."""

    def __init__(self, error):
        super().__init__(error.get("message", ""))
        self.error = error


class State:
    """What a device keeps: its number (R19), its cursor (R46), and what waits for SENT (R33)."""

    def __init__(self, path):
        self.path = path
        self.values = {"device": str(secrets.randbits(63) | 1)}
        if path and os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                self.values = json.load(file)

    def save(self, **changes):
        self.values.update(changes)
        if self.path:
            with open(self.path + ".new", "w", encoding="utf-8") as file:
                json.dump(self.values, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(self.path + ".new", self.path)

    def resume(self, from_start):
        if "generation" in self.values:
            return {
                "inboxSeq": self.values["inboxSeq"],
                "marksVersion": self.values["marksVersion"],
                "generation": self.values["generation"],
            }
        return {"inboxSeq": "0"} if from_start else None


def uuid7(now_ms):
    """A client id: UUID of version 7, dated by the server's time (R35)."""
    value = (now_ms << 80) | secrets.randbits(80)
    value = value & ~(0xF << 76) | (7 << 76)
    value = value & ~(0b11 << 62) | (0b10 << 62)
    return uuid.UUID(int=value).bytes


class Session:
    """One connection: HELLO to the end (R16 to R24)."""

    def __init__(self, socket, token, state, from_start=False):
        self.socket = socket
        self.state = state
        self.requests = 0
        self.events = []
        self.receipts = []
        self.gap = None
        self.granted = self.used = self.seq = self.marks_version = 0
        hello = {
            "minVersion": 1,
            "maxVersion": 1,
            "token": token,
            "device": state.values["device"],
        }
        resume = state.resume(from_start)
        if resume:
            hello["resume"] = resume
        self.write({"req": 1, "hello": hello})
        self.welcome = self.wait(lambda frame: frame.get("welcome"))
        self.clock_ms = int(self.welcome["serverTimeMs"]) - int(time.monotonic() * 1000)
        self.granted = self.welcome["credits"].get("events", 0)
        self.seq = int(self.welcome.get("inboxHead", 0))
        if resume:
            # RESUMED or GAP follows WELCOME (R22, R23).
            frame = self.wait(lambda frame: frame if "resumed" in frame or "gap" in frame else None)
            if "gap" in frame:
                self.gap = frame["gap"]
                self.seq = int(self.gap.get("head", 0))
            else:
                self.seq = int(frame["resumed"].get("from", 0))
        marks = int(state.values.get("marksVersion", 0)) if resume and not self.gap else int(
            self.welcome.get("marksVersion", 0)
        )
        self.marks_version = marks
        self.save()
        # What was not confirmed is said again (R53).
        if self.seq and resume and not self.gap:
            self.write({"ack": {"inboxSeq": str(self.seq)}})

    def save(self):
        self.state.save(
            inboxSeq=str(self.seq),
            marksVersion=str(self.marks_version),
            generation=self.welcome["generation"],
        )

    def write(self, frame):
        self.socket.send(json.dumps(frame))

    def wait(self, wanted, timeout_s=TIMEOUT_S):
        """Takes frames until `wanted` returns something of one."""
        deadline = time.monotonic() + timeout_s
        while True:
            text = self.socket.recv(timeout=max(0.0, deadline - time.monotonic()))
            frame = json.loads(text)
            self.take(frame)
            if "error" in frame and frame.get("req", 0) == 0:
                raise Refused(frame["error"])
            found = wanted(frame)
            if found is not None:
                return found

    def take(self, frame):
        """What comes without having been asked for."""
        for event in frame.get("event", {}).get("events", []):
            seq = int(event["inboxSeq"])
            self.used += 1
            if seq <= self.seq:
                continue  # Again, after a reconnect (R46).
            if seq != self.seq + 1:
                raise AssertionError(f"event {seq} after {self.seq} (R45)")
            self.seq = seq
            self.events.append(event)
        if 2 * self.used >= self.granted > 0:
            self.write({"credit": {"lane": "LANE_EVENTS", "n": self.used}})  # R47
            self.used = 0
        if "receipt" in frame:
            receipt = frame["receipt"]
            self.receipts.append(receipt)
            # Only without a hole (R52).
            if int(receipt.get("fromVersion", 0)) == self.marks_version:
                self.marks_version = int(receipt["toVersion"])

    def request(self, body):
        """A request and its answer (R12, R13)."""
        self.requests += 1
        req = self.requests + 1
        self.write({"req": req, **body})
        frame = self.wait(lambda frame: frame if frame.get("req") == req else None)
        if "error" in frame:
            raise Refused(frame["error"])
        if any(key.endswith("Page") for key in frame):
            self.write({"credit": {"lane": "LANE_BULK", "n": 1}})  # R48
        return frame

    def send(self, to, text, client_id=None):
        """SEND until SENT (R33): the same id, as long as the error is retryable."""
        if client_id is None:
            client_id = uuid7(self.clock_ms + int(time.monotonic() * 1000))
        message = {
            "clientMsgId": base64.b64encode(client_id).decode(),
            "to": to,
            "content": {"text": text},
        }
        self.state.save(unacknowledged=message)
        while True:
            try:
                sent = self.request({"send": message})["sent"]
                break
            except Refused as refused:
                if not refused.error.get("retryable"):
                    self.state.save(unacknowledged=None)
                    raise
                time.sleep(refused.error.get("retryAfterMs", 100) / 1000)
        self.state.save(unacknowledged=None)
        return sent

    def listen(self, count):
        """`count` events: stored, then acknowledged (R49)."""
        while len(self.events) < count:
            self.wait(lambda frame: frame.get("event"))
        self.save()
        if self.seq:
            self.write({"ack": {"inboxSeq": str(self.seq)}})
        return self.events

    def history(self, conversation, limit):
        """The whole conversation, newest first, page by page (R55)."""
        before = "0"
        while True:
            get = {"conversation": conversation, "before": before, "limit": limit}
            page = self.request({"history": get})["historyPage"]
            yield page
            if not page.get("more"):
                return
            before = page["next"]

    def synchronise(self):
        """Until the server has taken what was written before: answers come in order here."""
        self.request({"ping": {}})


def show(value):
    print(json.dumps(value, ensure_ascii=False), flush=True)


def target(name):
    """A group or user by id, or a user by name (R39)."""
    kind, _, rest = name.partition(":")
    return {kind: rest} if kind in ("user", "group") and rest else {"name": name}


def run(arguments):
    state = State(arguments.state)
    with connect(
        arguments.url,
        subprotocols=["chat.v1.json"],  # R4
        compression=None,  # R5
        max_size=2 << 20,
        open_timeout=TIMEOUT_S,
    ) as socket:
        session = Session(socket, arguments.token, state, arguments.from_start)
        if arguments.command == "attach":
            show({"welcome": session.welcome, "gap": session.gap})
        elif arguments.command == "send":
            client_id = bytes.fromhex(arguments.client_id) if arguments.client_id else None
            show({"sent": session.send(target(arguments.to), arguments.text, client_id)})
        elif arguments.command == "listen":
            for event in session.listen(arguments.count):
                show({"event": event})
            session.synchronise()
        elif arguments.command == "history":
            for page in session.history(arguments.conversation, arguments.limit):
                show({"page": page})
        elif arguments.command == "conversations":
            show({"page": session.request({"conversations": {}})["conversationsPage"]})
        elif arguments.command == "mark":
            mark = {"conversation": arguments.conversation, "seenUpTo": arguments.msg_id}
            session.write({"mark": mark})
            # The receipt for oneself confirms it (R53).
            me = session.welcome["user"]
            session.wait(
                lambda frame: frame.get("receipt")
                if frame.get("receipt", {}).get("user") == me
                and int(frame["receipt"].get("seenUpTo", 0)) >= int(arguments.msg_id)
                else None
            )
            show({"marked": mark})
        elif arguments.command == "receipts":
            reached = lambda receipt: (  # noqa: E731
                receipt["user"] == arguments.user
                and int(receipt.get(arguments.kind, 0)) >= int(arguments.msg_id)
            )
            while not any(reached(receipt) for receipt in session.receipts):
                session.wait(lambda frame: frame.get("receipt"))
            show({"receipt": next(filter(reached, session.receipts))})
        session.save()


def main():
    parser = argparse.ArgumentParser(description="A small client of chatd.")
    parser.add_argument("--url", default="ws://127.0.0.1:7443/v1/ws")
    parser.add_argument("--as", dest="name", help="speak as dev:NAME")
    parser.add_argument("--token", help="a JWT instead")
    parser.add_argument("--state", help="the file that makes this a device")
    parser.add_argument(
        "--from-start", action="store_true", help="a new device asks for the whole inbox"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("attach")
    send = commands.add_parser("send")
    send.add_argument("to")
    send.add_argument("text")
    send.add_argument("--client-id", help="32 hexadecimal digits: a retry")
    listen = commands.add_parser("listen")
    listen.add_argument("--count", type=int, default=1)
    history = commands.add_parser("history")
    history.add_argument("conversation")
    history.add_argument("--limit", type=int, default=50)
    commands.add_parser("conversations")
    mark = commands.add_parser("mark")
    mark.add_argument("conversation")
    mark.add_argument("msg_id")
    receipts = commands.add_parser("receipts")
    receipts.add_argument("user")
    receipts.add_argument("kind", choices=["deliveredUpTo", "seenUpTo"])
    receipts.add_argument("msg_id")
    arguments = parser.parse_args()
    arguments.token = arguments.token or f"dev:{arguments.name}"
    try:
        run(arguments)
    except Refused as refused:
        show({"error": refused.error})
        sys.exit(1)
    except (ConnectionClosed, TimeoutError, OSError) as error:
        show({"error": {"message": f"connection: {error}", "retryable": True}})
        sys.exit(2)


if __name__ == "__main__":
    main()
