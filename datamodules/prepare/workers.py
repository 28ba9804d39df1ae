"""Worker processes that end at once: on Ctrl-C after the image in hand, and with their parent if it is killed."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.synchronize import Event
from typing import TypeVar

from datamodules.shard_index import ShardError

Task = TypeVar("Task")
Result = TypeVar("Result")

_stop: Event | None = None


class Stopped(Exception):
    """Raised in a worker whose run was interrupted."""


def check_stop() -> None:
    """To be called often by a task: raises `Stopped` when the run was interrupted."""
    if _stop is not None and _stop.is_set():
        raise Stopped


def in_order_of_completion(function: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """function(task) of every task; with one worker in this process, otherwise in `workers` processes.

    Tasks are drawn as workers become free, so a long list of them need not exist at once. An exception in a task
    is raised here and ends the others. Raises ShardError where a worker process was killed.
    """
    if workers == 1:
        yield from map(function, tasks)
        return
    stop = multiprocessing.Event()
    pool = ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(stop,))
    try:
        yield from _results(pool, function, iter(tasks), 2 * workers)
    except BrokenProcessPool:
        raise ShardError("a worker process died (out of memory?): run the same command again to go on") from None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _results(
    pool: ProcessPoolExecutor, function: Callable[[Task], Result], tasks: Iterator[Task], ahead: int
) -> Iterator[Result]:
    pending: set[Future[Result]] = {pool.submit(function, task) for task in islice(tasks, ahead)}
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        pending |= {pool.submit(function, task) for task in islice(tasks, len(done))}
        for future in done:
            yield future.result()


def _start_worker(stop: Event) -> None:
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent passes a Ctrl-C on by `stop`
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
