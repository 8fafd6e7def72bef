"""The real-or-fake study of the paper (section 3.1): a page for participants, and its score."""
