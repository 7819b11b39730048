"""Seconds, joules and grams of CO2e of a piece of work, and how each figure was obtained."""
