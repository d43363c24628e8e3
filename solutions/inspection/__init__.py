"""Manufacturing inspection: learn from good parts, decide OK / REVIEW / NG."""
