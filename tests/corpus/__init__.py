"""What released builds wrote, kept as data: every later build must read it as it was meant.

`events-v1.jsonl`: an event of each kind and operation at schema 1, one a line, the bytes as they stand in the log.
A released file is never written again; a new schema gets a file of its own, by `python -m tests.corpus.recording`.
"""
