"""Damaged and hostile files of every kind that the tool reads: one line and exit code 2, or a sound result.

Cases are numbered, and a number makes the same case for ever: what a test names can be run again. The quick suite runs
the first of them and all that ever failed; `make nightly` runs thousands.
"""
