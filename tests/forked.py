"""Processes forked from one that has imported the packages: real ones, without the seconds that a new Python takes for that.

`run` and `Popen` are those of subprocess, for commands of this Python: `-m MODULE …` and `-c CODE …`. What is read when a package is
imported, such as HF_HOME, has been read by then: a test of that takes subprocess itself.
"""

import atexit
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parent.parent
IMPORTED = (
    "annotate.app.server",
    "annotate.app.site.build",
    "annotate.chat.server",
    "rlhf.serving.engine_process",
    "stages.align.judge",
    "stages.align.steps",
    "stages.judging.evaluate",
    "stages.labeling.sample",
    "stages.ppo.trainer",
    "stages.pretrain.stage",
    "stages.quickstart.report",
    "stages.reward.stage",
    "stages.sft.stage",
    "stages.talk.serve",
    "stages.talk.terminal",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
)
POLL_S = 0.01
# In the place of the context "spawn", for what starts its processes by multiprocessing.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([*IMPORTED])
CONTEXTS = SimpleNamespace(get_context=lambda kind: CONTEXT)


class Popen(subprocess.Popen):
    """subprocess.Popen of `[sys.executable, "-m" or "-c", …]`; the child is the fork server's, who tells how it ended."""

    def _execute_child(self, args, *more):
        preexec_fn, cwd, env = more[1], more[4], more[5]
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = more[9:15]
        command = [os.fspath(part) for part in args]
        assert command[0] == sys.executable and command[1] in ("-m", "-c") and preexec_fn is None, command
        streams = [own if given == -1 else given for own, given in enumerate((p2cread, c2pwrite, errwrite))]
        request = {
            "command": command[1:],
            "cwd": os.fspath(cwd or os.getcwd()),
            "env": dict(env or os.environ),
        }
        self.pid = server().ask(request, streams)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)

    def _internal_poll(self, _deadstate=None, **_):
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                self._try_wait(os.WNOHANG)
            except OSError:  # at the end of the suite
                self.returncode = _deadstate
            finally:
                self._waitpid_lock.release()
        return self.returncode

    def _try_wait(self, wait_flags):
        status = server().ask({"ended": self.pid})
        if status is not None:
            self._handle_exitstatus(status)
            return self.pid, status
        if wait_flags != os.WNOHANG:
            time.sleep(POLL_S)
        return 0, 0


def run(command, *, input=None, timeout=None, check=False, capture_output=True, text=True, **more):
    """subprocess.run, whose output is always captured as text."""
    assert capture_output and text
    pipes = {"stdin": subprocess.PIPE if input is not None else subprocess.DEVNULL, "text": True}
    pipes |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(command, **pipes, **more) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def run_together(number, command, patience_s=900, **environment):
    """What a command prints that `number` processes run as one, each in the place that torchrun would give it."""
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    together |= {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)} if number > 1 else {}
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2 * number)]
        processes = []
        for rank, (out, err) in enumerate(zip(files[::2], files[1::2], strict=True)):
            env = os.environ | environment | together | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(stack.enter_context(Popen(command, env=env, stdout=out, stderr=err)))
            stack.callback(processes[-1].kill)
        deadline = time.monotonic() + patience_s
        while None in (ends := [process.poll() for process in processes]) and not any(ends):
            assert time.monotonic() < deadline, f"not finished after {patience_s} s"
            time.sleep(POLL_S)
        for file in files:
            file.seek(0)
        assert not any(ends), "\n".join(file.read()[-6000:] for file in files[1::2])
        return "".join(file.read() for file in files[::2])


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@cache
def server():
    """This process's fork server, started when first asked for."""
    return ForkServer()


class ForkServer:
    """A process that imports the packages and then forks: one request, one reply, over a socket."""

    def __init__(self):
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.lock = threading.Lock()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.forked", str(theirs.fileno())], cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, pass_fds=[theirs.fileno()],
            )  # fmt: skip
        atexit.register(self.close)

    def close(self):
        self.socket.close()
        self.process.wait(60)

    def ask(self, request, streams=()):
        data = json.dumps(request).encode() + b"\n"
        with self.lock:
            if streams:
                socket.send_fds(self.socket, [b"f"], streams)
            self.socket.sendall(data)
            reply = b""
            while not reply.endswith(b"\n"):
                part = self.socket.recv(4096)
                if not part:
                    raise ConnectionError("the fork server has ended")
                reply += part
        return json.loads(reply)


def serve(connection):
    """Fork until the other side is gone; returns in a child, with what that is to do."""
    children = {}
    while True:
        streams, data = [], b""
        while not data.endswith(b"\n"):
            part, fds, *_ = socket.recv_fds(connection, 65536, 3)
            if not part:
                return end(children)
            data, streams = data + part, streams + fds
        request = json.loads(data.removeprefix(b"f"))
        if "command" in request:
            if (pid := os.fork()) == 0:
                connection.close()
                for target, stream in enumerate(streams):
                    os.dup2(stream, target)
                    os.close(stream)
                return request
            children[pid] = None
            for stream in streams:
                os.close(stream)
            reply = pid
        else:
            reply = status_of(children, request["ended"])
        connection.sendall(json.dumps(reply).encode() + b"\n")


def status_of(children, pid):
    """How a child ended, as waitpid tells it; None while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    if ended:
        del children[pid]
        return status
    return None


def end(children):
    """Nobody is there any more who would wait for what still runs."""
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def become(command, cwd, env):
    """Be the process of a command of Python's."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in enumerate(("stdin", "stdout", "stderr")):  # line by line at a terminal
        setattr(sys, name, os.fdopen(number, "w" if number else "r", buffering=1 if number == 2 else -1))
    sys.path[0] = cwd
    kind, what, *arguments = command
    sys.argv = [kind, *arguments]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), sys.modules["__main__"].__dict__ | {"__name__": "__main__"})


def main():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a suite ends it by its own end of the socket
    from stages.quiet import quiet_libraries

    quiet_libraries()
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    assert threading.active_count() == 1
    if request := serve(socket.socket(fileno=int(sys.argv[1]))):
        become(**request)


if __name__ == "__main__":
    main()
