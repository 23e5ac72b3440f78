"""What analyze.py writes: tables, verdicts, figures and a page."""
