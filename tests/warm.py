"""A Python that starts in a moment: a server has imported all that takes long, and forks a process for each program.

``python()`` is the path of an executable that takes what Python takes: ``SCRIPT ARGS``, ``-c CODE``, ``-m MODULE`` or ``-``; before it
``-W ignore`` and ``-u``. Arguments, environment, folder, standard streams, signals and exit code are as with Python. What it cannot
do so (other options, ``-m pip``), it hands to the real one. ``subprocess`` starts it, and so does a shell in which its folder comes
first in PATH.

A process is as new, but for what the imports left: the server runs nothing and has one thread. What must show that the imports of a
new interpreter work, uses ``sys.executable``.

In this file: what tests call; the executable, ``_client``, which imports next to nothing; the server, ``_serve``; a process, ``_run``.
"""
import os
import socket
import sys

FORWARDED = 'SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGTERM', 'SIGUSR1', 'SIGUSR2'
_server = None


def python() -> str:
    """The path of the executable. The first call of a process starts the server."""
    global _server
    if _server is None:
        _server = _Server()
    return _server.executable


def run(*args, timeout: float = 300, **kwargs):
    """``subprocess.run`` of ``python -W ignore ARGS``; what it prints is in the result, as text."""
    import subprocess
    return subprocess.run([python(), '-W', 'ignore', *map(str, args)], capture_output=True, text=True, timeout=timeout, **kwargs)


def stop() -> None:
    """Ends the server, if there is one, and the processes that it still has."""
    global _server
    if _server is not None:
        _server.stop()
        _server = None


class _Server:

    def __init__(self):
        import shlex
        import subprocess
        import tempfile
        from pathlib import Path
        self._folder = tempfile.TemporaryDirectory(prefix='warm')
        folder = Path(self._folder.name)
        self.executable, address = str(folder / 'python'), str(folder / 'socket')
        client = shlex.join([sys.executable, '-I', '-S', __file__, '--client', address, sys.executable])
        Path(self.executable).write_text(f'#!/bin/sh\nexec {client} "$@"\n')
        Path(self.executable).chmod(0o755)
        (folder / 'python3').symlink_to('python')
        # it ends when its standard input does, at the latest with this process
        self._process = subprocess.Popen([sys.executable, __file__, '--serve', address, self.executable], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, start_new_session=True,
                                         env=dict(os.environ, OPENBLAS_NUM_THREADS='1'))  # its threads would not be there after a fork
        if b'ready\n' not in self._process.stdout:  # after lines that imports have printed, as the forks' do
            raise RuntimeError(f'The server of tests/warm.py ended with {self._process.wait()}: stderr says why.')

    def stop(self) -> None:
        self._process.stdin.write(b'end')  # to close it is not enough where a process that was forked since has it too
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(30)
        finally:
            self._process.kill()
            self._folder.cleanup()


def _client(address: str, real: str, *argv: str) -> None:
    """Hands everything to the server, later signals too, and ends as the process there does."""
    import json
    import signal
    i = 0
    while argv[i:i + 1] == ('-u', ) or argv[i:i + 2] == ('-W', 'ignore'):
        i += 1 if argv[i] == '-u' else 2
    options, rest = argv[:i], argv[i:]
    cold = rest[:2] == ('-m', 'pip') or not (rest and (rest[0] in ('-', '-c', '-m') or os.path.isfile(rest[0])))
    if not cold:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address)
        for name in FORWARDED:
            number = getattr(signal, name)
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, frame: connection.sendall(bytes([number])))
        request = json.dumps(dict(argv=rest, options=options, cwd=os.getcwd(), env=dict(os.environ))).encode()
        socket.send_fds(connection, [len(request).to_bytes(8, 'big')], [0, 1, 2])
        connection.sendall(request)
        reply = connection.recv(64)
        if not reply:
            sys.exit('error: the server of tests/warm.py is gone')
        cold = reply == b'cold'
    if cold:
        os.execv(real, [real, *argv])
    code = int(reply)
    if code < 0:  # a signal
        if -code != signal.SIGKILL:  # whose action cannot be set
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _import() -> dict:
    """All that the tools take long to import; returns the variables that count when it is imported."""
    from contextlib import suppress
    from importlib import import_module
    os.environ['PYTORCH_NVML_BASED_CUDA_CHECK'] = '1'  # a driver that is in use does not survive a fork
    tests = os.path.dirname(os.path.abspath(__file__))
    sys.path[:1] = [os.path.dirname(tests), tests]  # this checkout's slak_mm
    import slak_mm  # noqa: F401
    for library in ('mmpretrain', 'mmseg', 'mmdet'):
        with suppress(ImportError):
            import_module(f'{library}.utils').register_all_modules(False)
            import_module(f'{library}.apis')
    for name in ('matplotlib.backends.backend_agg', 'matplotlib.pyplot', 'onnx', 'onnxscript', 'rich.progress', 'sklearn.metrics',
                 'slak_mm.checks', 'torch._dynamo', 'torch.distributed.run', 'torch.onnx', 'torch.utils.cpp_extension',
                 'torch.utils.serialization', 'torch.utils.tensorboard'):
        with suppress(ImportError):
            import_module(name)
    import torch
    from mmengine.config import Config
    from remembered import remember
    remember()
    for name in ('slak_t_300e_in1k', 'upernet_slak_t_160k_ade20k', 'faster_rcnn_slak_t_36e_voc07'):
        with suppress(ImportError, OSError):
            Config.fromfile(os.path.join(sys.path[0], f'configs/{name}.py'))  # of each library, so that its index is read
    sys.path.pop(1)
    names = ['MPLBACKEND', 'PYTHONHASHSEED'] + ['CUDA_VISIBLE_DEVICES'] * torch.cuda.is_available()
    return {name: os.environ.get(name) for name in names}


def _serve(address: str, fixed: dict) -> dict:
    """Returns in each new process, with the arguments of ``_run``. In the server itself it only exits.

    Args:
        address (str): Of the socket.
        fixed (dict): Variables that can have no other value in a process.
    """
    import gc
    import json
    import selectors
    import signal
    from contextlib import suppress
    listener, (reaper, wakeup) = socket.socket(socket.AF_UNIX), socket.socketpair()
    listener.bind(address)
    listener.listen(64)
    reaper.setblocking(False)
    wakeup.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    selector = selectors.DefaultSelector()
    for source in (sys.stdin, listener, reaper):
        selector.register(source, selectors.EVENT_READ)
    connections = {}  # by process
    threads = '/proc/self/task'
    if os.path.isdir(threads) and len(os.listdir(threads)) > 1:
        sys.exit('error: an import has started a thread, which is not there after a fork')
    gc.collect()
    gc.freeze()  # a collection in a process would copy each page that it shares
    os.write(1, b'ready\n')

    def kill(pid: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)

    def receive(connection: socket.socket) -> tuple:
        connection.settimeout(30)
        size, descriptors, _, _ = socket.recv_fds(connection, 8, 3)
        with connection.makefile('rb') as file:
            return descriptors, json.loads(file.read(int.from_bytes(size, 'big')))

    def reply(connection: socket.socket, answer) -> None:
        with connection, suppress(OSError):  # a client that was killed does not wait
            connection.sendall(str(answer).encode())

    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                for pid in connections:
                    kill(pid)
                os._exit(0)
            elif key.fileobj is listener:
                connection, _ = listener.accept()
                try:
                    descriptors, request = receive(connection)
                except (OSError, ValueError):  # the client was killed
                    connection.close()
                    continue
                pid = None
                if all(request['env'].get(name) == value for name, value in fixed.items()):
                    pid = os.fork()
                    if pid == 0:
                        signal.set_wakeup_fd(-1)
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        os.setpgid(0, 0)
                        for each in (selector, listener, reaper, wakeup, connection, *connections.values()):
                            each.close()
                        return dict(request, descriptors=descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)
                if pid is None:
                    reply(connection, 'cold')
                else:
                    with suppress(OSError):  # it did so itself
                        os.setpgid(pid, pid)
                    connections[pid] = connection
                    selector.register(connection, selectors.EVENT_READ, pid)
            elif key.fileobj is reaper:
                reaper.recv(4096)
                for pid, connection in list(connections.items()):
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    if ended:
                        del connections[pid]
                        with suppress(KeyError):
                            selector.unregister(connection)
                        reply(connection, os.waitstatus_to_exitcode(status))
            elif key.data in connections:
                signals = key.fileobj.recv(64)
                for number in signals:
                    os.kill(key.data, number)  # it is not reaped yet, so there is such a process
                if not signals:  # the client was killed
                    kill(key.data)
                    selector.unregister(key.fileobj)


def _run(executable: str, descriptors: list, argv: list, options: list, cwd: str, env: dict) -> None:
    """What the interpreter does from its start to its end, when this returns or raises."""
    import linecache
    import random
    import runpy
    import types
    import warnings

    import numpy as np
    import torch
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.chdir(cwd)
    if env.get('OMP_NUM_THREADS') != os.environ.get('OMP_NUM_THREADS'):
        torch.set_num_threads(int(env.get('OMP_NUM_THREADS') or os.cpu_count()))
    own_paths = os.environ.get('PYTHONPATH', '').split(os.pathsep)
    os.environ.clear()
    os.environ.update(env)
    sys.executable = executable
    if os.isatty(1) or '-u' in options or 'PYTHONUNBUFFERED' in env:
        sys.stdout.reconfigure(line_buffering=True)
    if 'ignore' in options or env.get('PYTHONWARNINGS') == 'ignore':
        warnings.simplefilter('ignore', append=True)  # after what libraries have set since the start
        sys.warnoptions.append('ignore')
    random.seed()
    np.random.seed()

    main = types.ModuleType('__main__')
    first, *rest = argv
    sys.argv = argv
    sys.path[:1] = [dict.fromkeys(('-', '-c'), '').get(first, cwd if first == '-m' else os.path.dirname(os.path.realpath(first)))]
    sys.path[1:1] = [path for path in env.get('PYTHONPATH', '').split(os.pathsep) if path and path not in own_paths]
    if first == '-m':
        sys.argv = rest  # runpy puts the module's path in place of its name
        return runpy.run_module(rest[0], run_name='__main__', alter_sys=True)
    if first == '-c':
        code, path = rest.pop(0), '<string>'
        if sys.version_info >= (3, 13):  # tracebacks show its lines
            linecache.cache[path] = len(code), None, code.splitlines(True), path
        sys.argv = ['-c', *rest]
    elif first == '-':
        code, path = sys.stdin.read(), '<stdin>'
    else:
        with open(first, 'rb') as file:
            code, path = file.read(), first
        main.__file__ = path
    main.__builtins__ = __builtins__
    sys.modules['__main__'] = main
    exec(compile(code, path, 'exec'), main.__dict__)


def _end(error) -> None:
    """Ends the process as the interpreter does, but does not free what the server still has."""
    import atexit
    import signal
    import threading
    code = 0
    if isinstance(error, SystemExit):
        code = error.code
        if not isinstance(code, (int, type(None))):
            sys.stderr.write(f'{code}\n')
            code = 1
    elif error is not None:
        error.__traceback__ = error.__traceback__.tb_next.tb_next  # without the frames of this file
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    threading._shutdown()  # waits for all but daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()
    if isinstance(error, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit((code or 0) & 255)


if __name__ == '__main__':
    role, *arguments = sys.argv[1:]
    if role == '--client':
        _client(*arguments)
    else:
        process = _serve(arguments[0], _import())
        try:
            _run(arguments[1], **process)
            error = None
        except BaseException as raised:
            error = raised
        _end(error)
