"""What analyze.py writes: tables, verdicts, pictures, a page."""
