"""Measuring: cost, speed, memory and the environment they were measured in. Nothing is imported here."""
