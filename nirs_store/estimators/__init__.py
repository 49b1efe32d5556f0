"""Pipeline configurations: plain JSON values in, scikit-learn estimators out, and back.

A configuration names classes and parameters, never code::

    {"steps": [{"class": "chemotools.scatter.StandardNormalVariate"},
               {"class": "sklearn.cross_decomposition.PLSRegression", "params": {"n_components": 10}}],
     "cv": {"class": "sklearn.model_selection.KFold", "params": {"n_splits": 5}}}

Parameter values are JSON values. What JSON cannot say is a dict of one special key: ``class`` (an
estimator inside an estimator), ``tuple``, ``array`` (numpy), ``items`` (a dict whose keys are not text,
as pairs) and ``float`` ("nan", "inf", "-inf").

A configuration may come from elsewhere, so only classes *defined* in an allowed package are
built: a name that merely leads through one (``sklearn.some_module.os.system``) is refused, and so
is ``memory``, which names a folder of pickles.
"""

from __future__ import annotations

from nirs_store.estimators.build import ALLOWED_PACKAGES, build_cv, build_estimator
from nirs_store.estimators.describe import class_path, describe_cv, describe_estimator

__all__ = [
    "ALLOWED_PACKAGES",
    "build_cv",
    "build_estimator",
    "class_path",
    "describe_cv",
    "describe_estimator",
]
