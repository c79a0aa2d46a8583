"""A process that runs evaluations in forked children and causes faults in them.

The imports that take seconds are made once; a child then starts in milliseconds, and nothing that happens to it can
reach the tests. One JSON object a line comes in on stdin, and one goes out on stdout when the child has ended.

An *event* is a moment that a fault can be tied to: a file below a watched folder about to be opened for writing,
renamed or removed, a folder about to be made or removed, or a word of the evaluation to its reporter.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Events:
    """Counts events and causes a fault at one of them."""

    def __init__(self, watched: list[str], faults: list[dict[str, Any]]) -> None:
        self.labels: list[str] = []
        self._watched = [os.path.realpath(path) for path in watched]
        self._faults = faults
        self._lock = threading.RLock()
        self._busy = False

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _mode, flags = arguments
            if isinstance(flags, int) and flags & _WRITES:
                self._at("open", path)
        elif event == "os.rename":
            self._at("rename", arguments[1])
        elif event in {"os.remove", "os.mkdir", "os.rmdir"}:
            self._at(event.removeprefix("os."), arguments[0])

    def _at(self, what: str, path: Any) -> None:
        if not isinstance(path, (str, os.PathLike)):
            return
        text = os.path.abspath(os.fspath(path))  # noqa: PTH100 - resolving would open files within the hook
        for root in self._watched:
            if text == root or text.startswith(root + os.sep):
                self.happen(f"{what} {os.path.relpath(text, root)}")
                return

    def happen(self, label: str) -> None:
        with self._lock:
            if self._busy:
                return  # the fault's own doing
            self._busy = True
            try:
                index = len(self.labels)
                self.labels.append(label)
                for fault in list(self._faults):
                    at = fault["at"]
                    if at == index or (isinstance(at, str) and at in label):
                        self._faults.remove(fault)
                        FAULTS[fault["do"]](**fault.get("with", {}))
            finally:
                self._busy = False


class TellingReporter:
    """Turns what the evaluation reports into events."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._what = ""
        self.warnings: list[str] = []

    def start(self, what: str, total: int | None) -> None:
        self._what = what
        self._events.happen(f"start {what}")

    def advance(self, num: int) -> None:
        self._events.happen(f"advance {self._what}")

    def finish(self) -> None:
        self._events.happen(f"finish {self._what}")

    def say(self, text: str) -> None:
        self._events.happen("say")

    def warn(self, text: str) -> None:
        self.warnings.append(text)
        self._events.happen("warn")


# --------------------------------------------------------------------------- faults


def kill() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def no_more_bytes() -> None:
    """From now on no file may grow, whoever writes it: to a program a full disk looks the same."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def fill(folder: str) -> None:
    """Fill the file system that a folder lies in."""
    with Path(folder, "ballast").open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 10, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def read_only(folder: str) -> None:
    for path in (folder, *(path for path, _folders, _files in os.walk(folder))):
        os.chmod(path, 0o500)  # noqa: PTH101


def delete(path: str) -> None:
    os.unlink(path)  # noqa: PTH108


FAULTS: dict[str, Callable[..., None]] = {
    function.__name__: function for function in (kill, send, no_more_bytes, fill, read_only, delete)
}


def obey_mode_bits() -> None:
    """Give up root's right to write where mode bits forbid it; without it they hold for root as for anybody."""
    override, read_search = 1, 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    data = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    for position in (0, 1, 2):  # effective, permitted, inheritable of the first 32 capabilities
        data[position] &= ~(1 << override | 1 << read_search)
    if libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def limit_memory(spare_bytes: int) -> None:
    """Let the process have this much more address space than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + spare_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def patch(target: str, nth: int, do: str) -> None:
    """Cause a fault when a function is called for the nth time, or every time with 0, before it does anything."""
    module, _, dotted = target.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = dotted.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    function = getattr(owner, name)
    calls: list[None] = []

    def called(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if nth in {0, len(calls)}:
            CALL_FAULTS[do](*arguments)
        return function(*arguments, **options)

    setattr(owner, name, called)


def fail(*_arguments: object) -> NoReturn:
    raise RuntimeError("the worker's own fault")


def leave(*_arguments: object) -> NoReturn:
    sys.exit(7)


def vanish(*_arguments: object) -> NoReturn:
    os._exit(9)


def die(*_arguments: object) -> NoReturn:
    kill()


def run_out_of_memory(*_arguments: object) -> NoReturn:
    raise MemoryError("no room for another array")


def eat(_network: object, batch: Any) -> None:
    """Take memory for every image of a batch, and give it back."""
    import torch

    torch.empty(len(batch) * int(os.environ["ZOO_TEST_MEAL_BYTES"]), dtype=torch.uint8)


CALL_FAULTS: dict[str, Callable[..., None]] = {
    function.__name__: function for function in (fail, leave, vanish, die, run_out_of_memory, eat)
}


# --------------------------------------------------------------------------- a child


def perform(task: dict[str, Any]) -> dict[str, Any]:
    """Evaluate or resume as told, and say what came of it."""
    import torch

    from toy_detector import hooks as toy_detector
    from zoo_core import api
    from zoo_core.cli.signals import termination_interrupts
    from zoo_core.errors import ZooError
    from zoo_core.plugins import PluginHost

    torch.set_num_threads(1)  # threads of the parent do not live in a forked child
    for variable, value in task.get("environment", {}).items():
        os.environ[variable] = value
    if task.get("obey_mode_bits") and os.geteuid() == 0:
        obey_mode_bits()
    host = PluginHost(installed=task.get("installed", False))
    if not task.get("installed", False):
        host.register(toy_detector, "toy_detector")
    for call in task.get("calls", []):
        patch(**call)
    events = Events(task["watch"], task.get("faults", []))
    sys.addaudithook(events.audit)
    reporter = TellingReporter(events)
    if "spare_bytes" in task:
        limit_memory(task["spare_bytes"])
    options = {"host": host, "reporter": reporter, "report": task.get("report", False)}
    found: dict[str, Any] = {}
    try:
        with termination_interrupts():
            if "resume" in task:
                result = api.resume(task["resume"], **options)
            else:
                result = api.evaluate(task["model"], **task["options"], **options)
        found["status"] = result.record.status
    except ZooError as error:
        found |= {"error": type(error).__name__, "fact": error.fact, "fix": error.fix}
    except KeyboardInterrupt as stop:
        found |= {"error": type(stop).__name__, "fact": str(stop), "fix": ""}
    if task.get("modules"):
        found["modules"] = list(sys.modules)
    return {**found, "events": events.labels, "warnings": reporter.warnings}


def fork(task: dict[str, Any]) -> dict[str, Any]:
    """Perform a task in a child; ``signal`` in the answer is what killed it, ``exit`` its exit code.

    With ``kill_after_s`` the child is killed that much later, wherever it is.
    """
    started = time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 1
        try:
            answer = json.dumps(perform(task))
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            with os.fdopen(writing, "w") as pipe:
                pipe.write(answer)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        os._exit(code)
    os.close(writing)
    if "kill_after_s" in task and not select.select([reading], [], [], task["kill_after_s"])[0]:
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    ended = {"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else {"exit": os.WEXITSTATUS(status)}
    answer = json.loads(text) if text and "exit" in ended else {}
    return {**answer, **ended, "seconds": time.monotonic() - started}


def import_what_a_run_imports() -> None:
    """Import in this process whatever a whole run of the toy imports on its way, so that no child has to."""
    from toy_detector import data
    from toy_detector.model import untrained
    from zoo_core import artifacts

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, "toy.safetensors")
        artifacts.save_state_dict(checkpoint, untrained(2).state_dict(), {})
        grid = data.write(Path(folder, "grid"), num_test=2)
        options = {"data": str(grid), "checkpoint": str(checkpoint), "out": str(Path(folder, "run"))}
        scout = fork({"model": "toy_squares", "options": options, "watch": [folder], "modules": True, "report": True})
    for name in scout["modules"]:
        with contextlib.suppress(Exception):  # some are made on the way and have no file
            importlib.import_module(name)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a gate in the background hands down "ignore"
    import_what_a_run_imports()
    for line in sys.stdin:
        answers.write(json.dumps(fork(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
