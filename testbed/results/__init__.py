"""What came out of a run: read from its journals, judged, put into sentences. Pictures are report.py's.

records.py reads a run's folder, delivery.py holds what the network did against what was asked, summary.py puts both
together, sentences.py says it to a person. What every field means: docs/results.md.
"""

from testbed.results.delivery import Delivery, PairDelivery
from testbed.results.records import FaultWindow, Records
from testbed.results.sentences import render
from testbed.results.summary import Summary, insist_on_the_network, read_summary, summarise, write_summary

__all__ = [
    "Delivery",
    "FaultWindow",
    "PairDelivery",
    "Records",
    "Summary",
    "insist_on_the_network",
    "read_summary",
    "render",
    "summarise",
    "write_summary",
]
