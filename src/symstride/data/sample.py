"""Many reference trajectories from one configuration, in turn, in processes or on a cluster, safe to kill and
to repeat."""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from symstride.data.calculators import make_calculator
from symstride.data.config import SampleConfig, differences
from symstride.data.files import replacing
from symstride.data.reference import UnphysicalError, build_structure, sample_one, steps_in_all
from symstride.errors import ConfigError, DataError, SymstrideError

Report = Callable[[int, int], None]  # a trajectory's number, and its steps done
Outcomes = Generator[Path | SymstrideError, None, None]
Progress = Callable[[int, int], None]  # steps done, steps in all
_FREE_KEYS = {
    "output",
    "processes",
    "trajectories",
    "max_drift_mev_per_atom_per_ps",
}  # may change on resuming


def sample(
    config: SampleConfig, progress: Progress = lambda done, total: None, cluster: str | None = None
) -> list[Path]:
    """Makes, or goes on making, `config.output/0000.h5` and so on; returns their paths.

    `cluster` is that of dask whose workers are to make them (see `on_cluster`); None: processes of this one.

    Stopped or killed at any moment, a second call goes on from the last completed segment, and the result is
    that of an uninterrupted run to the last bit (if the calculator is deterministic and its `reset` forgets
    everything). Finished trajectories are kept as they are. With more than one process, call it under
    `if __name__ == "__main__":`.

    Raises ConfigError if the directory holds trajectories of another configuration; DataError if the
    calculator fails (the other trajectories are finished first) or the energy drifts (kept as
    `0000.refused.h5`, and the others stop). What was sampled until then stays.
    """
    make_calculator(config.calculator)
    build_structure(config.structure)
    _claim(config)
    done, total = [0] * config.trajectories, config.trajectories * steps_in_all(config)

    def report(index: int, steps: int) -> None:
        done[index] = steps
        progress(sum(done), total)

    paths: list[Path] = []
    failures: list[SymstrideError] = []
    with closing(_outcomes(config, report, cluster)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, UnphysicalError):
                raise outcome
            if isinstance(outcome, SymstrideError):
                failures.append(outcome)
            else:
                paths.append(outcome)
    if failures:
        others = f" ({len(failures) - 1} more trajectories failed)" if len(failures) > 1 else ""
        raise type(failures[0])(f"{failures[0]}{others}") from failures[0]
    return sorted(paths)


def _outcomes(config: SampleConfig, report: Report, cluster: str | None) -> Outcomes:
    """The file of each trajectory, or what went wrong with it, as they come."""
    if cluster:
        from symstride.data.cluster import on_cluster

        return on_cluster(config, cluster, report)
    unfinished = sum(not (config.output / f"{n:04d}.h5").exists() for n in range(config.trajectories))
    return (_in_turn if min(config.processes, unfinished) <= 1 else _in_processes)(config, report)


def _claim(config: SampleConfig) -> None:
    """Records the configuration in its output directory; refuses a directory made with another one."""
    path = config.output / "sample.json"
    ours = config.model_dump(mode="json", by_alias=True, exclude=_FREE_KEYS)
    if config.structure.file:
        ours["structure"]["sha256"] = _digest(config.structure.file)
    if config.calculator.name == "openmm" and (read := _files_of(config)):  # others may write theirs
        ours["calculator"]["sha256"] = {str(file): _digest(file) for file in read}
    if not path.exists():
        with replacing(path) as file:
            file.write(json.dumps(ours, indent=1).encode())
        return
    try:
        theirs = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged ({error}); use another output directory") from error
    for key, was, now in differences(theirs, ours):
        raise ConfigError(
            f"output: {config.output} was made with {key} = {was}, the configuration now says {now};"
            " use another directory"
        )


def _files_of(config: SampleConfig) -> list[Path]:
    """What the calculator's arguments name, as far as they are files."""
    values = config.calculator.arguments.values()
    names = [n for value in values for n in (value if isinstance(value, list) else [value])]
    return [Path(n) for n in names if isinstance(n, str) and Path(n).is_file()]


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _in_turn(config: SampleConfig, report: Report) -> Outcomes:
    for index in range(config.trajectories):
        try:
            path = sample_one(config, index, partial(report, index), lambda: False)
        except SymstrideError as error:
            yield error
        else:
            yield path


def _in_processes(config: SampleConfig, report: Report) -> Outcomes:
    context = multiprocessing.get_context("spawn")
    done = context.Array("q", config.trajectories)
    stop = context.Event()
    workers = min(config.processes, config.trajectories)
    seen = [0] * config.trajectories
    with _single_threaded(), ProcessPoolExecutor(workers, context, _start, (config, done, stop)) as pool:
        pending: set[Future[Path]] = {pool.submit(_work, index) for index in range(config.trajectories)}
        try:
            while pending:
                finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                before, seen = seen, list(done.get_obj())
                for index, steps in enumerate(seen):
                    if steps > before[index]:
                        report(index, steps)
                for future in finished:
                    error = future.exception()
                    if error is not None and not isinstance(error, SymstrideError):
                        raise error
                    yield error or future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a sampling process died (out of memory?); run again, with fewer processes, to go on"
            ) from error
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes started in the block compute on one thread each: they are the parallelism."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]
        os.environ.update(before)


_worker: dict[str, Any] = {}  # what this process was started with


def _start(config: SampleConfig, done: Any, stop: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _worker.update(config=config, done=done, stop=stop)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(index: int) -> Path:
    def report(steps: int) -> None:
        _worker["done"][index] = steps

    return sample_one(_worker["config"], index, report, _worker["stop"].is_set)
