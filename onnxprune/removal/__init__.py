"""What the passes that cut units share: the choice of units, the refit of what remains, and the edit itself."""

from onnxprune.removal.edits import apply_removals, dimension_of, removal_edit, shapes_edit
from onnxprune.removal.options import Removal

__all__ = ["Removal", "apply_removals", "dimension_of", "removal_edit", "shapes_edit"]
