"""A tiny video world with ground truth: scenes, exact edits, an oracle, models trained on it."""
