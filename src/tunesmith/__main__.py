"""`python -m tunesmith`."""

import os
import sys

if __name__ == "__main__":  # worker processes import this module under another name
    # Python looks for modules in the working folder first, and what lies there may come with the data.
    if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
        del sys.path[0]
    from tunesmith.cli.main import program

    program()
