"""Fine-tune large language models on an ordinary machine, and prove the result."""

import os
import sys
from typing import Any

from tunesmith.processor import is_intel

__version__ = "0.1.0"

# Where the package `kernels` is installed, transformers and bitsandbytes fetch compiled code from the hub
# with it and run it, some of it as soon as they are imported. So it counts as not installed here, unless the
# program that imports Tunesmith uses it itself.
_modules: Any = sys.modules
_modules.setdefault("kernels", None)

# torch asks the system for pages of 2 MB under large tensors, where the system gives them to who asks. On an
# Intel Xeon a training took 5 % less time and 14 % less memory so; on AMD's it won nothing, or lost 13 %.
# Read by torch at its first tensor, so it says nothing where a program made one before it came here.
if is_intel():
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
