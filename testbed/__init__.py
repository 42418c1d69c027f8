"""testbed: distributed learning on real processes over networks that are really bad."""

__version__ = "0.1.0"
