"""A run or a sweep as one HTML page that needs nothing else: no network, no file beside it, no script but a few lines.

run.py and sweep.py say what stands on it, document.py makes it a page, live.py serves it while a run goes on. Not here:
figures (figures/), numbers and sentences (results/).
"""

from __future__ import annotations

from pathlib import Path

from testbed.errors import MachineError
from testbed.figures.style import write_both
from testbed.page import run, sweep
from testbed.page.document import render
from testbed.runfolder import RunFolder


def write(folder: Path, target: Path) -> int:
    """The page of the run or the sweep in `folder`, into the file `target`; its size in bytes. Raises NoRunError where
    neither lies there, MachineError where the file cannot be written."""
    if not target.absolute().parent.is_dir():  # said before the drawing, not after it
        raise MachineError(f"{target} cannot be written: there is no such folder", remedy="name another file with `-o`")
    found = sweep.page_of(folder) if sweep.is_sweep(folder) else run.page_of(RunFolder(folder))
    text = render(found).encode()
    try:
        target.write_bytes(text)
    except OSError as error:
        raise MachineError(
            f"{target} cannot be written: {error.strerror}", remedy="name another file with `-o`"
        ) from error
    return len(text)


def write_figures(folder: RunFolder, target: Path) -> list[Path]:
    """Every figure of a run, as SVG and PNG; raises as `write` does."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        return [path for drawn in run.all_figures(run.read_story(folder)) for path in write_both(drawn, target)]
    except OSError as error:
        raise MachineError(f"{target} cannot be written: {error.strerror}") from error
