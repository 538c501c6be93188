"""From published statements and records to verdicts: what is stated, what is known here, and whether they agree."""
