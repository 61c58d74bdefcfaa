"""Aggregation beyond one process, on Ray: MapReduce executor, tree of tasks, weight store.

Every part uses the Ray that its process is connected to; none starts or ends one.
"""
