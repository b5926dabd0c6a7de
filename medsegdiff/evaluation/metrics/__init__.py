"""Figures of sets of pictures: functions of arrays, which know nothing of the page."""
