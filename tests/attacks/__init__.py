"""Attacks on a running mesh, as rows of `make attack`; each is bounded in count and time, and stays in the mesh.

How to add a row: a module of this package that holds `ATTACKS: tuple[Attack, ...]` is found by itself (`rows`).

    from tests.attacks.attack import Attack, Cost
    from tests.attacks.scene import STRANGER, AttackScene

    async def silent(scene: AttackScene) -> Cost:
        return await scene.program(STRANGER, "tests.attacks.floods", "silent", scene.edge, "--seconds", "8")

    ATTACKS = (Attack(name="edge-silent", what="2,000 connections that stay silent", run=silent),)

`run` attacks and returns what that cost the attacker. It takes back what it made (objects, connections). It raises
`AssertionError` with a sentence if the attack got what it wanted (a foreign answer, a written record). Everything
else is measured beside it, the same for every row: requests between members, time until a member's new stream is
served, time until a pod is admitted, arrival of changes, memory and restarts of every service and sidecar.

A program that runs inside a pod is a module started by `scene.program`; it prints `Cost` as JSON in its last line
(`attack.told`). Functions that tests call without a mesh live in the same modules.
"""
