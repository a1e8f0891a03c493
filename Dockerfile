# The Grand Challenge algorithm: one case from /input to /output. do_build.sh builds it. Two targets
# for the platform's two APIs, which differ in the last lines alone.
# The base brings torch for CUDA 12.6, which the drivers of the platform's T4 cards can run.
ARG BASE_IMAGE=pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime
FROM ${BASE_IMAGE} AS algorithm

# Over the base's own packages, torch among them. The base may lack ensurepip and forbid pip outside
# of a virtual environment (PEP 668): its own pip, seen through --system-site-packages, installs here.
# readlink, since a venv made through a link in another folder does not find the standard library.
RUN "$(readlink -f "$(command -v python3)")" -m venv --system-site-packages --without-pip /opt/venv
ENV PATH=/opt/venv/bin:$PATH

WORKDIR /opt/app
COPY requirements.txt ./
RUN python -m pip install --no-cache-dir -r requirements.txt

# The platform may choose any uid and leave the home folder unwritable: caches go to /tmp, and the
# byte code is made now. The allocator keeps what it has instead of faulting pages in for each batch.
ENV PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/cache/matplotlib \
    MALLOC_MMAP_MAX_=0 \
    MALLOC_TRIM_THRESHOLD_=17179869184 \
    MALLOC_ARENA_MAX=1 \
    OMP_WAIT_POLICY=PASSIVE
RUN useradd --no-log-init --create-home --uid 10001 user
COPY inference.py ./
COPY model/ model/
COPY resources/ resources/
RUN python -m compileall -q --invalidation-mode unchecked-hash model

USER 10001:10001
ENTRYPOINT ["python", "/opt/app/inference.py"]

FROM algorithm AS invoke
LABEL org.grand-challenge.api-method="invoke"
EXPOSE 4743
CMD ["serve"]

# The last target is the default.
FROM algorithm AS exec
LABEL org.grand-challenge.api-method="exec"
