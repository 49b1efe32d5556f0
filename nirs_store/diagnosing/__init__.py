"""Look inside one chain: scores, residuals, leverage, influence, importance of channels."""

from nirs_store.diagnosing.coefficients import coefficients
from nirs_store.diagnosing.diagnose import Diagnosis, diagnose, transform
from nirs_store.diagnosing.permutation import PermutationTest, permutation_test

__all__ = ["Diagnosis", "PermutationTest", "coefficients", "diagnose", "permutation_test", "transform"]
