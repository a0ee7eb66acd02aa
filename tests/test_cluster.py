"""Sampling by a dask cluster: the trajectories of one process to the last bit, whichever workers die."""

import _thread
import logging
import os
import signal
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from symstride.cli import app
from symstride.data.files import locked
from symstride.data.reference import steps_in_all
from symstride.data.sample import sample
from symstride.errors import ConfigError, DataError
from test_sample import Springs, config, same, springs

distributed = pytest.importorskip("distributed", reason="needs the extra dask")


class Mortal(Springs):
    """Takes its process with it at the 45th force, as often as there are notes to do so in `folder`."""

    def __init__(self, folder):
        super().__init__()
        self.folder = Path(folder)

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        notes = sorted(self.folder.glob("*.note")) if self.calls == 45 else []
        for note in notes[:1]:
            note.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


def mortal(tmp_path, **changes):
    calculator = {"import": "test_cluster:Mortal", "arguments": {"folder": str(tmp_path)}}
    settings = {"trajectories": 2, "segment_frames": 2, "temperature_K": [300, 200]} | changes
    return config(tmp_path, **springs(tmp_path) | {"calculator": calculator}, **settings)


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        memory_limit=0,
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster


def test_a_worker_that_dies_changes_nothing(tmp_path, cluster):
    cfg, seen = mortal(tmp_path), []
    (tmp_path / "a.note").write_text("")
    paths = sample(cfg, lambda done, total: seen.append((done, total)), cluster.scheduler_address)
    assert not list(tmp_path.glob("*.note"))
    assert seen[-1] == (2 * steps_in_all(cfg), 2 * steps_in_all(cfg))
    for a, b in zip(paths, sample(cfg.model_copy(update={"output": tmp_path / "one"})), strict=True):
        same(a, b)


def test_a_trajectory_at_which_workers_keep_dying(tmp_path, cluster, monkeypatch):
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    cfg = mortal(tmp_path, trajectories=1)
    (tmp_path / "a.note").write_text("")
    with pytest.raises(DataError, match=r"trajectory 0: its worker died, 1 times in all, .* on 127\.0\.0\.1"):
        sample(cfg, cluster=cluster.scheduler_address)
    assert list(cfg.output.glob("0000.part/*.npz"))
    assert len(sample(cfg, cluster=cluster.scheduler_address)) == 1


def test_a_calculator_that_fails_is_no_death(tmp_path, cluster):
    cfg = config(tmp_path, **springs(tmp_path, fail_at=45), trajectories=2)
    message = r"trajectory \d: the calculator failed .*SCF did not converge.* \(1 more trajectories failed\)"
    with pytest.raises(DataError, match=message):
        sample(cfg, cluster=cluster.scheduler_address)


def test_control_c_stops_the_jobs(tmp_path, cluster):
    cfg = config(tmp_path, length_ps=1000)
    with pytest.raises(KeyboardInterrupt):
        sample(cfg, lambda done, total: _thread.interrupt_main(), cluster.scheduler_address)
    with locked(cfg.output / "0000.part"):
        assert not (cfg.output / "0000.h5").exists()


def test_workers_with_several_threads_are_refused(tmp_path):
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
        ) as threads,
        pytest.raises(ConfigError, match="has 2 threads; start workers with one"),
    ):
        sample(config(tmp_path), cluster=threads.scheduler_address)


def test_no_such_cluster(tmp_path, monkeypatch):
    monkeypatch.setattr("symstride.data.cluster.PATIENCE", 0.2)
    with pytest.raises(ConfigError, match="cluster: lokal is not right"):
        sample(config(tmp_path), cluster="lokal")
    with pytest.raises(ConfigError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9"):
        sample(config(tmp_path), cluster="tcp://127.0.0.1:9")
    with pytest.raises(ConfigError, match="no scheduler answers at magic://nowhere"):
        sample(config(tmp_path), cluster="magic://nowhere")


def test_the_command_makes_a_cluster_of_its_own(tmp_path):
    cfg = config(tmp_path)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(cfg.model_dump(mode="json", exclude_none=True)))
    done = CliRunner().invoke(app, ["sample", str(tmp_path / "c.yaml"), "--cluster", "local"])
    assert done.exit_code == 0, done.stderr
    same(cfg.output / "0000.h5", sample(cfg.model_copy(update={"output": tmp_path / "one"}))[0])
