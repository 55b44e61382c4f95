"""The MeshConfig as its readers use it: new pods, certificates, images; and what none of them can use.

Services meet in the log, so what a service would refuse when it reads a MeshConfig has to be known where one is
stored, checked or migrated. Therefore each part's reader is here, and there is no second one.
"""
