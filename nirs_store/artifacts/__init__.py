"""The artifact layer: fitted objects by their place in a pipeline, their dependencies, and cleaning up."""
