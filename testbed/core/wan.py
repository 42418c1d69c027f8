"""Round-trip times between regions of a cloud, as its operator published them.

Source: IBM Cloud, "Network latency" of Virtual Private Cloud, inter-region latency, averages in ms over 17 August to
15 September 2024, in github.com/ibm-cloud-docs/vpc, file _include-segments/network-latency.md (read in November 2026).
The page says "average latency"; that it is the round trip follows from light: London to Washington DC is 5900 km, 59 ms
there and back in glass, and the page says 75. The two directions of a pair were measured on their own and differ by up
to 4 ms; here is their mean.
"""

from __future__ import annotations

from collections.abc import Mapping

REGIONS = (
    "dallas", "toronto", "washington", "frankfurt", "london", "madrid", "osaka", "sydney", "tokyo", "sao-paulo",
)  # fmt: skip
_PUBLISHED_MS = (
    (0, 34, 31, 123, 113, 117, 150, 185, 143, 145),
    (34, 0, 19, 92, 82, 109, 169, 215, 161, 130),
    (32, 20, 0, 91, 76, 88, 173, 214, 166, 118),
    (123, 93, 91, 0, 13, 29, 232, 250, 228, 197),
    (113, 83, 75, 13, 0, 27, 244, 261, 242, 187),
    (121, 109, 90, 29, 27, 0, 259, 275, 256, 207),
    (151, 168, 175, 232, 244, 258, 0, 122, 9, 292),
    (186, 214, 216, 250, 261, 275, 122, 0, 115, 327),
    (143, 162, 166, 231, 242, 257, 9, 115, 0, 284),
    (146, 130, 119, 198, 187, 205, 290, 328, 285, 0),
)
ROUND_TRIPS_S: Mapping[frozenset[str], float] = {
    frozenset((a, b)): (_PUBLISHED_MS[i][j] + _PUBLISHED_MS[j][i]) / 2000
    for i, a in enumerate(REGIONS)
    for j, b in enumerate(REGIONS)
    if i < j
}
