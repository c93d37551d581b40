"""`tunesmith data`: the data room's commands."""

from cyclopts import App

from tunesmith.cli import data_check

app = App(name="data", help="Look at data, clean it, split it, convert it, format it, and make it.")
app.command(data_check.check)
