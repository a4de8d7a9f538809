"""usage: suite.py MODULE...   runs the cases of these modules, in order"""

import importlib
import sys

import harness

if __name__ == "__main__":
    for name in sys.argv[1:]:
        importlib.import_module(name)
    harness.main()
