r"""An open line between the processes of a run: who has come, who has died, and a few words between them.

Every process keeps one TCP connection to process 0. What goes over it are lines of JSON:

    1 -> 0   {"hello": 1, "processes": 2, "host": "n1", "command": "9f3c…"}    when it starts
    0 -> 1   {"go": "n0:40123", "host": "n0"}  or  {"end": "…", "code": 2}     when all have come, or one does not fit
    1 -> 0   {"say": 3}          0 -> all  {"said": [2, 3]}                    `gather`
    1 -> 0   {"end": "…", "code": 1}                                           it ends (null: all is done)
    0 -> all {"end": "process 1 …", "code": 1}

The system closes the connections of a process that dies, however it dies, and a host that falls silent is given up after
`SILENCE` seconds. So a death is known at once, also to a process that waits inside a collective which will never
return: the thread that listens prints one line and ends the process. JAX's own check would take 100 seconds, and end in
an abort.
"""

import contextlib
import hashlib
import json
import os
import re
import socket
import sys
import threading
import time

from retune_jax.distributed.cluster import Place
from retune_jax.errors import UserError

SILENCE = 30  # seconds
FAREWELL = 10  # seconds that process 0, which the others hang on to, waits for them to end before it


class RollCall:
    """The line of one process. Made when all have come; `UserError` where they do not.

    Attributes:
        place: this process's.
        coordinator: "host:port", free a moment ago, for JAX's own coordinator.
    """

    def __init__(self, place: Place, wait: float):
        self.place = place
        self.leaving = False
        self.heard = threading.Condition()
        self.said: dict[int, list] = {}  # values not yet taken, by the process they came from
        self.lines: dict[int, _Line] = {}
        self.ended: set[int] = set()
        deadline = time.monotonic() + wait
        hello = {"hello": place.process, "processes": place.processes, "host": socket.gethostname(), "command": _command()}
        if place.process == 0:
            self._welcome(hello, deadline, wait)
        else:
            self._come(hello, deadline, wait)
        for number, line in self.lines.items():
            threading.Thread(target=self._listen, args=(number, line), daemon=True).start()

    # --- The start ---

    def _welcome(self, hello: dict, deadline: float, wait: float):
        host, port = _address(self.place.coordinator)
        dual = {"family": socket.AF_INET6, "dualstack_ipv6": True} if socket.has_dualstack_ipv6() else {}
        try:
            server = socket.create_server(("", port), backlog=self.place.processes, **dual)  # type: ignore[arg-type]
        except OSError as error:
            raise UserError(f"process 0 cannot listen on port {port}: {error.strerror or error}") from error
        with server:
            while missing := sorted(set(range(1, self.place.processes)) - set(self.lines)):
                left = deadline - time.monotonic()
                server.settimeout(max(left, 0.01))
                try:
                    if left <= 0:
                        raise TimeoutError
                    line = _Line(server.accept()[0])
                    word = line.read(max(deadline - time.monotonic(), 0.01))
                except TimeoutError as error:
                    names = ", ".join(map(str, missing[:8])) + (" …" if len(missing) > 8 else "")
                    self._refuse(f"process {names} of {self.place.processes} has not come within {wait:g} s")
                    raise UserError(
                        f"process {names} of {self.place.processes} has not come to {self.place.coordinator} within {wait:g} s"
                    ) from error
                if not isinstance(word, dict) or "hello" not in word:
                    line.close()  # somebody else's connection
                    continue
                if mistake := self._mistake(hello, word):
                    self.lines.setdefault(-1, line)
                    self._refuse(mistake)
                    raise UserError(mistake)
                self.lines[word["hello"]] = line
                line.host = word["host"]
        self.coordinator = f"{host}:{_free_port()}"
        self._tell({"go": self.coordinator, "host": hello["host"]})

    def _mistake(self, mine: dict, theirs: dict) -> str | None:
        who = f"process {theirs['hello']} ({theirs['host']})"
        if theirs["processes"] != mine["processes"]:
            return f"{who} was told of {theirs['processes']} processes, process 0 of {mine['processes']}"
        if theirs["hello"] in self.lines:
            return f"there are two processes {theirs['hello']}: on {self.lines[theirs['hello']].host} and on {theirs['host']}"
        if theirs["command"] != mine["command"]:
            return f"{who} was started with another command or another version than process 0"
        return None

    def _refuse(self, mistake: str):
        self.leaving = True
        self._tell({"end": mistake, "code": 2})
        for line in self.lines.values():
            line.close()

    def _come(self, hello: dict, deadline: float, wait: float):
        address = _address(self.place.coordinator)
        while True:
            try:
                line = _Line(socket.create_connection(address, timeout=max(deadline - time.monotonic(), 0.01)))
                break
            except OSError as error:  # process 0 may only be late, and so may its name
                if time.monotonic() + 0.2 > deadline:
                    reason = error.strerror or str(error)
                    raise UserError(
                        f"process {self.place.process} cannot reach process 0 at {self.place.coordinator} "
                        f"within {wait:g} s: {reason}"
                    ) from error
                time.sleep(0.2)
        line.send(hello)
        try:
            word = line.read(max(deadline - time.monotonic(), 0.01) + 5)
        except TimeoutError:
            word = {"end": f"process 0 at {self.place.coordinator} has not answered within {wait:g} s"}
        if word is None:
            word = {"end": f"process 0 at {self.place.coordinator} has ended"}
        if "end" in word:
            line.close()
            raise UserError(word["end"])
        self.coordinator, line.host = word["go"], word["host"]
        self.lines[0] = line

    # --- Words ---

    def gather(self, value) -> list:
        """Everybody's value, in the order of the processes; waits until all have called."""
        with self.heard:
            if self.place.process == 0:
                others = range(1, self.place.processes)
                self.heard.wait_for(lambda: all(self.said.get(number) for number in others))
                values = [value, *(self.said[number].pop(0) for number in others)]
                self._tell({"said": values})
                return values
            self.lines[0].send({"say": value})
            self.heard.wait_for(lambda: self.said.get(0))
            return self.said[0].pop(0)

    def leave(self, line: str | None, code: int = 0):
        """Says that this process ends: all being done (None), or because of what `line` says."""
        self.leaving = True
        me = f"process {self.place.process} ({socket.gethostname()})"
        self._tell({"end": line and f"{me} ended: {line}", "code": code})
        if self.place.process == 0:
            with self.heard:
                self.heard.wait_for(lambda: self.ended >= set(self.lines), timeout=FAREWELL)
        for line in self.lines.values():
            with contextlib.suppress(OSError):
                line.connection.shutdown(socket.SHUT_WR)

    def _tell(self, word: dict):
        for line in self.lines.values():
            with contextlib.suppress(OSError):  # the thread that listens will notice
                line.send(word)

    def _listen(self, number: int, line: "_Line"):
        while True:
            try:
                word = line.read(None)
            except OSError:
                word = None
            if word is None:  # gone without a word
                who = f"process {number} ({line.host})"
                word = {"end": None if number in self.ended else f"{who} is gone", "code": 1}
                self._end(number, word)
                line.close()
                return
            if "end" in word:
                self._end(number, word)
            else:
                with self.heard:
                    self.said.setdefault(number, []).append(word["say"] if "say" in word else word["said"])
                    self.heard.notify_all()

    def _end(self, number: int, word: dict):
        with self.heard:
            self.ended.add(number)
            self.heard.notify_all()
        if word["end"] is None or self.leaving:
            return
        if self.place.process == 0:
            self._tell(word)
        if not word["end"].endswith(" is gone"):
            time.sleep(1)  # a mistake that all make is best told by each itself
        if not self.leaving:
            text = f"retune_jax: {word['end']}; this process stops too. The same command goes on from the last checkpoint.\n"
            os.write(2, text.encode())
            os._exit(word["code"])


class _Line:
    """Lines of JSON over a socket."""

    host = "?"

    def __init__(self, connection: socket.socket):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", SILENCE // 2), ("TCP_KEEPINTVL", SILENCE // 6), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self.connection = connection
        self.reader = connection.makefile("rb")

    def send(self, word: dict):
        self.connection.sendall(json.dumps(word).encode() + b"\n")

    def read(self, timeout: float | None):
        """The next line; None at the end, or where what comes is no JSON."""
        self.connection.settimeout(timeout)
        text = self.reader.readline()
        try:
            return json.loads(text) if text.endswith(b"\n") else None
        except ValueError:
            return None

    def close(self):
        self.reader.close()
        self.connection.close()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def _command() -> str:
    """What all processes have to agree on: the command line, but for which process it is."""
    from retune_jax import __version__

    words = re.sub(r"(^|\0)--?process[=\0]\d+", "", "\0".join(sys.argv[1:]))
    return hashlib.sha256(json.dumps([__version__, words]).encode()).hexdigest()[:16]
