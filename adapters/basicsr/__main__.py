"""`python -m smoothsr.adapters.basicsr test|train [--import PACKAGE] -opt FILE.yml [--force_yml
...]`: see docs/basicsr.md.
"""

import runpy

# As the main module itself, since a spawned worker imports the main module first of all, but never
# one called __main__.
if __name__ == "__main__":
    runpy.run_module("smoothsr.adapters.basicsr.pipeline", run_name="__main__", alter_sys=True)
