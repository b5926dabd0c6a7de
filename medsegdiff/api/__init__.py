"""What `import medsegdiff` offers: generators, data sets, segmenters and the phases, for Python programs."""
