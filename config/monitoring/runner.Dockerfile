# The runner from this checkout, with the versions of requirements.lock. Built by compose.yaml.
FROM python:3.11.13-slim-bookworm

WORKDIR /v13
COPY requirements.lock pyproject.toml README.md ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock
COPY src src
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

# The exporter must be reachable through the shared network stack only, so it stays on 127.0.0.1.
RUN useradd --create-home runner && mkdir -p runs && chown runner runs
USER runner
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["v13", "run", "--root", "/v13"]
