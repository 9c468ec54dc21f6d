# The server, `zipenhancer serve`, and the page, `zipenhancer demo`; on a CPU. docs/deployment.md says how to run it.
FROM python:3.11 AS build
COPY . /src
RUN pip wheel --no-deps -w /wheels /src

FROM python:3.11-slim

# torch's build for CPUs; for a GPU the index of your CUDA, such as https://download.pytorch.org/whl/cu128
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 NUMBA_CACHE_DIR=/tmp/numba GRADIO_ANALYTICS_ENABLED=False

WORKDIR /src
COPY constraints.txt .
RUN pip install -c constraints.txt torch --index-url ${TORCH_INDEX} --extra-index-url https://pypi.org/simple
# Compiled above: this image has no C compiler
COPY --from=build /wheels /wheels
RUN pip install -c constraints.txt "$(ls /wheels/*.whl)[serve,demo]"

RUN useradd --create-home zipenhancer
USER zipenhancer
WORKDIR /home/zipenhancer
RUN mkdir models
# Fails here rather than at the first request
RUN zipenhancer info tiny && ! zipenhancer info tiny | grep "not compiled"

EXPOSE 8000 7860
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=5)"]
CMD ["zipenhancer", "serve", "--host", "0.0.0.0", "--port", "8000"]
