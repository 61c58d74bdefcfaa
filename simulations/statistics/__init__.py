"""Statistics of a sweep: samples over the seeds, paired comparisons, mean ranks over conditions.

The tests and intervals are those of ``scipy.stats``; Holm's step-down correction is a few lines.
"""
