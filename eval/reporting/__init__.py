"""What was measured, drawn and told: curves, tables, reports, comparisons and model cards."""
