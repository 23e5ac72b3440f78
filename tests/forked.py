"""Running our scripts without waiting, each time, for PyTorch to be imported.

A server imports what the scripts need, and nothing of ours. Each script then runs in a fork of it, with its own
arguments, folder, environment and streams; to the script it is a process like any other. `python()` is a command that
does so in place of the interpreter: for make, torchrun and whatever else starts scripts. Scripts that are started so
find it as sys.executable.
"""
import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys

PRELOADED = ("torch", "torch.distributed.launcher.api", "torchvision", "torchvision.transforms.v2", "pandas",
             "scipy.io", "scipy.optimize", "sklearn.metrics", "sklearn.datasets", "matplotlib", "tabulate", "tqdm",
             "PIL.Image")
CLIENT = """#!{python} -IS
import sys
sys.path.insert(0, {folder!r})
import forked
forked.client({address!r})
"""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
started = {}  # this process's server


def run(words, cwd, env=None, timeout=None, input=""):
    """The finished process of `python words…`, its outputs as text."""
    import subprocess
    import tempfile

    with contextlib.ExitStack() as stack:
        stdin, *outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        stdin.write(input.encode())
        stdin.seek(0)
        process = Process(_server()["address"], words, cwd, env or _environment(), (stdin, *outputs))
        if process.poll(timeout) is None:
            process.kill()
            process.poll(None)
            raise subprocess.TimeoutExpired(words, timeout)
        return subprocess.CompletedProcess(words, process.returncode, *map(_text, outputs))


def start(words, cwd, env=None):
    """The started Process of `python words…`, both its outputs in one file: for those who want to kill it."""
    import tempfile

    output = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the Process
    with open(os.devnull, "rb") as stdin:
        return Process(_server()["address"], words, cwd, env or _environment(), (stdin, output, output), output)


def python():
    """The path of a command for `python …` (a script, -c or -m) that runs it in a fork. A signal to it is passed on."""
    return _server()["python"]


class Process:
    """A script in a fork of the server. It is killed when this object's process ends before it."""

    def __init__(self, address, words, cwd, env, streams, output=None):
        self._connection, self._output, self.returncode = socket.socket(socket.AF_UNIX), output, None
        self._connection.connect(address)
        request = json.dumps([[str(word) for word in words], str(cwd), dict(env)]).encode()
        descriptors = [stream if isinstance(stream, int) else stream.fileno() for stream in streams]
        socket.send_fds(self._connection, [struct.pack("q", len(request))], descriptors)
        self._connection.sendall(request)
        self.pid, = struct.unpack("q", _read(self._connection, 8))

    def poll(self, seconds=0):
        """The exit status, negative after a signal; None if it has not ended in so many seconds (None: wait for it)."""
        if self.returncode is None and select.select([self._connection], [], [], seconds)[0]:
            self.returncode = os.waitstatus_to_exitcode(struct.unpack("q", _read(self._connection, 8))[0])
            self._connection.close()
        return self.returncode

    def wait(self):
        return self.poll(None)

    def send_signal(self, number):
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def output(self):
        """What it has written so far, to both streams."""
        return _text(self._output)


def client(address):
    """The process of the command `python()`: it ends as the script ends."""
    process = Process(address, sys.argv[1:], os.getcwd(), os.environ, (0, 1, 2))
    for number in FORWARDED:
        signal.signal(number, lambda number, _: process.send_signal(number))
    if (code := process.wait()) < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)


def _environment():
    return {name: value for name, value in os.environ.items() if name != "COLUMNS"}  # pytest-xdist's


def _text(file):
    file.flush()
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="backslashreplace")


def _read(connection, count):
    content = b""
    while len(content) < count:
        part = connection.recv(count - len(content))
        if not part:
            raise EOFError("the other end is gone")
        content += part
    return content


# ---- the server ----

def _server():
    """{address, python} of this process's server, which ends when this process does."""
    if started.get("pid") != os.getpid():
        import atexit
        import shutil
        import subprocess
        import tempfile

        folder = tempfile.mkdtemp(prefix="forked-")
        address, command = os.path.join(folder, "socket"), os.path.join(folder, "python")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen(64)
            alive, ours = os.pipe()
            words = [sys.executable, __file__, str(listener.fileno()), str(alive), command]
            subprocess.Popen(words, pass_fds=(listener.fileno(), alive), stdin=subprocess.DEVNULL)
            os.close(alive)
        with open(os.open(command, os.O_CREAT | os.O_WRONLY, 0o755), "w") as file:
            file.write(CLIENT.format(python=sys.executable, folder=os.path.dirname(__file__), address=address))
        started.update(pid=os.getpid(), alive=ours, address=address, python=command)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return started


def serve(listener, alive, command):
    """Fork for each connection, until the process that holds the other end of the pipe `alive` ends."""
    import importlib

    for name in PRELOADED:
        importlib.import_module(name)
    sys.executable = command
    sys.path.pop(0)  # tests/
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, _reap)
    while alive not in select.select([listener, alive], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            os.close(alive)
            _attend(connection)
            os._exit(0)
        connection.close()


def _reap(*_):
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _attend(connection):
    """Start the script that is asked for; say its process id and, at the end, its status. Who leaves has it killed."""
    size, streams, _, _ = socket.recv_fds(connection, 8, 3)
    words, cwd, env = json.loads(_read(connection, struct.unpack("q", size)[0]))
    ended, ends = os.pipe()
    os.set_blocking(ends, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # what counts is the byte in the pipe
    signal.set_wakeup_fd(ends)
    script = os.fork()
    if script == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        connection.close()
        _become(words, cwd, env, streams)
    for stream in streams:
        os.close(stream)
    try:
        connection.sendall(struct.pack("q", script))
        gone = connection in select.select([connection, ended], [], [])[0]
    except OSError:
        gone = True
    if gone:
        os.kill(script, signal.SIGKILL)
    status = os.waitpid(script, 0)[1]
    with contextlib.suppress(OSError):
        connection.sendall(struct.pack("q", status))


def _become(words, cwd, env, streams):
    import runpy
    import traceback

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    unbuffered = words[0] == "-u"  # torchrun's
    words = words[unbuffered:]
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty(), write_through=unbuffered)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if threads := env.get("OMP_NUM_THREADS"):  # too late for OpenMP to read it
        import torch

        torch.set_num_threads(int(threads))
    sys.path[0:0] = [os.path.abspath(path) for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    code = 1
    try:
        if words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            sys.path.insert(0, "")
            exec(words[1], {"__name__": "__main__"})
        elif words[0] == "-m":
            sys.argv = words[1:]
            sys.path.insert(0, os.getcwd())
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            sys.path.insert(0, os.path.dirname(os.path.realpath(words[0])))
            runpy.run_path(words[0], run_name="__main__")
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), sys.argv[3])
