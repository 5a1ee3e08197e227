"""Exact answers for the tests: enumeration, expectations of estimators, dynamic programming."""
