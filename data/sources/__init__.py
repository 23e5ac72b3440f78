"""Acquire data sets: find, download, verify, unpack, store. Only prepare.py uses this package."""
