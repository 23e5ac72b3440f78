"""The output of analyze.py: tables, verdicts, figures and a page."""
