"""One module a command: ``configure`` declares its options, ``run`` does it and returns the exit status.

They are imported one at a time, when asked for, so that the command starts fast.
"""
