"""The shipped graphs, one function each; `make.py` writes them."""
