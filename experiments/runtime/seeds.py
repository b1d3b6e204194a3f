"""Seeds by purpose: two purposes of one run must not draw the same noise."""

from __future__ import annotations

from enum import IntEnum

_STEP = 15485863


class Stream(IntEnum):
    """The offset that each purpose adds to a run's seed. A fit takes the seed itself."""

    EVALUATION = 104729  # not the draws that a guide was trained on
    PARTITION = _STEP
    PILOT = 2 * _STEP
    CHAINS = 3 * _STEP
    MORE_DRAWS = 4 * _STEP
    POSTERIOR = 5 * _STEP
    IMPORTANCE = 6 * _STEP
    CONTAINMENT = 8 * _STEP
    SIMULATION = 7 * _STEP  # its noise is what made the exact latents: no guide may be scored on it
    RESTARTS = 9 * _STEP
    RESOLUTION = 10 * _STEP
    GROUPS = 11 * _STEP  # of a lower bound: one seed a group, from here on
    BLOCKS = 12 * _STEP
    SPLIT = 13 * _STEP
    PARAMETERS = 14 * _STEP
    PRIOR = 15 * _STEP
