"""The pure heart: `start`, `advance(run, event)`, `resume`; no async, no I/O, no clock."""

from fusemld.engine.advance import advance as advance
from fusemld.engine.begin import deadlines as deadlines
from fusemld.engine.begin import resume as resume
from fusemld.engine.begin import start as start
from fusemld.engine.draft import Advance as Advance
from fusemld.engine.plan import Defaults as Defaults
from fusemld.engine.plan import Plan as Plan
from fusemld.engine.plan import make_plan as make_plan
