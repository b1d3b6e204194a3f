"""The ladder: rungs from the cheapest guide to the dearest, the climb, and the recommendation that it ends with."""
