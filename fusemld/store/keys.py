"""What is stored under which key in the table `meta`."""

INSTANCE = "instance"
"""The identity of this state folder."""
COPIED_AT = "copied_at"
"""Of a copy: when it was made, in seconds since the epoch."""
RESTORATION = "restoration"
"""The latest `Restoration` as JSON, if there ever was one."""
