"""The ingestor: appends the objects of one cluster (lists and watches) to the log as events, each once and in order.

`core` is pure: which request the API server gets next (`reflector`), which fields matter (`projection`), what changed
against the log (`log_diff`), which objects belong together (`change_set_assembler`). `kubernetes` lists and watches the
API server and writes statuses, `log` appends events, `status` derives the conditions of policy objects. `app` composes
them.
"""
