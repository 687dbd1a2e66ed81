"""Names of what a demo writes."""

REPORT, RESULTS = "report.md", "results.json"
"""What it found, for people and for programs."""
