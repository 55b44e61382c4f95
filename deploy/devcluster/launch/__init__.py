"""Starts and ends the embedded mesh: `meshlog up`, `down`, `status` and `exec` call these modules on the host.

    from deploy.devcluster.launch.mesh_process import start, down, status
    from deploy.devcluster.launch.control import ask, exec_in_pod
    from deploy.devcluster.launch.handover import Handover      # in the devcluster's process

This module imports nothing, to keep pid 1 and the launcher small: they run as long as the mesh.
"""
