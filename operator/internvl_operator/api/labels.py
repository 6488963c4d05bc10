"""Labels of everything that the operator creates: by these it finds its children again."""

RUN_UID = "training.internvl.dev/run"
"""UID of the InternVLTraining: what the operator selects by. A name can be used again, a UID cannot."""

RUN_NAME = "training.internvl.dev/name"
"""Name of the InternVLTraining: what people select by."""

STAGE = "training.internvl.dev/stage"
ATTEMPT = "training.internvl.dev/attempt"

INDEX = "training.internvl.dev/index"
"""Of an index Job and its pods, in place of stage and attempt: the Job's name."""

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "internvl-operator"
