"""ScienceWorld's Java engine: one virtual machine per process, simulators in it that share nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from ..errors import EnvError, RequestError

JAVA_OPTIONS = (
    # Without these a machine grows to 1-2 GB, no faster. Playing stays far below the limit: the young generation is
    # small, so garbage is collected early; 192 MB are not enough for the search for some gold paths.
    "-Xmx1g", "-Xms32m", "-Xmn16m", "-XX:+UseSerialGC",
    "-XX:+UnlockExperimentalVMOptions", "-XX:hashCode=2",
    "--add-opens=java.base/java.util=ALL-UNNAMED",  # `Simulator.commands` reads the state of a Random
    "-Duser.language=en", "-Dfile.encoding=UTF-8",
)  # fmt: skip
"""`hashCode=2` gives every object the same identity hash, so sets of objects keep the order in which they were
filled. By default that hash is random and with it the order in which the engine lists objects, differently at each
load: the same actions would not get the same text, nor one task the same gold path."""

JAVA_CURE = "apt-get install -y --no-install-recommends default-jre-headless"
_NEED = f"ScienceWorld needs OpenJDK 11 or newer, by JAVA_HOME or on the PATH. On Debian: {JAVA_CURE}"

UNKNOWN_ACTION = (
    "Unknown action.  Type 'help' for a list of actions, and 'objects' for a list of possible object referents. "
)
"""What the engine's outer layer says where its inner one says nothing; here the inner one is called."""

_OUTER_ACTIONS = frozenset(("help", "objects", "task"))
"""Actions that only the outer layer knows; they take no time and leave the score as it is."""
_SCRAMBLE = 0x5DEECE66D
"""`java.util.Random.setSeed(x)` sets its state to x XOR this."""

_INTERFACE = "scienceworld.runtime.pythonapi.PythonInterface"


def java_program() -> str:
    """The Java that is used: of JAVA_HOME, else the one on the PATH."""
    home = os.environ.get("JAVA_HOME")
    return os.path.join(home, "bin", "java") if home else "java"


class Answer(NamedTuple):
    """What the engine says to an action; `score` is 0 to 1, or -1 after a wrong final choice."""

    text: str
    score: float
    over: bool


class Simulator:
    """One game at a time in this process's virtual machine, unaffected by other simulators there.

    The engine keeps its random numbers, object numbers and simplifications in global variables, so each
    simulator loads the engine's classes anew (12 MB, about 40 once they are compiled). Raises `EnvError` when
    the machine fails; the next simulator then starts a new one.
    """

    def __init__(self) -> None:
        self._machine = _Machine.shared()
        self._machine.users.add(id(self))
        with self._doing("start"):
            self._gateway = self._machine.connect()
            self._interface = self._new_interface()
            self._agent: Any = None

    def load(self, task: str, variation: int, simplification: str, gold: bool = False) -> None:
        """Begin a variation of a task; `gold=True` also computes its gold path, which takes seconds."""
        with self._doing("load a task"):
            problem = self._interface.load(task, variation, simplification, gold)
            self._detach(self._agent)
            option = self._interface.agentInterface()
            self._agent = option.get()
            self._detach(option)
        self._answer = Answer("", 0.0, False)
        if problem:
            raise EnvError(f"ScienceWorld cannot load {task} variation {variation} ({simplification!r}): {problem}")

    def step(self, action: str) -> Answer:
        """Act. The engine's inner layer is called: the outer one also looks around and lists what it sees, unasked."""
        with self._doing("act"):
            if action.strip().lower() in _OUTER_ACTIONS:
                return self._answer._replace(text=self._interface.step(action))
            answer = self._agent.step(action)
            text, score, over = str(answer.toString())[1:-1].rsplit(",", 2)  # one call instead of three
            self._detach(answer)
            problem = self._agent.getErrorStateMessage() if float(score) < 0 else ""
        if problem:  # the engine catches its own exceptions and scores -1 from then on
            raise EnvError(f"ScienceWorld failed: {problem}")
        self._answer = Answer(text or UNKNOWN_ACTION, float(score), over == "true")
        return self._answer

    def describe(self) -> tuple[str, str]:
        """The task in words, and a look around that takes no time."""
        with self._doing("describe the task"):
            return self._interface.getTaskDescription(), self._interface.freeActionLook()

    def commands(self) -> tuple[str, ...]:
        """Everything that can be done now, sorted; slow. Leaves the game's random numbers as they were."""
        with self._doing("list commands"):
            seed = self._seed_field.get(self._random)
            listed = self._interface.getValidActionObjectCombinations()
            found = "\n".join(listed)
            self._detach(listed)
            self._random.setSeed(seed ^ _SCRAMBLE)
        return tuple(sorted(set(found.split("\n")))) if found else ()

    def gold_path(self) -> list[str]:
        """The gold actions of the task loaded with `gold=True`."""
        with self._doing("tell the gold path"):
            listed = self._interface.getGoldActionSequence()
            path = [str(action) for action in listed]
            self._detach(listed)
        return path

    @property
    def pid(self) -> int:
        """Process id of its machine."""
        return self._machine.process.pid

    @property
    def usable(self) -> bool:
        """Its machine still runs."""
        return self._machine.process.poll() is None

    def close(self) -> None:
        """Let go of the machine, which ends with its last simulator."""
        with suppress(Exception):
            self._gateway.close()
        self._machine.leave(self)

    def _new_interface(self) -> Any:
        """The engine's entry object, from classes of its own; with it its source of random numbers."""
        from scienceworld.constants import JAR_PATH

        java, gateway = self._gateway.jvm.java, self._gateway
        urls = gateway.new_array(java.net.URL, 1)
        urls[0] = java.io.File(JAR_PATH).toURI().toURL()
        loader = java.net.URLClassLoader(urls, java.lang.ClassLoader.getSystemClassLoader().getParent())
        no_types, no_values = gateway.new_array(java.lang.Class, 0), gateway.new_array(java.lang.Object, 0)

        self._random = loader.loadClass("scala.util.Random$").getField("MODULE$").get(None).self()
        self._seed_field = java.lang.Class.forName("java.util.Random").getDeclaredField("seed")
        self._seed_field.setAccessible(True)
        return loader.loadClass(_INTERFACE).getDeclaredConstructor(no_types).newInstance(no_values)

    def _detach(self, reference: Any) -> None:
        """Let the machine forget an object that it handed out."""
        if reference is not None:
            self._gateway.detach(reference)

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        """The boundary to foreign code: whatever it raises ends the machine and becomes `EnvError`."""
        try:
            yield
        except Exception as error:
            try:
                reason = str(error)  # py4j asks the machine, which may be gone
            except Exception:
                reason = "the Java process is gone"
            self._machine.end()
            message = f"ScienceWorld's Java machine failed to {what}: {type(error).__name__}: {reason}"
            raise EnvError(message[:2000]) from error


class _Machine:
    """A Java process. It ends when its standard input closes, so also when this process is killed."""

    _running: _Machine | None = None

    def __init__(self) -> None:
        from py4j.java_gateway import launch_gateway
        from py4j.protocol import Py4JError
        from scienceworld.constants import BASEPATH

        self.users, self.owner = set[int](), os.getpid()
        try:
            launched: Any = launch_gateway(
                java_path=java_program(), javaopts=list(JAVA_OPTIONS),
                cwd=BASEPATH,  # the engine reads its table of types here, and where it finds none writes one
                die_on_exit=True, enable_auth=True, return_proc=True,
            )  # fmt: skip  # a tuple whose form depends on the flags
        except FileNotFoundError as error:
            raise RequestError(f"Java was not found. {_NEED}") from error
        except Py4JError as error:
            raise RequestError(f"Java did not start: {error}. `turnwise doctor` says why. {_NEED}") from error
        self.port: int = launched[0]
        self._token: str = launched[1]
        self.process: subprocess.Popen[str] = launched[2]

    @classmethod
    def shared(cls) -> _Machine:
        """The machine of this process, started when there is none; a forked process does not use its parent's."""
        found = cls._running
        if found is None or found.owner != os.getpid() or found.process.poll() is not None:
            found = cls._running = cls()
            found.check()
        return found

    def connect(self) -> Any:
        """A connection of its own: py4j remembers methods by the name of their class, which loaders share."""
        from py4j.java_gateway import GatewayParameters, JavaGateway

        # Without memory management py4j sends nothing behind our back: not at garbage collection, not after the end.
        parameters = GatewayParameters(port=self.port, auth_token=self._token, enable_memory_management=False)
        return JavaGateway(gateway_parameters=parameters)

    def check(self) -> None:
        """Refuse a Java that does not do what `hashCode=2` asks: its texts would differ from run to run."""
        gateway = self.connect()
        java = gateway.jvm.java
        hashes = {java.lang.System.identityHashCode(java.lang.Object()) for _ in range(3)}
        name = java.lang.System.getProperty("java.vm.name")
        gateway.close()
        if hashes != {1}:
            self.end()
            raise RequestError(f"{name} ignores -XX:hashCode=2, so texts would not be reproducible. {_NEED}")

    def leave(self, user: Simulator) -> None:
        self.users.discard(id(user))
        if not self.users:
            self.end()

    def end(self) -> None:
        if self.owner != os.getpid():
            return
        if _Machine._running is self:
            _Machine._running = None
        assert self.process.stdin is not None  # launched with a pipe: the machine ends when it closes
        with suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
