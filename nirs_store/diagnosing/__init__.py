"""Look inside one chain: scores, residuals, leverage, influence, importance of channels."""
