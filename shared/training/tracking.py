"""Where the course of a run can be watched: metrics.jsonl, TensorBoard, MLflow.

A run that goes on after a kill repeats what its last checkpoint had not seen. So metrics.jsonl is cut back to the
length it had then, TensorBoard is told to forget later steps, and MLflow's run is opened again by its id.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog

from shared.errors import HaechiError
from shared.training.checkpoint import METRICS, State
from shared.training.config import TrainConfig

_log = structlog.get_logger(__name__)
_EVERY = 1.0
"""Seconds between two values of the loss in TensorBoard."""


class Tracker:
    """Writes one run's figures; one that `writes` nothing is for the processes that do not lead."""

    def __init__(self, folder: Path, config: TrainConfig, state: State, steps: int, *, writes: bool = True) -> None:
        """
        Args:
            state: where the run is; figures from later are taken back. Its MLflow id is set.
            steps: of the optimiser in an epoch: the axis of TensorBoard and MLflow is the step.

        Raises:
            HaechiError: MLflow is asked for and cannot be used.
        """
        self._path = folder / METRICS
        self._steps, self._said = steps, 0.0
        self._writes = writes
        self._board: Any = None
        self._mlflow: Any = None
        self._run = ""
        if not writes:
            return
        self._cut_back(state.metrics_bytes)
        if config.track.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            board = folder / "tensorboard"
            purge = state.epoch * steps + state.step + 1 if board.exists() else None
            self._board = SummaryWriter(str(board), purge_step=purge)
        if config.track.mlflow:
            self._open_mlflow(config, state)

    def step(self, step: int, loss: float, rate: float) -> None:
        """The loss of a step and the head's learning rate; `step` counts from the run's beginning."""
        if self._board is None or time.monotonic() - self._said < _EVERY:
            return
        self._said = time.monotonic()
        self._board.add_scalar("step/loss", loss, step)
        self._board.add_scalar("step/lr", rate, step)

    def epoch(self, record: Mapping[str, Any]) -> int:
        """Write an epoch's record (with `epoch`, `loss`, `lr`, `seconds` and `metrics`).

        Returns:
            the length of metrics.jsonl after it, in bytes; 0 where nothing is written.
        """
        if not self._writes:
            return 0
        with self._path.open("ab") as handle:
            handle.write((json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode())
            length = handle.tell()
        step = int(record["epoch"]) * self._steps
        figures = {"loss": record["loss"], "lr": record["lr"]}
        figures |= {f"validation/{name}": value for name, value in record["metrics"].items()}
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()
        self._tell(lambda client: [client.log_metric(self._run, name, figures[name], step=step) for name in figures])
        return length

    def close(self, *, finished: bool) -> None:
        """Nothing more will come; `finished` says whether the run came to its end."""
        if self._board is not None:
            self._board.close()
        self._tell(lambda client: client.set_terminated(self._run, "FINISHED" if finished else "KILLED"))

    def _tell(self, work: Callable[[Any], Any]) -> None:
        """A server that goes away in the night must not end the training: it is said once, and left alone."""
        if self._mlflow is None:
            return
        try:
            with _mlflow_errors():
                work(self._mlflow)
        except HaechiError as error:
            _log.warning("no more is sent to MLflow", reason=str(error))
            self._mlflow = None

    def _cut_back(self, length: int) -> None:
        if self._path.exists() and self._path.stat().st_size > length:
            os.truncate(self._path, length)

    def _open_mlflow(self, config: TrainConfig, state: State) -> None:
        if config.track.mlflow.startswith("file:"):
            # Newer versions refuse plain folders unless told that they are wanted; a folder needs no server.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise HaechiError(
                "track.mlflow needs MLflow, which is not installed; "
                'install the extra (python -m pip install "haechi[tracking]") or leave track.mlflow out.'
            ) from error
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        with _mlflow_errors():
            self._mlflow = MlflowClient(tracking_uri=config.track.mlflow)
            if state.mlflow:
                self._run = state.mlflow
                self._mlflow.update_run(self._run, status="RUNNING")
                return
            found = self._mlflow.get_experiment_by_name(config.track.experiment)
            experiment = found.experiment_id if found else self._mlflow.create_experiment(config.track.experiment)
            run = self._mlflow.create_run(experiment, run_name=config.name or None)
            self._run = state.mlflow = run.info.run_id
            for name, value in _flat(config.model_dump(mode="json")):
                self._mlflow.log_param(self._run, name, str(value)[:500])


def _flat(value: Mapping[str, Any], key: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{key}{name}.")
        else:
            yield f"{key}{name}", item


@contextlib.contextmanager
def _mlflow_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # MLflow's own, its HTTP client's, its database's
        raise HaechiError(f"MLflow (track.mlflow) failed: {str(error).splitlines()[0]}") from error
