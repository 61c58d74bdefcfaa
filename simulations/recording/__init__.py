"""Write, follow and read run directories, and compare the runs of a sweep."""
