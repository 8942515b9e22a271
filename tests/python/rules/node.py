"""A real node: the built `chatd` on free ports of loopback, that can be killed and started again.

Known limit: a port is chosen by binding and releasing it, so another process can take it in
between; the start then tries others.
"""

import asyncio
import signal
import socket
import tempfile
from pathlib import Path

HOST = "127.0.0.1"
READY_WITHIN_S = 60
LOOK_AGAIN_S = 0.01
PORT_TRIES = 5
LOG_TAIL = 8192


def free_port():
    """A port that is free for TCP and UDP now."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind((HOST, 0))
            port = tcp.getsockname()[1]
            try:
                udp.bind((HOST, port))
            except OSError:
                continue
            return port


class Node:
    """One process with a data directory of its own; `settings` as in docs/configuration.md."""

    host = HOST

    def __init__(self, chatd, settings):
        self.chatd = chatd
        self.settings = settings
        self.folder = tempfile.TemporaryDirectory(prefix="chat-rules-")
        self.data = Path(self.folder.name) / "data"
        self.log = Path(self.folder.name) / "log"
        self.port = self.admin_port = 0
        self.process = None

    @property
    def certificate(self):
        """What clients of a `--dev` node trust."""
        return self.data / "tls" / "cert.pem"

    async def start(self):
        """The first start: on ports that are free."""
        for attempt in range(PORT_TRIES):
            self.port, self.admin_port = free_port(), free_port()
            try:
                return await self.restart()
            except RuntimeError:
                if "in use" not in self.tail() or attempt == PORT_TRIES - 1:
                    raise

    async def restart(self):
        """Starts the stopped node, and waits until it is ready."""
        words = ["--dev", "--data", self.data, "--listen", f"{HOST}:{self.port}"]
        words += ["--admin-listen", f"{HOST}:{self.admin_port}"]
        for name, value in self.settings.items():
            words += ["--set", f"{name}={value}"]
        with open(self.log, "ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                self.chatd,
                *map(str, words),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder.name,
            )
        async with asyncio.timeout(READY_WITHIN_S):
            # Nothing tells from outside when a node is ready: this looks again.
            while not await self.ready():
                if self.process.returncode is not None:
                    raise RuntimeError(f"chatd ended before it was ready:\n{self.tail()}")
                await asyncio.sleep(LOOK_AGAIN_S)
        return self

    async def ready(self):
        try:
            reader, writer = await asyncio.open_connection(HOST, self.admin_port)
        except OSError:
            return False
        try:
            head = f"GET /readyz HTTP/1.1\r\nHost: {HOST}:{self.admin_port}\r\n"
            writer.write(f"{head}Connection: close\r\n\r\n".encode())
            return (await reader.readline()).split()[1:2] == [b"200"]
        except OSError:
            return False
        finally:
            writer.close()

    def tail(self):
        return self.log.read_bytes()[-LOG_TAIL:].decode(errors="replace")

    async def kill(self):
        """SIGKILL, and waits until the process is gone."""
        if self.process and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    async def close(self):
        await self.kill()
        self.folder.cleanup()
