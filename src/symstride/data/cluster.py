"""Reference trajectories made by the workers of a dask cluster, on this machine or on others."""

import logging
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from symstride.data.config import SampleConfig
from symstride.data.reference import sample_one, steps_in_all
from symstride.errors import ConfigError, DataError, SymstrideError

if TYPE_CHECKING:
    from distributed import Client, Worker  # pyright: ignore[reportMissingImports]

PATIENCE = 30  # seconds for a scheduler to answer
INTERVAL = 1.0  # seconds from one report of a job to the next


def on_cluster(
    config: SampleConfig, where: str, report: Callable[[int, int], None]
) -> Generator[Path | SymstrideError, None, None]:
    """Makes each trajectory as one job of a dask cluster; yields their files, or what went wrong.

    `where` is `local` (as many processes here as `config.processes`), the address of a scheduler such as
    `tcp://host:8786`, or the file that it writes. `report` is told the number of a trajectory and its steps
    done so far. Workers run one job at a time, and see the current directory and the output by the same
    paths. Jobs whose worker died are given to another one, as often as the scheduler allows
    (`distributed.scheduler.allowed-failures`), and go on from the last completed segment. Jobs stop when the
    iterator is closed, or when this process is gone.

    Raises ConfigError if dask is not installed or no scheduler answers.
    """
    try:
        from distributed import CancelledError, KilledWorker, as_completed  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("cluster: needs dask: pip install 'symstride[dask]'") from error
    topic = f"symstride-{uuid4().hex}"
    with _client(where, min(config.processes, config.trajectories)) as client:
        client.subscribe_topic(topic, lambda event: report(*event[1]))
        jobs = {
            client.submit(_job, config, index, Path.cwd(), topic, key=f"{topic}-{index:04d}"): index
            for index in range(config.trajectories)
        }
        try:
            for job in as_completed(jobs):
                index, again = jobs[job], "run again to go on"
                try:
                    path = job.result()
                    report(index, steps_in_all(config))
                    yield path
                except SymstrideError as error:
                    yield error
                except KilledWorker as error:
                    yield DataError(
                        f"trajectory {index}: its worker died, {error.allowed_failures + 1} times in all, the"
                        f" last time on {error.last_worker.host} (out of memory or of time?); {again}"
                    )
                except CancelledError:
                    yield DataError(f"trajectory {index}: the scheduler is gone; {again}")
                except Exception as error:
                    message = " ".join(str(error).split()) or "no message"
                    yield DataError(
                        f"trajectory {index}: its worker could not begin ({type(error).__name__}: {message});"
                        " workers need the same symstride and calculator as are here"
                    )
        finally:
            client.cancel(list(jobs))


@contextmanager
def _client(where: str, workers: int) -> Iterator["Client"]:
    from distributed import Client, LocalCluster  # pyright: ignore[reportMissingImports]

    if where == "local":
        options = {"n_workers": workers, "threads_per_worker": 1, "memory_limit": 0, "preload": __name__}
        with (
            LocalCluster(**options, dashboard_address=":0", silence_logs=logging.CRITICAL) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    if "://" not in where and not Path(where).exists():
        raise ConfigError(
            f"cluster: {where} is not right: local, the address of a scheduler (tcp://host:8786) or the file"
            " that it writes"
        )
    given: dict[str, Any] = {"address": where} if "://" in where else {"scheduler_file": where}
    try:
        client = Client(**given, timeout=PATIENCE, name="symstride")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cluster: no scheduler answers at {where} ({error})") from error
    with client:
        yield client


def dask_setup(worker: "Worker") -> None:
    """What dask calls in each process of a cluster of our own: Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _job(config: SampleConfig, index: int, folder: Path, topic: str) -> Path:
    """On a worker: trajectory `index`, made in `folder`."""
    from distributed import get_worker  # pyright: ignore[reportMissingImports]

    worker = get_worker()
    key, told = worker.get_current_task(), time.monotonic()
    if worker.state.nthreads > 1:
        raise ConfigError(
            f"cluster: a worker on {worker.ip} has {worker.state.nthreads} threads; start workers with one"
            " (--nthreads 1): a calculator may be anything"
        )
    if not (folder.is_dir() and (folder / config.output / "sample.json").exists()):
        raise DataError(
            f"{folder / config.output}: not seen by the worker on {worker.ip}; work in a directory that all"
            " machines share"
        )
    os.chdir(folder)

    def report(steps: int) -> None:
        nonlocal told
        if time.monotonic() > told + INTERVAL:
            told = time.monotonic()
            worker.log_event(topic, [index, steps])

    def stopped() -> bool:
        task = worker.state.tasks.get(key)  # known as cancelled once nobody waits for it
        return task is None or task.state != "executing"

    return sample_one(config, index, report, stopped)
