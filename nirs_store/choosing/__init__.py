"""Choose among chains: rules for the number of components, paired comparison, coded checks."""
