"""Commands that measure; each prints a table and says how it was made."""
