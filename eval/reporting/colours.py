"""The colours of curves, as hexadecimal RGB."""

OURS = "#c2410c"
THEIRS = "#64748b"
INK = "#1f2937"
GRID = "#e5e7eb"
SPINES = "#9ca3af"
LEADER = "#cbd5e1"
