"""How data sets are acquired, once a machine: found, downloaded, verified, unpacked, stored. Only prepare.py uses it."""
