"""Look inside one chain: scores, residuals, leverage, influence, importance of channels."""

from nirs_store.diagnosing.diagnose import Diagnosis, diagnose, transform

__all__ = ["Diagnosis", "diagnose", "transform"]
