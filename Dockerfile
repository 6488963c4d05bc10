# The two images of the project. Packages are installed from the locked, hashed constraints and from nothing else.
#
#   docker build --target operator -t internvl-operator .
#   docker build --target trainer  -t internvl-trainer  .
#
# Any Debian-like image with a Python 3.12 as `python` serves as base; pin it by digest where builds must repeat
# exactly. For GPUs, TRAINER_BASE_IMAGE may be an image with the driver's user-space libraries; torch from PyPI brings
# CUDA itself.
#
# Attention kernels (docs/reference/attention.md) are built per GPU, CUDA and torch, so no lock file can name them.
# ATTENTION_WHEELS_IMAGE may be an image of yours whose folder /wheels/attention has wheels of any of flash-attn,
# flash_attn_3 and transformer-engine, built for the torch of constraints/trainer.txt, and of what they need besides
# (einops). Without one the trainer uses torch's own kernels.
ARG BASE_IMAGE=python:3.12-slim-bookworm
ARG TRAINER_BASE_IMAGE=${BASE_IMAGE}
ARG ATTENTION_WHEELS_IMAGE=${BASE_IMAGE}

# ---- the project as a wheel -----------------------------------------------------------------------------------------
FROM ${BASE_IMAGE} AS wheel
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY constraints/build.txt constraints/
RUN python -m pip install --require-hashes --no-deps --only-binary=:all: -r constraints/build.txt
COPY pyproject.toml README.md ./
COPY operator operator
COPY trainer trainer
COPY cli cli
RUN python -m pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels .

# ---- the operator's packages: a folder that moves into the final image without pip or any tool -------------------------
FROM ${BASE_IMAGE} AS operator-packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv --without-pip /opt/internvl
COPY constraints/operator.txt constraints/
RUN python -m pip --python /opt/internvl install --require-hashes --no-deps --only-binary=:all: -r constraints/operator.txt
COPY --from=wheel /wheels /wheels
RUN python -m pip --python /opt/internvl install --no-deps --no-index /wheels/*.whl

# ---- attention kernels, where an image with them is given --------------------------------------------------------------
FROM ${ATTENTION_WHEELS_IMAGE} AS attention-wheels
RUN mkdir -p /wheels/attention

# ---- the trainer's packages -------------------------------------------------------------------------------------------
FROM ${TRAINER_BASE_IMAGE} AS trainer-packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv --without-pip /opt/internvl
COPY constraints/trainer.txt constraints/
RUN python -m pip --python /opt/internvl install --require-hashes --no-deps --only-binary=:all: -r constraints/trainer.txt
COPY --from=attention-wheels /wheels/attention /wheels/attention
RUN find /wheels/attention -name '*.whl' -exec python -m pip --python /opt/internvl install --no-deps --no-index {} +
COPY --from=wheel /wheels /wheels
RUN python -m pip --python /opt/internvl install --no-deps --no-index /wheels/*.whl

# ---- docker build --target trainer ------------------------------------------------------------------------------------
FROM ${TRAINER_BASE_IMAGE} AS trainer
COPY --from=trainer-packages /opt/internvl /opt/internvl
# A uid without a name makes torch fail as it looks for its cache folder, so the user has one, and folders it may write.
RUN echo 'internvl:x:65532:65532::/tmp:/usr/sbin/nologin' >> /etc/passwd
ENV PATH=/opt/internvl/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    USER=internvl HOME=/tmp TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor TRITON_CACHE_DIR=/tmp/triton
USER 65532:65532
ENTRYPOINT ["python", "-m", "internvl_trainer.launch"]

# ---- docker build --target operator (also what a build without a target makes) ------------------------------------------
FROM ${BASE_IMAGE} AS operator
COPY --from=operator-packages /opt/internvl /opt/internvl
ENV PATH=/opt/internvl/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
ENTRYPOINT ["python", "-m", "internvl_operator.main"]
