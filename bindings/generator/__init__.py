"""One module for each kind of output; spec.py reads, the others write."""
