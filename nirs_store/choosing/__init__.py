"""Choose among chains: rules for the number of components, paired comparison, coded checks."""

from nirs_store.choosing.components import ComponentChoice, suggest_components
from nirs_store.choosing.pairs import PairedComparison, compare_errors
from nirs_store.choosing.review import CODES, Finding, Review, review
from nirs_store.choosing.rules import Rule, select_components

__all__ = [
    "CODES",
    "ComponentChoice",
    "Finding",
    "PairedComparison",
    "Review",
    "Rule",
    "compare_errors",
    "review",
    "select_components",
    "suggest_components",
]
