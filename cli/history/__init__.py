"""What the log can be asked: any past version, what differs, why, what if. Works on a live log and on a file of one."""
