"""What measures a package on data, by kind: the entry points of `haechi.evaluators`. No torch."""
