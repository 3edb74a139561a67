"""From a recipe to a finished run directory, and from a run to upscaled photographs."""
