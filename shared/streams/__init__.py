"""The streams of one mesh: what each holds and promises (`specs`), and how they are opened (`jetstream`, `memory`).

`shared.eventlog` knows one stream and nothing of its content; `shared.records` knows the content. They meet here.
"""
