"""Fine-tune large language models on an ordinary machine, and prove the result."""

import os
import sys
from typing import Any

__version__ = "0.1.0"

# Where the package `kernels` is installed, transformers and bitsandbytes fetch compiled code from the hub
# with it and run it, some of it as soon as they are imported. So it counts as not installed here, unless the
# program that imports Tunesmith uses it itself.
_modules: Any = sys.modules
_modules.setdefault("kernels", None)

# torch asks the system for pages of 2 MB under tensors of that size and more, where the system gives them to
# who asks. A training on CPU takes 6 % less time and 14 % less memory by it. Read by torch at its first
# tensor, so it says nothing where a program made one before it imported Tunesmith.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
