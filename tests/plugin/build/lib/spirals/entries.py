"""What the package offers: entries alone, so that listing them imports nothing heavy."""

from experiments.inference.registry import MethodEntry
from guides.registry import FamilyEntry
from zoo.registry import DataEntry, ModelEntry

MODEL = ModelEntry("spirals.parts:Spiral", "a spiral with noise", "table", "spirals", "continuous", "rows", False)
DATA = DataEntry("spirals.parts:spirals", "a spiral, 200 × 2", ("table",))
GUIDE = FamilyEntry("spirals.parts:Wide", "independent normals, twice as wide at the start", "continuous", quick=False)
METHOD = MethodEntry("spirals.parts:PriorMatch", "moments of the prior, in no step")
