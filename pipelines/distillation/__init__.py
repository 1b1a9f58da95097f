"""Score distillation: the loop, what it predicts and draws, and one file for each term."""
