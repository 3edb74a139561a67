"""Rewrites of exported graphs: equal graphs of other operators, for what a target's hardware has.

A rewrite is a function of a graph and options. It changes the graph in place and returns how many
places it changed. export/rewrites/apply.py has the table of them and the targets that they are for.
"""
