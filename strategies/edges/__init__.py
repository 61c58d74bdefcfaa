"""Edges between clients and server: groups of clients that merge among themselves for some rounds.

Hierarchical federated averaging (HierFAVG, Liu et al., 2020, arXiv:1905.06641) with any rule at the
edges and at the root. An ``Edge`` runs an ``HQDEStrategy`` over its group, and is a client of the
root's ``HQDEStrategy``; an ``EdgeGrid`` drives all edges of a process.
"""
