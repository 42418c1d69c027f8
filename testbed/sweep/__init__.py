"""A sweep: many runs of one plan, each with other settings or another seed, and the one table that comes of them.

grid.py says which points there are, state.py where they lie, runner.py and worker.py carry them out, row.py and
table.py make the table, pictures.py says what there is to draw, sentences.py tells a person. Not here: how one run is
carried out (supervisor/).
"""
