"""What Python programs do, some of it held: prints what came of it, the same whether it was held or not."""

import json
import multiprocessing
import os
import select
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

TOOL, LINE, IN, PORT = "/tmp/r/tool", "/tmp/r/line", "/tmp/r/in", 4019


def run(n):
    return subprocess.run([TOOL, f"run {n}"], capture_output=True, text=True, check=True).stdout


def spawned(*words):
    ours, its = os.pipe()
    to = [(os.POSIX_SPAWN_DUP2, its, 1)]
    pid = os.posix_spawn(words[0], words, os.environ, file_actions=to)
    os.close(its)
    with open(ours) as output:
        return output.read(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def read(n):
    with open(f"{IN}/{n}") as file:
        return file.read()


def connect(n):
    with socket.create_connection(("127.0.0.1", PORT)) as server:
        server.sendall(f"{n}\n".encode())
        return server.makefile().readline()


def poll(stop, polls):
    # A thread that waits in a call which a stop of the whole process ends early.
    with select.epoll() as nothing:
        while not stop.is_set():
            polls.append(nothing.poll(0.05))


def main():
    result, stop, polls = {}, threading.Event(), []
    poller = threading.Thread(target=poll, args=(stop, polls))
    poller.start()
    result["run"] = run(0)
    result["spawn"] = spawned(TOOL, "spawned")
    result["line"] = subprocess.run([LINE, "ask", "line"], capture_output=True, text=True, check=True).stdout
    result["line spawned"] = spawned(LINE, "ask", "spawned")
    result["shell"] = subprocess.run(f"{TOOL} a | cat; exit 7", shell=True, capture_output=True, text=True).returncode
    with ThreadPoolExecutor(4) as pool:
        reads, connects = pool.map(read, range(4)), pool.map(connect, range(4))
        runs = pool.map(run, range(1, 4))
        result["threads"] = [*reads, *connects, *runs]
    stop.set()
    poller.join()
    result["polls"] = [p for p in polls if p]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        result["processes"] = pool.map(read, range(4, 8)) + pool.map(run, range(4, 6))
    print(json.dumps(result, sort_keys=True))


if __name__ == "__main__":
    main()
