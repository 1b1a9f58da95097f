"""One-shot tuning of inflated models, their edits, and the covariate shift of their features."""
