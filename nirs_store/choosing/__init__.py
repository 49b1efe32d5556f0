"""Choose among chains: rules for the number of components, paired comparison, coded checks."""

from nirs_store.choosing.components import ComponentChoice, suggest_components
from nirs_store.choosing.rules import select_components

__all__ = ["ComponentChoice", "select_components", "suggest_components"]
