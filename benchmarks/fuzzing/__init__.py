"""Hostile input for all that reads files of strangers: what makes it, and what watches over it."""
