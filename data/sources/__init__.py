"""Acquires data sets, once a machine: find, download, verify, unpack, store. Only prepare.py uses it."""
