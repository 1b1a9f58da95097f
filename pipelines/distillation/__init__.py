"""Score distillation: the loop, its predictions and random draws, and a file for each term."""
