"""Pipeline templates: configurations worth using again, one JSON file each, inside a workspace.

They lie in ``library/templates/<category>/<name>.json``. A template holds no code and no fitted
object, only a configuration (see :mod:`nirs_store.estimators`) and what is known about it.
"""

from __future__ import annotations

from nirs_store.estimators import build_cv, build_estimator
from nirs_store.library.pipeline_library import PipelineLibrary, PipelineSource

__all__ = ["PipelineLibrary", "PipelineSource", "build_cv", "build_estimator"]
