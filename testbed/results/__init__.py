"""What came out of a run: read from its journals, judged, put into sentences. Pictures are those of figures/.

records.py reads a run's folder, faults.py says what came over the run, delivery.py holds what the network did against
what was asked, summary.py puts all together, sentences.py says it to a person. What every field means: docs/results.md.
"""

from testbed.results.delivery import Delivery, PairDelivery
from testbed.results.faults import FaultWindow, fault_windows
from testbed.results.findings import render_verification
from testbed.results.records import Records
from testbed.results.sentences import in_sentences, render
from testbed.results.summary import Summary, insist_on_the_network, read_summary, summarise, write_summary

__all__ = [
    "Delivery",
    "FaultWindow",
    "PairDelivery",
    "Records",
    "Summary",
    "fault_windows",
    "in_sentences",
    "insist_on_the_network",
    "read_summary",
    "render",
    "render_verification",
    "summarise",
    "write_summary",
]
