"""`tunesmith data`: the data room's commands."""

from cyclopts import App

from tunesmith.cli import (
    data_check,
    data_clean,
    data_convert,
    data_format,
    data_generate,
    data_preview,
    data_split,
)

app = App(name="data", help="Look at data, clean it, split it, convert it, format it, and make it.")
for command in (data_check.check, data_preview.preview, data_clean.clean, data_split.split):
    app.command(command)
app.command(data_convert.convert)
app.command(data_format.format_, name="format")
app.command(data_generate.generate)
