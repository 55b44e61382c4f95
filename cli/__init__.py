"""The `meshlog` command: one module a verb under `cli.verbs`, imported only when it is called.

`kubernetes`, grpc and the protobufs take most of a second to import, so no module that every verb passes through
may import them; verbs import what they need.
"""
