"""Starts a user's script as `python script.py` would, with `cloche.core.Run` at hand.

    python bootstrap.py -- script.py [argument ...]

Works in any Python from 3.8 on. An interpreter compiles the file that it is started with each time,
and that would cost a short script a tenth of its life; what it imports is compiled once.
"""

# the interpreter puts this file's folder first on the path; the script's own takes its place there
from cloche_script import main  # type: ignore[import-not-found]

if __name__ == "__main__":
    main()
