"""Starting and ending the embedded mesh: what `meshlog up`, `down`, `status` and `exec` call, on the host's side.

    from deploy.devcluster.launch.mesh_process import start, down, status
    from deploy.devcluster.launch.control import ask, exec_in_pod
    from deploy.devcluster.launch.handover import Handover      # inside, in the devcluster's process

Nothing is imported here: pid 1 and the launcher live as long as the mesh and stay small.
"""
