"""What a run leaves behind: ledger, tables, report, quality flags, tracking."""
