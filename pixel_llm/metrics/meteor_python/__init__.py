"""METEOR 1.5 for English in Python, for machines without Java: the counts equal those of the authors' program."""
