"""The daemon's handle on a domain's process: start it, talk to it, notice its death, end it.

The process gets three descriptors: the machine's memfd, its end of the channel, and an eventfd that it writes when its
console has output. It dies with the daemon (PR_SET_PDEATHSIG, and it checks its parent).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable

from hypervisor import channel
from hypervisor.channel import FromDomainMessage, ToDomain


class DomainProcessHandle:
    """One child. ``on_message`` gets every message, ``on_console`` each console notice, ``on_death`` the exit status.

    ``on_death`` is called once, after the last message, whatever the cause. All calls happen on the event loop.
    """

    def __init__(
        self,
        memory_fd: int,
        on_message: Callable[[FromDomainMessage], None],
        on_console: Callable[[], None],
        on_death: Callable[[int], None],
    ) -> None:
        self._on_message = on_message
        self._on_console = on_console
        self._on_death = on_death
        self._loop = asyncio.get_running_loop()
        self._backlog: deque[bytes] = deque()
        self._socket, theirs = channel.pair()
        self._socket.setblocking(False)
        self._console = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        command = [sys.executable, "-m", "hypervisor.domain_process"]
        command += [str(memory_fd), str(theirs.fileno()), str(self._console), str(os.getpid())]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(memory_fd, theirs.fileno(), self._console),
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        except OSError:
            self._socket.close()
            os.close(self._console)
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        self.alive = True
        #: Set once the process is reaped.
        self.dead = asyncio.Event()
        self._loop.add_reader(self._socket.fileno(), self._readable)
        self._loop.add_reader(self._console, self._console_notice)

    def send(self, message: ToDomain) -> None:
        """Queue a message; silently dropped when the process is dead (its death is reported by itself)."""
        if not self.alive:
            return
        self._backlog.append(channel.encode(message))
        self._flush()

    def kill(self) -> None:
        """SIGKILL; ``on_death`` follows."""
        if self.alive:
            self._process.kill()

    def _flush(self) -> None:
        while self._backlog:
            try:
                self._socket.send(self._backlog[0])
            except BlockingIOError:
                self._loop.add_writer(self._socket.fileno(), self._flush)
                return
            except OSError:
                # It cannot be told (it is gone, or the message is larger than a packet): it must not wait for ever.
                self._backlog.clear()
                self.kill()
                break
            self._backlog.popleft()
        self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        for _ in range(64):
            try:
                packet = self._socket.recv(channel.MAX_PACKET)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._died()
                return
            try:
                message = channel.decode_from_domain(packet)
            except channel.ChannelError:
                self.kill()
                continue
            self._on_message(message)

    def _console_notice(self) -> None:
        try:
            os.eventfd_read(self._console)
        except BlockingIOError:
            return
        self._on_console()

    def _died(self) -> None:
        if not self.alive:
            return
        self.alive = False
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._loop.remove_reader(self._console)
        self._socket.close()
        os.close(self._console)
        # The channel closes a moment before the process can be reaped; one that only closed it is ended.
        self._process.kill()
        self._loop.run_in_executor(None, self._process.wait).add_done_callback(self._reaped)

    def _reaped(self, waited: asyncio.Future[int]) -> None:
        self.dead.set()
        self._on_death(waited.result())
