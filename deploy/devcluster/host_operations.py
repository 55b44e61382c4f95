"""Operations of the control socket: run a command in a pod, signal a container, read a log."""

from __future__ import annotations

import base64
from typing import Any

from deploy.devcluster.kubelet import Kubelet
from deploy.devcluster.kubelet.container.log_files import LogRange
from deploy.devcluster.launch.control import ControlConnection, ControlServer
from deploy.devcluster.runtime import Process


def register(control: ControlServer, kubelet: Kubelet) -> None:
    """Register `exec`, `kill` and `logs` for the pods of this kubelet."""

    async def start(request: dict[str, Any], standard: tuple[int, int, int]) -> Process:
        return await kubelet.execute(
            request["namespace"],
            request["pod"],
            request.get("container") or "",
            request["argv"],
            environment=request.get("environment") or {},
            standard=standard,
        )

    async def kill(conversation: ControlConnection) -> None:
        request = conversation.request
        number = int(request.get("signal", 9))
        kubelet.signal(request["namespace"], request["pod"], request.get("container") or "", number)
        await conversation.send({"signalled": True})

    async def logs(conversation: ControlConnection) -> None:
        request = conversation.request
        pieces = kubelet.log(
            request["namespace"],
            request["pod"],
            request.get("container") or "",
            wanted=LogRange(tail=request.get("tail")),
            follow=bool(request.get("follow")),
        )
        async for piece in pieces:
            for begin in range(0, len(piece), _PIECE):
                part = piece[begin : begin + _PIECE]
                await conversation.send({"log": base64.b64encode(part).decode()})

    control.register_exec(start)
    control.register("kill", kill)
    control.register("logs", logs)


_PIECE = 16 * 1024
"""Bytes of a log in one message; messages of the control socket are bounded."""
