"""Start Python programs from a process that has already imported the libraries.

Importing jax, flax, optax and orbax takes two to three seconds, and the tests start hundreds of
programs. A server imports these libraries once and forks a child for each program. The child has
its own arguments, environment, working directory, standard streams and exit code, like a separate
process. The server imports no file of this project and initializes no backend of jax.

    python tests/forkserver.py FILE_DESCRIPTOR

reads requests from a Unix socket: JSON with `args`, `cwd` and `env`, and the file descriptors of
stdin, stdout, stderr and of the pipe that gets the child's process id and its wait status.
"""

import atexit
import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from typing import BinaryIO

LIBRARIES = [
    *("jax", "flax.linen", "optax", "orbax.checkpoint", "ml_collections.config_flags"),
    *("jax.experimental.multihost_utils", "tqdm", "tensorboard.summary.writer.event_file_writer"),
]
if os.environ.get("MAKEMORE_REQUIRE_TORCH"):
    LIBRARIES += ["torch", "torch._dynamo"]  # optimizers import the second one
IS_AVAILABLE = hasattr(os, "fork") and sys.platform == "linux"


class Process:
    """A program started by the server, with the methods of subprocess.Popen that the tests use.

    Threads read its output immediately, so that it never waits for a reader.
    """

    def __init__(self, args: list[str], cwd: str, env: dict[str, str], stdin: str | None = None):
        self.args = args
        self.returncode: int | None = None
        self._status, status = _pipe()
        (stdout, stdout_end), (stderr, stderr_end) = _pipe(), _pipe()
        with tempfile.TemporaryFile() as file:
            file.write((stdin or "").encode())
            file.seek(0)
            request = json.dumps({"args": args, "cwd": cwd, "env": env}).encode()
            descriptors = [file.fileno(), stdout_end, stderr_end, status]
            socket.send_fds(_server(), [request], descriptors)
        for descriptor in descriptors[1:]:
            os.close(descriptor)
        self._readers = _Reader(stdout), _Reader(stderr)
        self.pid = int(self._status.readline())

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while the program runs."""
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the program to end. subprocess.TimeoutExpired after `timeout` seconds."""
        if self._wait(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the program and the children that share its output to end; return stdout and
        stderr."""
        self.wait(timeout)
        return tuple(reader.read_all() for reader in self._readers)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the program has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        self.wait()

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = os.waitstatus_to_exitcode(int(self._status.readline()))
        return self.returncode


class NewInterpreter(subprocess.Popen):
    """The same for systems without fork: a new interpreter that writes its output to files."""

    def __init__(self, args: list[str], cwd: str, env: dict[str, str], stdin: str | None = None):
        names = "stdin", "stdout", "stderr"
        self._files = {name: tempfile.TemporaryFile() for name in names}  # noqa: SIM115
        self._files["stdin"].write((stdin or "").encode())
        self._files["stdin"].seek(0)
        super().__init__([sys.executable, *args], cwd=cwd, env=env, **self._files)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the program to end; return stdout and stderr."""
        self.wait(timeout)
        return self._read("stdout"), self._read("stderr")

    def _read(self, name: str) -> str:
        self._files[name].seek(0)
        return self._files[name].read().decode().replace(os.linesep, "\n")

    def __exit__(self, *exception: object) -> None:
        self.kill()
        self.wait()
        for file in self._files.values():
            file.close()


class _Reader(threading.Thread):
    """Read a pipe to its end."""

    def __init__(self, pipe: BinaryIO):
        super().__init__(daemon=True)
        self._pipe, self._content = pipe, b""
        self.start()

    def run(self) -> None:
        self._content = self._pipe.read()

    def read_all(self) -> str:
        self.join()
        return self._content.decode()


def _pipe() -> tuple[BinaryIO, int]:
    """Create a pipe. Return a file to read from, and the descriptor of its other end."""
    read_end, write_end = os.pipe()
    return os.fdopen(read_end, "rb", buffering=0), write_end


@cache
def _server() -> socket.socket:
    """Return the socket of the server, which starts on first use and ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # The children get the settings of jax from their requests.
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    command = [sys.executable, __file__, str(theirs.fileno())]
    subprocess.Popen(command, pass_fds=[theirs.fileno()], env=env, start_new_session=True)
    theirs.close()
    return ours


def _serve(connection: socket.socket) -> dict:
    """Fork a child for each request. Return the request in each child; the server never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # monitors need no wait
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, 2**20, 4)
        if not message:  # the tests have ended: kill the programs that still run
            os.killpg(0, signal.SIGKILL)
        if os.fork() == 0:
            connection.close()
            return _fork_program(json.loads(message), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _fork_program(request: dict, descriptors: list[int]) -> dict:
    """Fork the program itself and report its end. Return only in the program's process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status = descriptors.pop()
    if child := os.fork():
        os.write(status, f"{child}\n".encode())
        for descriptor in (0, 1, 2, *descriptors):
            os.close(descriptor)
        os.write(status, f"{os.waitpid(child, 0)[1]}\n".encode())
        os._exit(0)
    os.close(status)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    return request


def _become(request: dict) -> list[str]:
    """Give this process the request's directory and environment; return its arguments."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "utf-8").partition(":")
    # Create new stream objects: those of the server are set up for its own files or pipes.
    options = {"closefd": False, "encoding": encoding}
    sys.stdin = os.fdopen(0, **options)
    sys.stdout = os.fdopen(1, "w", errors=errors or "strict", **options)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", **options)
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    import jax

    for name, text in os.environ.items():  # jax reads its variables when it is imported
        if name.startswith("JAX_") and hasattr(jax.config, name.lower()):
            kind = type(getattr(jax.config, name.lower()))
            value = text.lower() in ("1", "true", "yes", "on") if kind is bool else text
            jax.config.update(name.lower(), kind(value) if kind in (int, float) else value)
    if dynamo := sys.modules.get("torch._dynamo"):  # it reads its variable when it is imported, too
        dynamo.config.disable = os.environ.get("TORCHDYNAMO_DISABLE") == "1"
    return request["args"]


def _run(args: list[str]) -> None:
    """Run `-c CODE ...`, `-m MODULE ...` or `FILE ...` as the main program."""
    import runpy

    if args[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *args[2:]], ""
        exec(compile(args[1], "<string>", "exec"), {"__name__": "__main__"})
    elif args[0] == "-m":
        sys.argv, sys.path[0] = args[1:], os.getcwd()
        runpy.run_module(args[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = args, os.path.dirname(os.path.abspath(args[0]))
        runpy.run_path(args[0], run_name="__main__")


def _end(run: Callable, args: list[str]) -> None:
    """Call `run(args)` and exit as the interpreter does, without freeing imported modules.

    Freeing them would take half a second, because it copies each page of memory first.
    """
    code = 0
    try:
        run(args)
    except SystemExit as end:
        code = end.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    for _library in LIBRARIES:
        with contextlib.suppress(ModuleNotFoundError):  # tensorboard is optional
            __import__(_library)
    gc.freeze()  # or garbage collection in the children copies every page
    _end(_run, _become(_serve(socket.socket(fileno=int(sys.argv[1])))))
