"""What may be wrong with pairs that strangers collected, one module a check.

Each pair is decoded once and leaves a row of numbers (`measuring`); checks judge these rows.
"""
