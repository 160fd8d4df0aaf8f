"""Where a queued step stands, and which limit keeps it from a slot, in words for people."""

from __future__ import annotations

from fusemld.engine.admission import Admission, SlotKey


def place(admission: Admission, key: SlotKey) -> str | None:
    """How many steps are before it and what holds it up; None if it is not queued. Counts all that is queued."""
    position = admission.position(key)
    if position is None:
        return None
    before = "next in line" if position == 0 else f"{position} step{'' if position == 1 else 's'} before it"
    return "; ".join(text for text in (before, holdup(admission, key)) if text)


def holdup(admission: Admission, key: SlotKey) -> str:
    """The limit with its setting (see `fusemld.daemon.settings.LimitSettings`); empty if it is the line alone."""
    found = admission.holdup(key)
    if found is None:
        return ""
    setting, whose = "limits.steps", ""
    if found.workflow is not None:
        setting, whose = "limits.steps_per_workflow", f" of workflow {found.workflow}"
    if found.held > found.limit:
        taken = f"{found.held} slots{whose} are taken"
    elif found.limit == 1:
        taken = f"the only slot{whose} is taken"
    else:
        taken = f"all {found.held} slots{whose} are taken"
    return f"{taken} ({setting} = {found.limit})"
