"""One interval, one cluster bootstrap, comparisons of sets and of runs, ROC: numbers in, numbers out."""
