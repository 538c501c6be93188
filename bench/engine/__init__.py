"""Processes, rounds and statistics of a measurement: one protocol for everything that is measured."""
