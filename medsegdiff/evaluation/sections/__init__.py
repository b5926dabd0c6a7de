"""One section of the report a file; each has a `METRIC` that `medsegdiff.evaluation.context.all_metrics` finds."""
