"""The mean model of a run, from the models that all ranks left: `python -m testbed.evaluate RUN-FOLDER [--data DIR]`.

Runs where the ranks ran, after them, because it needs their libraries. For every step at which several ranks left a
snapshot, and for their final models: x̄ = mean_i x_i, its loss and accuracy, the drift max_i ‖x_i − x̄‖₂
and the coordinate diameter Δ = Σ_j (max_i x_ij − min_i x_ij).

Not here: the ranks' own losses and accuracies along the way; those they measured themselves, and what is known is read
from their journals.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from testbed.core.agreement import coordinate_diameter
from testbed.core.blocks import Vector
from testbed.journal import Record, finite, read_journal
from testbed.learning.learner import Evaluation, Learner, build
from testbed.plan import Plan
from testbed.runfolder import Launch, RunFolder


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m testbed.evaluate", description="Evaluate the mean model of a run.")
    parser.add_argument("folder", type=Path, help="the run's folder")
    parser.add_argument("--data", type=Path, help="the prepared data set (default: where the ranks read it)")
    options = parser.parse_args(arguments)
    folder = RunFolder(options.folder)
    plan = Plan.read(folder.plan)
    data = options.data
    if data is None and folder.launch.exists():
        launched = Launch.read(folder.launch).data
        data = Path(launched) if launched else None
    learner = build(
        plan.task, size=plan.size, seed=plan.seed, data=data, device=plan.run.device, threads=plan.run.threads
    )
    evaluate_run(folder, plan, learner)


def evaluate_run(folder: RunFolder, plan: Plan, learner: Learner) -> list[Record]:
    """Writes evaluation.jsonl, all of it or nothing, and answers its rows: ascending steps, the final models last."""
    journals = [read_journal(folder.journal(rank)) for rank in range(plan.size)]
    known = [{int(line["step"]): line for line in _events(journal, "evaluation")} for journal in journals]
    final, end_s = _final(folder, journals)
    rows = [
        _row(models, learner, known)
        for models in _snapshots(folder, plan.size)
        if final is None or models.steps != final.steps  # else they are the same models
    ]
    if final:
        row = _row(final, learner, known)
        rows.append({**row, "at_s": end_s if row["at_s"] is None else row["at_s"], "final": True})
    _write_lines(folder.evaluation, rows)
    return rows


@dataclass(frozen=True, slots=True)
class Models:
    """What several ranks held, by rank, and after which step. Read when needed: all at once may not fit in memory."""

    files: Mapping[int, Path]
    steps: Mapping[int, int]

    def __iter__(self) -> Iterator[Vector]:
        for file in self.files.values():
            yield np.load(file)

    def mean(self) -> Vector:
        """x̄ [d], summed in double precision. Not finite where one of them is not."""
        total: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None
        for x in self:
            total = x.astype(np.float64) if total is None else total + x
        if total is None:
            raise ValueError("the mean of no models")
        return (total / len(self.files)).astype(np.float32)

    def drift(self, mean: Vector) -> float:
        return max(float(np.linalg.norm(x.astype(np.float64) - mean)) for x in self)

    def coordinate_diameter(self) -> float:
        """Δ: the sum over the coordinates of their range over the ranks. With no more than three models in memory."""
        models = iter(self)
        least = next(models)
        most = least.copy()
        for x in models:
            np.minimum(least, x, out=least)
            np.maximum(most, x, out=most)
        return coordinate_diameter(np.stack([least, most]))


def _snapshots(folder: RunFolder, size: int) -> Iterator[Models]:
    """Every step at which at least two ranks left a model; with one rank alone, all of them."""
    by_step: dict[int, dict[int, Path]] = {}
    for rank in range(size):
        for file in (folder.rank(rank) / "snapshots").glob("*.npy"):
            if file.stem.isdecimal():
                by_step.setdefault(int(file.stem), {})[rank] = file
    for step, files in sorted(by_step.items()):
        if len(files) >= min(2, size):
            yield Models(files, dict.fromkeys(files, step))


def _final(folder: RunFolder, journals: Sequence[Sequence[Record]]) -> tuple[Models | None, float | None]:
    """The final models of all ranks that left one, and when the median one of them ended."""
    files = {rank: folder.final(rank) for rank in range(len(journals)) if folder.final(rank).exists()}
    if not files:
        return None, None
    ends = {rank: line for rank in files for line in _events(journals[rank], "end")}
    steps = {rank: int(ends[rank]["step"]) if rank in ends else 0 for rank in files}
    return Models(files, steps), median([float(line["at_s"]) for line in ends.values()]) if ends else None


def _row(models: Models, learner: Learner, known: Sequence[Mapping[int, Record]]) -> Record:
    """One line of evaluation.jsonl. `known`: of each rank, its own evaluations by step."""
    with np.errstate(over="ignore", invalid="ignore"):  # models that have diverged are answered with null
        mean = models.mean()
        drift = models.drift(mean)
        diameter = models.coordinate_diameter()
        evaluation = learner.evaluate(mean) if np.isfinite(mean).all() else Evaluation(math.nan)
        optimum = learner.optimum()
        distance = None if optimum is None else float(np.linalg.norm(mean.astype(np.float64) - optimum))
    lines = {rank: known[rank][step] for rank, step in models.steps.items() if step in known[rank]}
    row: Record = {
        "step": max(models.steps.values()),
        "at_s": median([float(line["at_s"]) for line in lines.values()]) if lines else None,
        "loss": finite(evaluation.loss),
        "accuracy": finite(evaluation.accuracy),
        "drift": finite(drift),
        "coordinate_diameter": finite(diameter),
        "accuracies": [_own_accuracy(file, lines.get(rank), learner) for rank, file in models.files.items()],
        "ranks": list(models.files),
    }
    if optimum is not None:
        row["distance"] = finite(distance)
    return row


def _own_accuracy(file: Path, line: Record | None, learner: Learner) -> float | None:
    """What the rank itself measured of this model; measured now if it never came to that."""
    if line is not None:
        accuracy: float | None = line["accuracy"]
        return accuracy
    x: Vector = np.load(file)
    return finite(learner.evaluate(x).accuracy) if np.isfinite(x).all() else None


def _events(journal: Sequence[Record], event: str) -> Iterator[Record]:
    return (line for line in journal if line["event"] == event)


def _write_lines(path: Path, rows: Sequence[Record]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
    temporary.replace(path)


if __name__ == "__main__":
    main()
