"""Records: one measured figure each, their files, and which of them may be compared."""
