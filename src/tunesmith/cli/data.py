"""`tunesmith data`: the data room's commands."""

from cyclopts import App

from tunesmith.cli import data_check, data_convert, data_preview

app = App(name="data", help="Look at data, clean it, split it, convert it, format it, and make it.")
for command in (data_check.check, data_convert.convert, data_preview.preview):
    app.command(command)
