"""Small data files for tests of what reads, cleans, splits and converts them, and their commands typed."""

import json

from cyclopts import App

from tunesmith.data.read import read_records


def file_of(folder, values, name="rows.jsonl"):
    """A JSON lines file of these records."""
    path = folder / name
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def values_of(path):
    """The file's records."""
    return [record.value for record in read_records(path)]


def typed(command, name, capsys):
    """A function that runs a command through a command line of its own; gives stdout and stderr."""
    app = App(result_action="return_value")
    app.command(command, name=name)

    def call(*arguments):
        app([name, *map(str, arguments)], exit_on_error=False, print_error=False)
        return capsys.readouterr()

    return call
