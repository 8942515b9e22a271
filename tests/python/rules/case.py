"""What a case is: a function of a world, the rules that it holds, and where it runs."""

import asyncio
import contextlib
import secrets
from dataclasses import dataclass

from chat.encoding import Json, Protobuf
from chat.quic import Quic
from chat.session import Session, new_device
from chat.websocket import WebSocket
from rules.node import Node

PROTOBUF, JSON, QUIC = "websocket_protobuf", "websocket_json", "quic"
WEBSOCKET = (PROTOBUF, JSON)
EVERYWHERE = (PROTOBUF, JSON, QUIC)

# What a node of the cases is told beyond its defaults: threads for a machine that runs many nodes.
SETTINGS = {"edge.workers": 2, "shards.threads": 1, "log.pool_files": 1}


@dataclass(frozen=True)
class Case:
    rules: tuple
    run: object
    carriers: tuple

    @property
    def name(self):
        return self.run.__name__

    @property
    def theme(self):
        return self.run.__module__.removeprefix("rules.")


CASES = []


def rule(*numbers, on=EVERYWHERE):
    """A case of these rules. `on` is for rules that speak of one transport or encoding only."""

    def register(run):
        CASES.append(Case(numbers, run, on))
        return run

    return register


class Nodes:
    """Nodes that several cases share, by their settings."""

    def __init__(self, chatd, keys, folder, seed):
        self.chatd = chatd
        self.keys = keys
        self.seed = seed
        self.jwks = folder / "jwks.json"
        self.jwks.write_text(keys.jwks())
        self.shared = {}
        self.all = []

    async def own(self, settings):
        """A node for one case alone, which may kill it."""
        node = Node(self.chatd, {**SETTINGS, "auth.jwks_file": self.jwks, **settings})
        self.all.append(node)
        return await node.start()

    async def with_settings(self, settings):
        key = tuple(sorted(settings.items()))
        if key not in self.shared:
            self.shared[key] = asyncio.ensure_future(self.own(settings))
        return await asyncio.shield(self.shared[key])

    async def close(self):
        await asyncio.gather(*(node.close() for node in self.all))


class World:
    """What one case sees: names of its own, sessions over its transport, and nodes."""

    def __init__(self, nodes, carrier):
        self.nodes = nodes
        self.keys = nodes.keys
        self.carrier = carrier
        self.suffix = secrets.token_hex(4)
        self.node = None
        self.devices = {}
        self.sessions = []
        self.cleanup = contextlib.AsyncExitStack()

    def name(self, who):
        """A name that no other case has."""
        return f"{who}-{self.suffix}"

    async def use(self, **settings):
        """From here on this case talks to a node with these settings: `section__name=value`."""
        settings = {name.replace("__", "."): value for name, value in settings.items()}
        self.node = await self.nodes.with_settings(settings)

    async def use_own(self, **settings):
        """The same, with a node that this case may kill."""
        settings = {name.replace("__", "."): value for name, value in settings.items()}
        self.node = await self.nodes.own(settings)
        self.cleanup.push_async_callback(self.node.close)
        return self.node

    async def connection(self, carrier=None):
        """A connection that has said nothing yet."""
        carrier = carrier or self.carrier
        if self.node is None:
            await self.use()
        if carrier == QUIC:
            connection = await Quic.open(self.node)
        else:
            encoding = Json if carrier == JSON else Protobuf
            connection = await WebSocket.open(self.node, encoding)
        self.cleanup.push_async_callback(connection.close)
        return connection

    async def opened(self, carrier=None, grants=True):
        """A session that has not said HELLO yet."""
        session = Session(await self.connection(carrier), grants)
        self.sessions.append(session)
        return session

    async def session(
        self, who, device=None, resume=None, token=None, carrier=None, grants=True, **hello
    ):
        """A session that was welcomed. Without `device` it is the first device of `who`."""
        session = await self.opened(carrier, grants)
        device = device or self.devices.setdefault(who, new_device())
        session.name, session.device = self.name(who), device
        await session.hello(token or f"dev:{session.name}", device, resume, **hello)
        return session

    async def again(self, session, **changes):
        """The same device again, resuming where the session stopped."""
        await session.close()
        who = session.name.removesuffix(f"-{self.suffix}")
        return await self.session(
            who, **{"device": session.device, "resume": session.where, **changes}
        )

    async def close(self):
        await self.cleanup.aclose()

    def check(self):
        """What no server may do, in any session of the case."""
        for session in self.sessions:
            session.check()
