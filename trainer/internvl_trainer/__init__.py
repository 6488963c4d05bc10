"""The data plane: runs one attempt of one stage of an InternVL-2.5 training."""

import warnings

# megatron.core warns at import of every accelerator library that is absent, a dozen lines whatever one imports of it.
# Which of them are used is decided, and said, by model/attention.
warnings.filterwarnings("ignore", message=r".*\b(is|are) not installed\b", module=r"megatron\.core\.")
