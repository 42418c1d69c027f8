"""Figures of runs, readable in print and by all eyes. matplotlib's door.

style.py says how all of them look, story.py is a run as they tell it; every other file draws one. Not here: numbers and
sentences (results/), the page that shows them all (page/).
"""

from __future__ import annotations

from pathlib import Path

from testbed.figures import training
from testbed.figures.story import Story
from testbed.figures.style import write_both
from testbed.runfolder import RunFolder


def plot(folder: RunFolder) -> list[Path]:
    """The picture that every run ends with: accuracy.svg and accuracy.png in its folder; their paths, none if nothing
    was evaluated.

    Drawn from the journals alone, so that it can be drawn again; it says the achieved loss where summary.json is there.
    """
    drawn = training.draw(Story.read(folder))
    return write_both(drawn, folder.path) if drawn else []
